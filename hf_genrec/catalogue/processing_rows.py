"""Item ids <-> catalogue rows: the processor of recommenders that score every item, with its catalogue."""

from collections.abc import Sequence

import numpy as np
import torch

from .catalogue import CatalogueProcessor, logger
from .catalogue_files import checked_popularity
from .saved_files import require_number


class ItemProcessor(CatalogueProcessor):
    """
    Turns histories of item ids into catalogue rows.

    Args:
        max_history (`int`): the newest items of a history that are read; older ones are cut off.

    The catalogue is attached with [`set_catalogue`] and is saved and loaded with the processor.

    Example:

    ```python
    >>> processor = AutoProcessor.from_pretrained("runs/mine/model", trust_remote_code=True)
    >>> inputs = processor(histories=[["B004756YJA", "B004ZT0SSG"]], return_tensors="pt")
    ```
    """

    def __init__(self, max_history: int = 50):
        super().__init__()
        require_number("max_history", max_history, 1)
        self.max_history = max_history

    def set_catalogue(
        self, item_ids: Sequence[str], titles: Sequence[str] | None = None, popularity=None
    ) -> "ItemProcessor":
        """
        Attach the items that can be recommended.

        Args:
            item_ids: N different ids.
            titles (*optional*): N titles for people to read.
            popularity (*optional*): (N,) training interactions of each item.

        Raises:
            ValueError: for an empty catalogue, an id that stands twice or is no string, a title that is none, lengths
                that differ, or a negative popularity.
        """
        self._attach_items(item_ids, titles, checked_popularity(item_ids, titles, popularity))
        return self

    def add_items(self, item_ids: Sequence[str], titles: Sequence[str] | None = None) -> "ItemProcessor":
        """
        New items, popularity 0, at the catalogue's end. The model needs vectors of them: where it can take any, its own
        `add_items` does both.

        Raises:
            ValueError: as [`set_catalogue`]; nothing is changed then.
        """
        self._require_catalogue()
        all_titles = None
        if self.titles is not None or titles is not None:
            all_titles = [*(self.titles or self.item_ids), *(titles or item_ids)]
        popularity = np.concatenate([self.popularity, np.zeros(len(item_ids), dtype=np.int64)])
        return self.set_catalogue([*self.item_ids, *item_ids], all_titles, popularity)

    def remove_items(self, item_ids: Sequence[str]) -> "ItemProcessor":
        """
        These items leave the catalogue; the rows of those behind them move up. So must the model's: its own
        `remove_items` does both.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        kept, ids, titles = self._without(item_ids)
        return self.set_catalogue(ids, titles, self.popularity[kept])

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """
        Inputs of histories given as catalogue rows, oldest first: the newest `max_history` items.

        Returns:
            `input_ids` and `attention_mask`, (B, T) int64, padded on the left with PAD = N. T is the longest history's
            length, and at least 1.
        """
        self._require_catalogue()
        longest = max((len(history) for history in histories), default=0)
        if longest > self.max_history:
            logger.warning_once(
                f"Histories longer than {self.max_history} items are cut to their newest {self.max_history}."
            )
        width = max(1, min(longest, self.max_history))
        input_ids = np.full((len(histories), width), len(self.item_ids), dtype=np.int64)
        attention_mask = np.zeros((len(histories), width), dtype=np.int64)
        for line, history in enumerate(histories):
            newest = np.asarray(history, dtype=np.int64)[-self.max_history :]
            input_ids[line, width - len(newest) :] = newest
            attention_mask[line, width - len(newest) :] = 1
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


ItemProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["ItemProcessor"]
