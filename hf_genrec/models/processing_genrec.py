"""Item ids <-> token ids: the processor of every generative recommender, with its catalogue, titles and trie."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file, logging

from .beam_search import constrained_beam_search
from .catalogue import CatalogueProcessor, load_tensors
from .item_trie import ItemTrie, TrieLogitsProcessor

logger = logging.get_logger(__name__)

ANSWER_TOKEN = "|start_of_answer|"
TRIE_FILE = "item_trie.safetensors"


def code_token(level: int, code: int) -> str:
    """The token of code `code` of level `level` (from 0): `<a_12>`, `<b_7>`, ..."""
    return f"<{chr(ord('a') + level)}_{code}>"


class GenRecProcessor(CatalogueProcessor):
    """
    Turns histories of item ids into prompts of codes, and generated codes back into items.

    Args:
        tokenizer: a tokenizer that holds the tokens of all codes and `|start_of_answer|`.
        codebook_sizes (`list[int]`): codes per level, L numbers.
        max_history (`int`): the newest items of a history that are read; older ones are cut off.

    The catalogue is attached with [`set_catalogue`] and is saved and loaded with the processor.

    Example:

    ```python
    >>> processor = AutoProcessor.from_pretrained("runs/care-ml-100k/model", trust_remote_code=True)
    >>> inputs = processor(histories=[["50", "172", "181"]], return_tensors="pt")
    ```
    """

    def __init__(self, tokenizer, codebook_sizes: Sequence[int] = (), max_history: int = 50):
        super().__init__(tokenizer)
        self.codebook_sizes = list(codebook_sizes)
        self.max_history = max_history
        vocabulary = tokenizer.get_vocab()
        try:
            self.answer_token_id = vocabulary[ANSWER_TOKEN]
            # Looked up, not computed: published checkpoints keep their own order of tokens.
            self.code_token_ids = [
                np.array([vocabulary[code_token(level, code)] for code in range(size)])
                for level, size in enumerate(self.codebook_sizes)
            ]
        except KeyError as error:
            raise ValueError(
                f"The tokenizer has no token {error}: build it for codebook_sizes={self.codebook_sizes}."
            ) from error

    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type, pretrained_model_name_or_path, subfolder="", **kwargs):
        # tokenizer.json says it all; AutoTokenizer would ask for trust in the model's code before it reads it.
        kwargs.pop("trust_remote_code", None)
        return PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)

    @property
    def num_levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.codebook_sizes)

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

    def _check_and_attach(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None, popularity):
        popularity = self._checked_popularity(item_ids, titles, popularity)
        codes = np.asarray(codes, dtype=np.int64)
        if codes.shape != (len(item_ids), self.num_levels):
            raise ValueError(
                f"codes have shape {codes.shape}, expected ({len(item_ids)}, {self.num_levels}): one row of codes per "
                f"item."
            )
        bad_rows, bad_levels = np.nonzero((codes < 0) | (codes >= np.array(self.codebook_sizes)))
        if len(bad_rows):
            row, level = bad_rows[0], bad_levels[0]
            raise ValueError(
                f"Item {item_ids[row]!r}: code {codes[row, level]} of level {level} is outside its codebook of "
                f"{self.codebook_sizes[level]} ({len(bad_rows)} such codes)."
            )
        self._attach_items(item_ids, titles, popularity)
        self._attach_codes(codes)

    def _attach_codes(self, codes: np.ndarray):
        self.codes = codes
        # (items, L) token ids of the catalogue
        self.token_ids = np.stack([table[codes[:, level]] for level, table in enumerate(self.code_token_ids)], axis=1)

    def add_items(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None = None) -> "GenRecProcessor":
        """
        New items, with codes from the item tokenizer, enter the catalogue and can be recommended without training.

        Raises:
            ValueError: as [`set_catalogue`].
        """
        self._require_catalogue()
        all_titles = None
        if self.titles is not None or titles is not None:
            all_titles = [*(self.titles or self.item_ids), *(titles or item_ids)]
        before = len(self.item_ids)
        self._check_and_attach(
            [*self.item_ids, *item_ids],
            np.concatenate([self.codes, np.asarray(codes, dtype=np.int64).reshape(-1, self.num_levels)]),
            all_titles,
            np.concatenate([self.popularity, np.zeros(len(item_ids), dtype=np.int64)]),
        )
        # Popularity 0 and the largest rows: last in their leaves, where `insert` puts them.
        self.trie = self.trie.insert(self.token_ids[before:], np.arange(before, len(self.item_ids)))
        return self

    # ---- prompts ----

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """
        Prompts of histories given as catalogue rows, oldest first: codes of the newest `max_history` items, then the
        answer token.

        Returns:
            `input_ids` and `attention_mask`, (B, S) int64, padded on the left by whole items.
        """
        longest = max((len(history) for history in histories), default=0)
        if longest > self.max_history:
            logger.warning_once(
                f"Histories longer than {self.max_history} items are cut to their newest {self.max_history}."
            )
        histories = [np.asarray(history, dtype=np.int64)[-self.max_history :] for history in histories]
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
        return TrieLogitsProcessor(self._restricted_trie(candidates), self.answer_token_id)

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
        return constrained_beam_search(self._restricted_trie(candidates))

    def batch_decode_items(self, sequences: torch.Tensor) -> list[str | None]:
        """
        Item ids of generated sequences (n, S + L); `None` where the codes after the answer token are no item's
        (possible only without the trie). Of items that share their codes, the most popular one.
        """
        self._require_catalogue()
        sequences = torch.as_tensor(sequences).cpu()
        is_answer = sequences == self.answer_token_id
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
        self._save_items(save_directory, codes=self.codes)
        save_file(
            {name: tensor.contiguous() for name, tensor in self.trie.state_dict().items()},
            os.path.join(save_directory, TRIE_FILE),
        )

    def _load_catalogue(self, pretrained_model_name_or_path, **place):
        self._attach_codes(self._load_items(pretrained_model_name_or_path, **place)["codes"])
        trie_path = cached_file(pretrained_model_name_or_path, TRIE_FILE, **place)
        self.trie = ItemTrie.from_state_dict(load_tensors(trie_path))


GenRecProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["GenRecProcessor"]
