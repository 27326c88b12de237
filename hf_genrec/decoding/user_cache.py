"""Encoded histories kept between requests: one more click extends them instead of encoding everything again."""

import threading
from collections import OrderedDict

import torch

from ..catalogue.request_checks import checked_number, shown
from ..catalogue.weights_mark import WeightsCopy, weights_mark
from .beam_decoder import BeamDecoder


def check_user_cache(user_cache, whole: bool = False) -> None:
    """
    Args:
        whole: whether the model reads histories as a whole.

    Raises:
        ValueError: for what is neither a cache of such a model, of this code or of a saved model's, nor `None`.
    """
    is_cache = hasattr(user_cache, "known") and hasattr(user_cache, "start")
    if user_cache is not None and not (is_cache and hasattr(user_cache, "encoding") == whole):
        raise ValueError(f"user_cache={shown(user_cache)}: give one that model.user_cache() has made, or None.")


class UserCache:
    """
    Keys and values of histories that one model has encoded, least recently used out first.

    A history is found by its own codes: whoever comes back with the same history, or with some items more, needs the
    new codes only. Its entry then makes room for that of the longer history. A history that has outgrown `max_history`
    begins with another item than before and is encoded anew: what its items have read is no longer in it.

    Several threads may share one. When the model's weights have changed, or it is asked under another `autocast` or
    another precision of products, everything is forgotten. What is changed past torch, through `weight.data` or a
    `numpy()` view, is seen in every number of models of up to `WHOLE` weights (see [`WeightsCopy`]); of larger ones
    call [`clear`] after such a change. Hooks and settings that change what the same weights compute are not seen.

    Args:
        max_bytes: what the numbers of all entries together may take. What finds an entry and its objects come on top,
            some 700 bytes each.

    Attributes:
        num_bytes (`int`): what the numbers take now.
        hits, misses (`int`): prompts that began with a known history, and those that did not.

    Raises:
        ValueError: for a `max_bytes` that is no number, 0 or more.
    """

    def __init__(self, max_bytes: int = 2**30):
        self.max_bytes = checked_number("max_bytes", max_bytes)
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget everything, the model too."""
        with self._lock:
            self._entries: OrderedDict[bytes, torch.Tensor] = OrderedDict()
            self._model: torch.nn.Module | None = None
            self._mark: list[tuple] | None = None
            self._weights: WeightsCopy | None = None
            self.num_bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        """Histories held."""
        return len(self._entries)

    def known(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_levels: int) -> list[int]:
        """How many tokens of each prompt, left-padded and with its answer token at the end, need no encoding."""
        found = []
        for ids, mask in zip(input_ids.cpu(), attention_mask.cpu(), strict=True):
            history = ids[mask.bool()][:-1].numpy()
            lengths = range(len(history), 0, -num_levels)
            with self._lock:
                found.append(next((n for n in lengths if history[:n].tobytes() in self._entries), 0))
        return found

    def start(self, decoder: BeamDecoder, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        [`BeamDecoder.start`] that encodes only what is new, and keeps it.

        Args:
            input_ids, attention_mask: (B, T) left-padded prompts, by whole items, with the answer token at their end.

        Raises:
            ValueError: if the entries are another model's.
        """
        histories = [ids[mask.bool()][:-1] for ids, mask in zip(input_ids, attention_mask, strict=True)]
        keys = [history.cpu().numpy().tobytes() for history in histories]
        with self._lock:
            self._belongs_to(decoder.model, self._mark_of(decoder.model, input_ids.device.type))
            entries_then = self._entries
            known = self.known(input_ids, attention_mask, decoder.num_steps + 1)
            self.hits += sum(n > 0 for n in known)
            self.misses += sum(n == 0 for n in known)
            found = []  # entries are never written to: another thread may drop one, and we go on with it
            for key, history, n in zip(keys, histories, known, strict=True):
                known_key = key[: n * history.element_size()]
                found.append(self._entries[known_key] if n else None)
                if n:
                    self._entries.move_to_end(known_key)

        # [padding, known codes | padding, new codes, answer token]
        past, new = max(known), max(len(h) - n for h, n in zip(histories, known, strict=True)) + 1
        ids = torch.zeros(len(input_ids), past + new, dtype=input_ids.dtype, device=input_ids.device)
        mask = torch.zeros_like(ids)
        ids[:, -1], mask[:, -1] = input_ids[:, -1], 1
        prefix = None
        for row, (history, n) in enumerate(zip(histories, known, strict=True)):
            begin = past + new - 1 - (len(history) - n)
            ids[row, past - n : past], ids[row, begin:-1] = history[:n], history[n:]
            mask[row, past - n : past], mask[row, begin:-1] = 1, 1
            entry = found[row]
            if entry is not None:
                if prefix is None:
                    layers, kinds, heads, _, head_dim = entry.shape
                    prefix = entry.new_zeros(layers, kinds, len(ids), heads, past, head_dim)
                prefix[:, :, row, :, past - n :] = entry

        states = decoder.start(ids, mask, prefix)
        with self._lock:
            if self._entries is entries_then:  # else another thread has found other weights, or cleared
                self._keep(decoder, mask, keys, known)
        return states

    @staticmethod
    def _mark_of(model: torch.nn.Module, device: str) -> list[tuple]:
        """What the numbers of an entry depend on, beside what was read."""
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        return [*weights_mark(model), (autocast, torch.get_float32_matmul_precision())]

    def _belongs_to(self, model: torch.nn.Module, mark: list[tuple]) -> None:
        """Forget the entries if they are of other weights; of another model they are refused."""
        if self._model is not None and self._model is not model:
            raise ValueError("The user cache holds histories of another model: give each model its own.")
        if self._weights is None or self._mark != mark or not self._weights.is_of(model):
            self._forget()
            self._weights = WeightsCopy(model)
        self._model, self._mark = model, mark

    def _forget(self) -> None:
        self._entries, self.num_bytes = OrderedDict(), 0

    def _keep(self, decoder: BeamDecoder, mask: torch.Tensor, keys: list[bytes], known: list[int]) -> None:
        length = mask.shape[1] - 1  # the slots of the history come first; the answer token's follow
        for row, (key, n) in enumerate(zip(keys, known, strict=True)):
            if not key or key in self._entries:
                continue
            slots = mask[row, :length].nonzero()[:, 0]
            # (layers, 2, heads, tokens, head_dim), or records (layers, 1, 1, tokens, R)
            entry = torch.stack([layer.kept(row, slots) for layer in decoder.layers])
            shorter = key[: n * len(key) // len(slots)]  # bytes of the known part
            if n and shorter in self._entries and entry.nbytes <= self.max_bytes:
                self._drop(shorter)
            self._add(key, entry)

    def _add(self, key: bytes, entry: torch.Tensor) -> None:
        """Keep an entry, for which the least recently used ones make room, if it fits at all."""
        if entry.nbytes > self.max_bytes:
            return
        while self.num_bytes + entry.nbytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[key] = entry
        self.num_bytes += entry.nbytes

    def _drop(self, key: bytes) -> None:
        self.num_bytes -= self._entries.pop(key).nbytes
