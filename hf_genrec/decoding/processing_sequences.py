"""Item ids <-> token ids: the processor of every generative recommender, with its catalogue, titles and trie."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import save_file

from ..catalogue.catalogue_files import save_items
from ..catalogue.item_trie import ItemTrie
from ..catalogue.processing_codes import CodeProcessor
from ..catalogue.saved_files import load_tensors, naming, saved_file
from .beam_search import constrained_beam_search
from .trie_logits_processor import TrieLogitsProcessor

TRIE_FILE = "item_trie.safetensors"


class GenRecProcessor(CodeProcessor):
    """
    Turns histories of item ids into prompts of codes, and generated codes back into items.

    Args:
        tokenizer: a tokenizer that holds the tokens of all codes and `|start_of_answer|`.
        codebook_sizes (`list[int]`): codes per level, L numbers.
        max_history (`int`): the newest items of a history that are read; older ones are cut off.

    The catalogue is attached with [`set_catalogue`] and is saved and loaded with the processor.

    Example:

    ```python
    >>> processor = AutoProcessor.from_pretrained("runs/mine/model", trust_remote_code=True)
    >>> inputs = processor(histories=[["50", "172", "181"]], return_tensors="pt")
    ```
    """

    # ---- catalogue ----

    def set_catalogue(
        self,
        item_ids: Sequence[str],
        codes,
        titles: Sequence[str] | None = None,
        popularity=None,
    ) -> "GenRecProcessor":
        """
        Attach the items that can be recommended.

        Args:
            item_ids: N different ids.
            codes: (N, L) semantic IDs. Items may share theirs; then the more popular one is listed first.
            titles (*optional*): N titles for people to read.
            popularity (*optional*): (N,) training interactions of each item.

        Raises:
            ValueError: for an empty catalogue, an id that stands twice, lengths that differ, or a code outside its
                codebook.
        """
        self._check_and_attach(item_ids, codes, titles, popularity)
        self.trie = ItemTrie.from_token_ids(self.token_ids, popularity=self.popularity)
        return self

    def add_items(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None = None) -> "GenRecProcessor":
        """
        New items, with codes from the item tokenizer, enter the catalogue and can be recommended without training.

        Raises:
            ValueError: as [`set_catalogue`].
        """
        before = self._with_new_items(item_ids, codes, titles)
        # Popularity 0 and the largest rows: last in their leaves, where `insert` puts them.
        self.trie = self.trie.insert(self.token_ids[before:], np.arange(before, len(self.item_ids)))
        return self

    def remove_items(self, item_ids: Sequence[str]) -> "GenRecProcessor":
        """
        These items leave the catalogue; the rows of those behind them move up.

        Raises:
            ValueError: for an item that is not in the catalogue, or if none would be left. Nothing is changed then.
        """
        kept, ids, titles = self._without(item_ids)
        return self.set_catalogue(ids, self.codes[kept], titles, self.popularity[kept])

    # ---- prompts ----

    @property
    def tokens_per_item(self) -> int:
        """By how many tokens an item of the history makes a prompt longer."""
        return self.num_levels

    def is_end_of_history(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Which tokens (boolean, of any shape) a prompt may end with: what follows the last one of a row is written."""
        return token_ids == self.answer_token_id

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """
        Prompts of histories given as catalogue rows, oldest first: codes of the newest `max_history` items, then the
        answer token.

        Returns:
            `input_ids` and `attention_mask`, (B, S) int64, padded on the left by whole items.
        """
        histories = self._newest(histories)
        width = max((len(history) for history in histories), default=0) * self.num_levels + 1
        pad = self.tokenizer.pad_token_id
        input_ids = np.full((len(histories), width), 0 if pad is None else pad, dtype=np.int64)
        attention_mask = np.zeros((len(histories), width), dtype=np.int64)
        for line, history in enumerate(histories):
            codes = self.token_ids[history].reshape(-1)
            input_ids[line, width - 1 - len(codes) : width - 1] = codes
            attention_mask[line, width - 1 - len(codes) :] = 1
        input_ids[:, -1] = self.answer_token_id
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}

    # ---- answers ----

    def trie_logits_processor(self, candidates: Sequence[str] | None = None) -> TrieLogitsProcessor:
        """
        The constraint for `model.generate`, over the whole catalogue or over `candidates` (item ids).

        Raises:
            ValueError: for an unknown or no candidate.
        """
        return TrieLogitsProcessor(self._restricted_trie(candidates), self.answer_token_id, self.is_end_of_history)

    def _restricted_trie(self, candidates: Sequence[str] | None) -> ItemTrie:
        self._require_catalogue()
        return self.trie if candidates is None else self.trie.restrict(self.rows(candidates, where="candidates"))

    def constrained_beam_search(self, candidates: Sequence[str] | None = None) -> Callable:
        """
        The fast form of the same constraint, `model.generate(**inputs, custom_generate=...)`: beam search that encodes
        each prompt once and considers legal codes only.

        Raises:
            ValueError: for an unknown or no candidate.
        """
        return constrained_beam_search(self._restricted_trie(candidates), self.answer_token_id, self.is_end_of_history)

    def _decoded(self, sequences: torch.Tensor) -> list[str | None]:
        """Of the codes after the history."""
        is_answer = self.is_end_of_history(sequences)
        first_code = is_answer.shape[1] - is_answer.flip(-1).int().argmax(-1)
        columns = first_code[:, None] + torch.arange(self.num_levels)
        complete = is_answer.any(-1) & (columns[:, -1] < sequences.shape[1])
        codes = sequences.gather(1, columns.clamp(max=sequences.shape[1] - 1))
        leaves = self.trie.walk(codes).masked_fill(~complete, -1)
        rows = self.trie.items[self.trie.child_starts[-1][leaves.clamp(min=0)]]
        return [
            self.item_ids[row] if leaf >= 0 else None for leaf, row in zip(leaves.tolist(), rows.tolist(), strict=True)
        ]

    # ---- files ----

    def _save_catalogue(self, save_directory):
        save_items(save_directory, self.item_ids, self.titles, codes=self.codes, popularity=self.popularity)
        save_file(
            {name: tensor.contiguous() for name, tensor in self.trie.state_dict().items()},
            os.path.join(save_directory, TRIE_FILE),
        )

    def _load_catalogue(self, pretrained_model_name_or_path, **place):
        self._load_codes(pretrained_model_name_or_path, **place)
        path = str(saved_file(pretrained_model_name_or_path, TRIE_FILE, **place))
        tensors, _ = load_tensors(path)
        with naming(path):
            self.trie = ItemTrie.from_state_dict(tensors)
            self.trie.require_catalogue(self.token_ids, self.popularity)


GenRecProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["GenRecProcessor"]
