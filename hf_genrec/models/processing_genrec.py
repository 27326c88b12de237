"""Item ids <-> token ids: the processor of every generative recommender, with its catalogue, titles and trie."""

import json
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils import cached_file, logging

from .beam_search import constrained_beam_search
from .item_trie import ItemTrie, TrieLogitsProcessor

logger = logging.get_logger(__name__)

ANSWER_TOKEN = "|start_of_answer|"
CATALOGUE_FILE = "catalogue.json"
CODES_FILE = "catalogue.safetensors"
TRIE_FILE = "item_trie.safetensors"


def code_token(level: int, code: int) -> str:
    """The token of code `code` of level `level` (from 0): `<a_12>`, `<b_7>`, ..."""
    return f"<{chr(ord('a') + level)}_{code}>"


class GenRecProcessor(ProcessorMixin):
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
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"]

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
        codes = np.asarray(codes, dtype=np.int64)
        if not len(item_ids):
            raise ValueError("The catalogue is empty: give at least one item.")
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
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        if len(row_of) != len(item_ids):
            twice = next(item_id for row, item_id in enumerate(item_ids) if row_of[item_id] != row)
            raise ValueError(f"Item {twice!r} stands twice in the catalogue: item ids must differ.")
        if titles is not None and len(titles) != len(item_ids):
            raise ValueError(f"{len(titles)} titles for {len(item_ids)} items: give one per item.")
        popularity = (
            np.zeros(len(codes), dtype=np.int64) if popularity is None else np.asarray(popularity, dtype=np.int64)
        )
        self._attach(list(item_ids), None if titles is None else list(titles), codes, popularity)

    def _attach(self, item_ids: list[str], titles: list[str] | None, codes: np.ndarray, popularity: np.ndarray):
        self.item_ids, self.titles, self.codes, self.popularity = item_ids, titles, codes, popularity
        self._row_of = {item_id: row for row, item_id in enumerate(item_ids)}
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

    def _require_catalogue(self):
        if not hasattr(self, "item_ids"):
            raise ValueError("The processor has no catalogue: call set_catalogue(item_ids, codes) first.")

    def title(self, item_id: str) -> str:
        """The item's title, or its id where the catalogue has none."""
        title = self.titles[self._row_of[item_id]] if self.titles is not None else None
        return item_id if title is None else title

    def rows(self, item_ids: Sequence[str], unknown: str = "raise", where: str = "the history") -> np.ndarray:
        """
        Catalogue rows of item ids, (n,) int64.

        Args:
            unknown: `"raise"`, or `"skip"` to leave unknown ids out and say how many.

        Raises:
            ValueError: for an id that is not in the catalogue.
        """
        self._require_catalogue()
        if unknown not in ("raise", "skip"):
            raise ValueError(f"unknown={unknown!r}: use 'raise' or 'skip'.")
        rows = [self._row_of.get(item_id, -1) for item_id in item_ids]
        missing = [item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0]
        if missing and unknown == "raise":
            hint = " (item ids are strings)" if not isinstance(missing[0], str) else ""
            raise ValueError(
                f"Item {missing[0]!r} in {where} is not in the catalogue{hint}; unknown='skip' leaves such items out."
            )
        if missing:
            logger.warning(f"{len(missing)} unknown item(s) left out of {where}, the first is {missing[0]!r}.")
        return np.array([row for row in rows if row >= 0], dtype=np.int64)

    # ---- prompts ----

    @staticmethod
    def as_batch(histories) -> tuple[list[list[str]], bool]:
        """A batch of histories, and whether one single history was given (a flat list of ids, or an empty one)."""
        histories = list(histories)
        single = not histories or isinstance(histories[0], str) or not isinstance(histories[0], Sequence | np.ndarray)
        return ([histories] if single else [list(history) for history in histories]), single

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

    def __call__(
        self, histories=None, return_tensors: str | None = None, unknown: str = "raise", **kwargs
    ) -> BatchFeature:
        """
        Args:
            histories: a history (item ids, oldest first) or a batch of them; an empty one is allowed.
            return_tensors: `"pt"`, `"np"`, or `None` for lists.
            unknown: what to do with ids that are not in the catalogue: `"raise"` or `"skip"`.

        Returns:
            `input_ids` and `attention_mask`, (B, S).
        """
        if histories is None or kwargs:
            raise ValueError(f"Call the processor with histories=[[item ids]] (got other arguments: {sorted(kwargs)}).")
        batch, _ = self.as_batch(histories)
        prompts = self.prompts([self.rows(history, unknown) for history in batch])
        if return_tensors is None:
            return BatchFeature({name: tensor.tolist() for name, tensor in prompts.items()})
        return BatchFeature({name: tensor.numpy() for name, tensor in prompts.items()}, tensor_type=return_tensors)

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

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Tokenizer, settings, catalogue and trie; with `push_to_hub=True` uploaded as well."""
        self._require_catalogue()
        files = super().save_pretrained(save_directory)
        with open(os.path.join(save_directory, CATALOGUE_FILE), "w", encoding="utf-8") as file:
            json.dump({"item_ids": self.item_ids, "titles": self.titles}, file, ensure_ascii=False)
        save_file(
            {"codes": torch.from_numpy(self.codes), "popularity": torch.from_numpy(self.popularity)},
            os.path.join(save_directory, CODES_FILE),
        )
        save_file(
            {name: tensor.contiguous() for name, tensor in self.trie.state_dict().items()},
            os.path.join(save_directory, TRIE_FILE),
        )
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """
        Raises:
            OSError: if a file of the catalogue is missing.
            ValueError: if one is damaged.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        places = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        place = {name: kwargs[name] for name in places if kwargs.get(name) is not None}
        catalogue_path, codes_path, trie_path = (
            cached_file(pretrained_model_name_or_path, name, **place)
            for name in (CATALOGUE_FILE, CODES_FILE, TRIE_FILE)
        )
        try:
            with open(catalogue_path, encoding="utf-8") as file:
                catalogue = json.load(file)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{catalogue_path} is damaged ({error}): save or download the processor again.") from error
        tensors = load_tensors(codes_path)
        codes, popularity = tensors["codes"].numpy(), tensors["popularity"].numpy()
        processor._attach(catalogue["item_ids"], catalogue["titles"], codes, popularity)
        processor.trie = ItemTrie.from_state_dict(load_tensors(trie_path))
        return processor


def load_tensors(path: str) -> dict[str, torch.Tensor]:
    """
    A safetensors file.

    Raises:
        ValueError: if it is truncated or damaged, naming it.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): save or download it again.") from error


GenRecProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["GenRecProcessor"]
