"""The items of the backbones that read text: their embeddings are set, and new items enter without training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...catalogue.item_vectors import checked_vectors, without_rows
from .rearec_layers import TextItems


class TextVectors:
    """Placed before a model class whose `base_model` has `items`."""

    config: Any
    base_model: Any

    def set_item_vectors(self, vectors: np.ndarray | torch.Tensor) -> None:
        """
        Give the items of a text backbone their embeddings; they are saved with the weights.

        Args:
            vectors: (N, D), in catalogue order.

        Raises:
            ValueError: for a backbone without text, another shape, or vectors with NaN or infinity.
        """
        items = self._text_items("use unisrec or morec")
        items.vectors.copy_(checked_vectors(vectors, len(items.vectors), items.vectors))

    def _text_items(self, remedy: str) -> TextItems:
        items = self.base_model.items
        if not isinstance(items, TextItems):
            raise ValueError(f"backbone={self.config.backbone!r} reads no text: {remedy}.")
        return items


class NewTextItems(TextVectors):
    """Placed before the class that recommends: its catalogue grows."""

    _require_processor: Any

    def require_growing(self) -> TextItems:
        """
        Raises:
            ValueError: for a backbone that learns a vector per item.
        """
        return self._text_items("it learns a vector per item, which a new item does not have; train again")

    def add_items(self, item_ids: Sequence[str], vectors, titles: Sequence[str] | None = None):
        """
        New items, with embeddings made as those of the catalogue were, enter its end and can be recommended without
        training.

        Args:
            item_ids: M ids that the catalogue does not have.
            vectors: (M, D) embeddings by the same model, or the same principal components of them.
            titles (*optional*): M titles for people to read.

        Returns:
            the model.

        Raises:
            ValueError: for a backbone that learns a vector per item, an id that is there already, lengths that differ,
            or vectors with NaN or infinity. Nothing is changed then.
        """
        items = self.require_growing()
        new = checked_vectors(vectors, len(item_ids), items.vectors)
        self._require_processor().add_items(item_ids, titles)
        items.vectors = torch.cat([items.vectors, new])
        self.config.num_items = len(items.vectors)
        return self

    def remove_items(self, item_ids: Sequence[str]):
        """
        These items leave the catalogue, and their embeddings the model; the rows of those behind them move up.

        Returns:
            the model.

        Raises:
            ValueError: for a backbone that learns a vector per item, an item that is not in the catalogue, or if none
            would be left. Nothing is changed then.
        """
        items, processor = self.require_growing(), self._require_processor()
        gone = processor.rows(item_ids, where="item_ids")
        processor.remove_items(item_ids)
        items.vectors = without_rows(items.vectors, gone)
        self.config.num_items = len(items.vectors)
        return self
