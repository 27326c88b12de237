"""Encoded histories kept between requests: one more click extends them instead of encoding everything again."""

from collections import OrderedDict

import torch

from .beam_decoder import BeamDecoder


class UserCache:
    """
    Keys and values of histories that one model has encoded, least recently used out first.

    A history is found by its own codes: whoever comes back with the same history, or with some items more, needs the
    new codes only. Its entry then makes room for that of the longer history. A history that has outgrown `max_history`
    begins with another item than before and is encoded anew: what its items have read is no longer in it.

    Args:
        max_bytes: what all entries together may take.

    Attributes:
        num_bytes (`int`): what they take now.
        hits, misses (`int`): prompts that began with a known history, and those that did not.
    """

    def __init__(self, max_bytes: int = 2**30):
        self.max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget everything: do this when the model's weights have changed."""
        self._entries: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._model = None
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
        if self._model is not None and self._model is not decoder.model:
            raise ValueError("The user cache holds histories of another model: give each model its own.")
        self._model = decoder.model
        num_levels = decoder.num_steps + 1
        known = self.known(input_ids, attention_mask, num_levels)
        histories = [ids[mask.bool()][:-1] for ids, mask in zip(input_ids, attention_mask, strict=True)]
        keys = [history.cpu().numpy().tobytes() for history in histories]
        self.hits += sum(n > 0 for n in known)
        self.misses += sum(n == 0 for n in known)

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
            if n:
                known_key = keys[row][: n * history.element_size()]
                entry = self._entries[known_key]
                self._entries.move_to_end(known_key)
                if prefix is None:
                    layers, _, heads, _, head_dim = entry.shape
                    prefix = entry.new_zeros(layers, 2, len(ids), heads, past, head_dim)
                prefix[:, :, row, :, past - n :] = entry

        states = decoder.start(ids, mask, prefix)
        self._keep(decoder, mask, keys, known)
        return states

    def _keep(self, decoder: BeamDecoder, mask: torch.Tensor, keys: list[bytes], known: list[int]) -> None:
        length = mask.shape[1] - 1  # the slots of the history come first; the answer token's follow
        for row, (key, n) in enumerate(zip(keys, known, strict=True)):
            if not key or key in self._entries:
                continue
            slots = mask[row, :length].nonzero()[:, 0]
            kept = [buffer[row][:, slots] for layer in decoder.layers for buffer in layer.buffers]
            entry = torch.stack(kept).unflatten(0, (-1, 2))  # (layers, 2, heads, tokens, head_dim)
            shorter = key[: n * len(key) // len(slots)]  # bytes of the known part
            if n and shorter in self._entries:
                self._drop(shorter)
            self._entries[key] = entry
            self.num_bytes += entry.nbytes
        while self.num_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self.num_bytes -= self._entries.pop(key).nbytes
