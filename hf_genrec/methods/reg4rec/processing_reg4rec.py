"""Item ids <-> sets of token ids: the processor of REG4Rec, with its catalogue, item sets and categories."""

from collections.abc import Sequence

import numpy as np

from ...catalogue.catalogue_files import TENSORS_FILE
from ...catalogue.saved_files import naming, saved_file
from ...decoding.processing_code_sets import CodeSetProcessor

UNKNOWN_CATEGORY = -1


class Reg4RecProcessor(CodeSetProcessor):
    """
    [`CodeSetProcessor`] whose items have categories.

    Args:
        tokenizer, codebook_sizes, max_history: see [`CodeSetProcessor`].
        category_names (`list[str]`): names of the items' categories.

    Attributes:
        categories (`np.ndarray`): (N,) int64, the category of each item, -1 where it is not known.

    Example:

    ```python
    >>> processor = AutoProcessor.from_pretrained("runs/reg4rec-ml-100k/model", trust_remote_code=True)
    >>> inputs = processor(histories=[["50", "172", "181"]], return_tensors="pt")
    ```
    """

    categories: np.ndarray

    def __init__(
        self,
        tokenizer,
        codebook_sizes: Sequence[int] = (),
        max_history: int = 50,
        category_names: Sequence[str] = (),
    ):
        super().__init__(tokenizer, codebook_sizes, max_history)
        if not all(isinstance(name, str) for name in category_names) or isinstance(category_names, str):
            raise ValueError("category_names must be a list of strings.")
        self.category_names = list(category_names)

    # ---- catalogue ----

    def set_catalogue(
        self,
        item_ids: Sequence[str],
        codes,
        titles: Sequence[str] | None = None,
        popularity=None,
        categories=None,
    ) -> "Reg4RecProcessor":
        """
        Attach the items that can be recommended.

        Args:
            item_ids, codes, titles, popularity: see [`CodeSetProcessor.set_catalogue`].
            categories (*optional*): (N,) places in `category_names`, -1 where the category is not known. Only training
                reads them.

        Raises:
            ValueError: as there, or for a category without a name.
        """
        if categories is None:
            categories = np.full(len(item_ids), UNKNOWN_CATEGORY)
        categories = self._checked_categories(item_ids, categories)
        super().set_catalogue(item_ids, codes, titles, popularity)
        self.categories = categories
        return self

    def _checked_categories(self, item_ids: Sequence[str], categories) -> np.ndarray:
        categories = np.asarray(categories, dtype=np.int64)
        if categories.shape != (len(item_ids),):
            raise ValueError(f"categories have shape {categories.shape} for {len(item_ids)} items: give one per item.")
        bad = np.flatnonzero((categories < UNKNOWN_CATEGORY) | (categories >= len(self.category_names)))
        if len(bad):
            raise ValueError(
                f"Item {item_ids[bad[0]]!r}: category {categories[bad[0]]} has no name, category_names has "
                f"{len(self.category_names)}."
            )
        return categories

    def add_items(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None = None) -> "Reg4RecProcessor":
        """
        New items, with codes from the item tokenizer, enter the catalogue and can be recommended without training.
        Their categories are not known.

        Raises:
            ValueError: as [`set_catalogue`].
        """
        super().add_items(item_ids, codes, titles)
        self.categories = np.concatenate([self.categories, np.full(len(item_ids), UNKNOWN_CATEGORY)])
        return self

    def remove_items(self, item_ids: Sequence[str]) -> "Reg4RecProcessor":
        """
        These items leave the catalogue; the rows of those behind them move up.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        kept, ids, titles = self._without(item_ids)
        return self.set_catalogue(ids, self.codes[kept], titles, self.popularity[kept], self.categories[kept])

    # ---- files ----

    def _saved_arrays(self) -> dict[str, np.ndarray]:
        return super()._saved_arrays() | {"categories": self.categories}

    def _load_catalogue(self, pretrained_model_name_or_path, **place):
        arrays = self._load_codes(pretrained_model_name_or_path, ["categories"], **place)
        with naming(saved_file(pretrained_model_name_or_path, TENSORS_FILE, **place)):
            self.categories = self._checked_categories(self.item_ids, arrays["categories"])
        self._load_sets(pretrained_model_name_or_path, **place)


Reg4RecProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["Reg4RecProcessor"]
