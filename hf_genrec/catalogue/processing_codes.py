"""Item ids <-> token ids of their codes: what the processors of all generative recommenders share."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from .catalogue import CatalogueProcessor, logger
from .catalogue_files import TENSORS_FILE, checked_popularity, load_items
from .request_checks import checked_count, shown
from .saved_files import naming, read_json, require_number, saved_file

ANSWER_TOKEN = "|start_of_answer|"
# Settings of a tokenizer that would have it read another file than tokenizer.json.
ELSEWHERE = {"fast_tokenizer_files", "gguf_file", "tokenizer_file", "tokenizer_object", "vocab_file"}


def code_token(level: int, code: int) -> str:
    """The token of code `code` of level (or codebook) `level`, from 0: `<a_12>`, `<b_7>`, ..."""
    return f"<{chr(ord('a') + level)}_{code}>"


class CodeProcessor(CatalogueProcessor):
    """
    A catalogue whose items have codes, and the tokens of these. A subclass keeps an index of them.

    Args:
        tokenizer: a tokenizer that holds the tokens of all codes and `|start_of_answer|`.
        codebook_sizes (`list[int]`): codes per level, L numbers.
        max_history (`int`): the newest items of a history that are read; older ones are cut off.

    Attributes:
        codes (`np.ndarray`): (N, L) int64.
        token_ids (`np.ndarray`): (N, L) int64, the tokens of the codes.
    """

    def __init__(self, tokenizer, codebook_sizes: Sequence[int] = (), max_history: int = 50):
        super().__init__(tokenizer)
        require_number("max_history", max_history, 1)
        for size in codebook_sizes:
            require_number("codebook_sizes", size, 1)
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
        ids = np.concatenate([*self.code_token_ids, [self.answer_token_id]])
        if len(np.unique(ids)) < len(ids):
            raise ValueError("Two codes, or a code and the answer token, are one token: build the tokenizer anew.")

    @classmethod
    def _load_tokenizer(cls, pretrained_model_name_or_path, **place):
        # tokenizer.json says it all; AutoTokenizer would ask for trust in the model's code before it reads it.
        path = saved_file(pretrained_model_name_or_path, "tokenizer.json", **place)
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
            beside = saved_file(pretrained_model_name_or_path, name, required=False, **place)
            if beside is not None:
                with naming(beside):
                    foreign = ELSEWHERE & read_json(beside).keys()
                    if foreign:
                        raise ValueError(f"it names another file by {', '.join(sorted(foreign))}")
        with naming(path):
            return PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **place)

    @property
    def num_levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.codebook_sizes)

    def _check_and_attach(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None, popularity):
        """
        Raises:
            ValueError: for an empty catalogue, an id that stands twice, lengths that differ, or a code outside its
            codebook.
        """
        popularity = checked_popularity(item_ids, titles, popularity)
        codes = self._checked_codes(item_ids, codes)
        self._attach_items(item_ids, titles, popularity)
        self._attach_codes(codes)

    def _checked_codes(self, item_ids: Sequence[str], codes) -> np.ndarray:
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
        return codes

    def _attach_codes(self, codes: np.ndarray):
        self.codes = codes
        self.token_ids = np.stack([table[codes[:, level]] for level, table in enumerate(self.code_token_ids)], axis=1)

    def _load_codes(
        self, pretrained_model_name_or_path, per_item: Sequence[str] = (), **place
    ) -> dict[str, np.ndarray]:
        """
        Attach the saved items and their codes, as [`_check_and_attach`] takes them.

        Returns:
            the saved arrays by name.

        Raises:
            OSError: if a file is missing.
            ValueError: if one is damaged.
        """
        item_ids, titles, arrays = load_items(pretrained_model_name_or_path, place, self.num_levels, per_item)
        with naming(saved_file(pretrained_model_name_or_path, TENSORS_FILE, **place)):
            codes = self._checked_codes(item_ids, arrays["codes"])
        self._attach_items(item_ids, titles, arrays["popularity"])
        self._attach_codes(codes)
        return arrays

    def _newest(self, histories: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Histories cut to their newest `max_history` items; says so once."""
        longest = max((len(history) for history in histories), default=0)
        if longest > self.max_history:
            logger.warning_once(
                f"Histories longer than {self.max_history} items are cut to their newest {self.max_history}."
            )
        return [np.asarray(history, dtype=np.int64)[-self.max_history :] for history in histories]

    # ---- answers ----

    def batch_decode_items(self, sequences, num_return_sequences: int | None = None) -> list:
        """
        Item ids of what `generate` wrote. Of items that share their codes, the most popular one.

        Args:
            sequences: (n, S) token ids.
            num_return_sequences (*optional*): as `generate` was told. Then a list for each history, of its different
                items, best first: without rows that are no item's, and without an item's second row.

        Returns:
            an id per sequence, or lists of them; `None` for a sequence that is no item's (possible without the
            constraint, and for the padding of [`constrained_beam_search`]).

        Raises:
            ValueError: for what are no token ids, or no whole number of histories.
        """
        self._require_catalogue()
        try:
            ids = torch.as_tensor(sequences).cpu()
        except (TypeError, ValueError, RuntimeError):
            ids = torch.empty(0)
        if ids.dim() != 2 or not ids.shape[1] or ids.dtype == torch.bool or ids.is_floating_point():
            raise ValueError(
                f"sequences: {shown(sequences)} is no (n, S) tensor of token ids: give what generate returns, or its "
                f".sequences."
            )
        items = self._decoded(ids.long())
        if num_return_sequences is None:
            return items
        count = checked_count("num_return_sequences", num_return_sequences)
        if len(items) % count:
            raise ValueError(f"{len(items)} sequences are no {count} for each history: give what generate was told.")
        lines = (items[start : start + count] for start in range(0, len(items), count))
        return [[item for item in dict.fromkeys(line) if item is not None] for line in lines]

    def _decoded(self, sequences: torch.Tensor) -> list[str | None]:
        """An item id, or `None`, of each sequence (n, S) int64."""
        raise NotImplementedError

    def _with_new_items(self, item_ids: Sequence[str], codes, titles: Sequence[str] | None) -> int:
        """
        Put new items, popularity 0, at the catalogue's end.

        Returns:
            the items that were there before.

        Raises:
            ValueError: as [`_check_and_attach`].
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
        return before
