"""Item ids <-> sets of token ids: the processor of models whose codes have no order, with catalogue and item sets."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import save_file

from ..catalogue.catalogue_files import save_items
from ..catalogue.item_sets import ItemSets
from ..catalogue.processing_codes import CodeProcessor
from ..catalogue.saved_files import load_tensors, naming, saved_file
from .set_logits_processor import SetLogitsProcessor

SETS_FILE = "item_sets.safetensors"


class CodeSetProcessor(CodeProcessor):
    """
    Turns histories of item ids into rows of codes, and generated codes, in whatever order, back into items.

    Args:
        tokenizer: a tokenizer whose first tokens are all codes, codebook after codebook, then the answer token.
        codebook_sizes (`list[int]`): codes per codebook, M numbers.
        max_history (`int`): the newest items of a history that are read; older ones are cut off.

    The catalogue is attached with [`set_catalogue`] and is saved and loaded with the processor.

    Attributes:
        item_sets ([`ItemSets`]): the catalogue's codes as sets.

    Example:

    ```python
    >>> processor = AutoProcessor.from_pretrained("runs/mine/model", trust_remote_code=True)
    >>> inputs = processor(histories=[["50", "172", "181"]], return_tensors="pt")
    ```
    """

    item_sets: ItemSets

    def __init__(self, tokenizer, codebook_sizes: Sequence[int] = (), max_history: int = 50):
        super().__init__(tokenizer, codebook_sizes, max_history)
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token: use code_tokenizer.")
        expected = np.arange(sum(self.codebook_sizes) + 1)
        if not np.array_equal(np.concatenate([*self.code_token_ids, [self.answer_token_id]]), expected):
            raise ValueError(
                "The tokenizer's first tokens must be the codes, codebook after codebook, and the answer token: use "
                "code_tokenizer."
            )

    # ---- catalogue ----

    def set_catalogue(
        self, item_ids: Sequence[str], codes, titles: Sequence[str] | None = None, popularity=None
    ) -> "CodeSetProcessor":
        """
        Attach the items that can be recommended.

        Args:
            item_ids: N different ids.
            codes: (N, M) codes, column r of codebook r. Items may share theirs; then the more popular one is listed
                first.
            titles (*optional*): N titles for people to read.
            popularity (*optional*): (N,) training interactions of each item.

        Raises:
            ValueError: for an empty catalogue, an id that stands twice, lengths that differ, or a code outside its
                codebook.
        """
        self._check_and_attach(item_ids, codes, titles, popularity)
        self.item_sets = ItemSets.from_token_ids(self.token_ids, self.popularity)
        return self

    def add_items(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None = None) -> "CodeSetProcessor":
        """
        New items, with codes from the item tokenizer, enter the catalogue and can be recommended without training.

        Raises:
            ValueError: as [`set_catalogue`].
        """
        self._with_new_items(item_ids, codes, titles)
        self.item_sets = ItemSets.from_token_ids(self.token_ids, self.popularity)
        return self

    def remove_items(self, item_ids: Sequence[str]) -> "CodeSetProcessor":
        """
        These items leave the catalogue; the rows of those behind them move up.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        kept, ids, titles = self._without(item_ids)
        return self.set_catalogue(ids, self.codes[kept], titles, self.popularity[kept])

    # ---- histories ----

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """
        Inputs of histories given as catalogue rows, oldest first: the codes of the newest `max_history` items.

        Returns:
            `input_ids` and `attention_mask`, (B, T * M) int64, padded on the left by whole items. T is the longest
            history's length, and at least 1.
        """
        histories = self._newest(histories)
        width = max((len(history) for history in histories), default=0) or 1
        input_ids = np.full((len(histories), width, self.num_levels), self.tokenizer.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for line, history in enumerate(histories):
            input_ids[line, width - len(history) :] = self.token_ids[history]
            attention_mask[line, width - len(history) :] = 1
        tensors = {"input_ids": input_ids, "attention_mask": attention_mask}
        return {name: torch.from_numpy(array.reshape(len(histories), -1)) for name, array in tensors.items()}

    # ---- answers ----

    def set_logits_processor(
        self, candidates: Sequence[str] | None = None, order: str = "confidence"
    ) -> SetLogitsProcessor:
        """
        The constraint for `model.generate`, over the whole catalogue or over `candidates` (item ids); `order` is the
        model's `code_order`.

        Raises:
            ValueError: for an unknown or no candidate, or another order.
        """
        self._require_catalogue()
        if candidates is None:
            return SetLogitsProcessor(self.item_sets, order)
        return SetLogitsProcessor(self.item_sets.restrict(self.rows(candidates, where="candidates")), order)

    def _decoded(self, sequences: torch.Tensor) -> list[str | None]:
        """Of the codes after the start token, in any order: several sequences may be one item."""
        codes = sequences[:, 1:]
        if codes.shape[1] != self.num_levels:
            return [None] * len(codes)
        leaves = self.item_sets.walk(codes).first_leaves()
        rows = self.item_sets.items[self.item_sets.item_starts[leaves.clamp(min=0)].long()]
        return [
            self.item_ids[row] if leaf >= 0 else None for leaf, row in zip(leaves.tolist(), rows.tolist(), strict=True)
        ]

    # ---- files ----

    def _saved_arrays(self) -> dict[str, np.ndarray]:
        """By name, what is saved of each item: (N, ...) int64."""
        return {"codes": self.codes, "popularity": self.popularity}

    def _save_catalogue(self, save_directory):
        save_items(save_directory, self.item_ids, self.titles, **self._saved_arrays())
        save_file(
            {name: tensor.contiguous() for name, tensor in self.item_sets.state_dict().items()},
            os.path.join(save_directory, SETS_FILE),
        )

    def _load_catalogue(self, pretrained_model_name_or_path, **place):
        self._load_codes(pretrained_model_name_or_path, **place)
        self._load_sets(pretrained_model_name_or_path, **place)

    def _load_sets(self, pretrained_model_name_or_path, **place):
        """The item sets of the catalogue that is attached."""
        path = str(saved_file(pretrained_model_name_or_path, SETS_FILE, **place))
        tensors, _ = load_tensors(path)
        with naming(path):
            self.item_sets = ItemSets.from_state_dict(tensors)
            self.item_sets.require_catalogue(self.token_ids, self.popularity)


CodeSetProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["CodeSetProcessor"]
