"""Encoded histories of models whose encoder reads a history as a whole, kept between requests for the same history."""

import torch

from .beam_decoder import BeamDecoder
from .history_encoding import HistoryEncoding
from .user_cache import UserCache


class WholeHistoryCache(UserCache):
    """
    [`UserCache`] of an encoder-decoder. An encoder reads a longer history anew, from its first item, so that what is
    kept serves whoever asks again with the history of before.

    What is kept of a history is what the decoder reads: the encoder's states or, with a shared pool, the records of the
    decoder's keys and values.

    Args:
        max_bytes: what all entries together may take.
    """

    def clear(self) -> None:
        with self._lock:
            super().clear()
            self._trie = None

    def known(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_levels: int, **reading) -> list[int]:
        keys = _keys(attention_mask, input_ids=input_ids, **reading)
        with self._lock:
            return [int(mask.sum()) * (key in self._entries) for key, mask in zip(keys, attention_mask, strict=True)]

    def start(
        self, decoder: BeamDecoder, input_ids: torch.Tensor, attention_mask: torch.Tensor, **reading
    ) -> torch.Tensor:
        encoding = self.encoding(decoder.model, input_ids, attention_mask, **reading)
        return decoder.start(input_ids, encoder_outputs=encoding)  # type: ignore[call-arg]

    def encoding(self, model, input_ids: torch.Tensor, attention_mask: torch.Tensor, **reading) -> HistoryEncoding:
        """
        What the model has made of histories, or makes now.

        Args:
            input_ids, attention_mask, reading: what its encoder reads.

        Raises:
            ValueError: if the entries are another model's.
        """
        keys = _keys(attention_mask, input_ids=input_ids, **reading)
        with self._lock:
            self._belongs_to(model, self._mark_of(model, input_ids.device.type))
            entries_then = self._entries
            found = [self._entries.get(key) for key in keys]
            for key, entry in zip(keys, found, strict=True):
                if entry is not None:
                    self._entries.move_to_end(key)
            hits = sum(entry is not None for entry in found)
            self.hits, self.misses = self.hits + hits, self.misses + len(found) - hits
        kept = [entry for entry in found if entry is not None]
        if len(kept) == len(found):
            return HistoryEncoding.joined(kept)
        encoding = model.encode_histories(input_ids=input_ids, attention_mask=attention_mask, **reading)
        with self._lock:
            if self._entries is entries_then:  # else another thread has found other weights, or cleared
                for row, key in enumerate(keys):
                    if key not in self._entries:
                        self._add(key, encoding.kept(row))
        return encoding

    def _belongs_to(self, model, mark: list[tuple]) -> None:
        """What an item is read as may depend on the catalogue, too."""
        super()._belongs_to(model, mark)
        trie = None if model.processor is None else model.processor.trie
        if self._trie is not trie:
            self._forget()
        self._trie = trie


def _keys(attention_mask: torch.Tensor, **read: torch.Tensor) -> list[bytes]:
    """What is read of each row: of (B, S) without padding, of other tensors whole."""
    masks = attention_mask.bool().cpu()
    tensors = [tensor.cpu() for tensor in read.values()]
    padded = [tensor.shape == masks.shape for tensor in tensors]
    keys = []
    for row, mask in enumerate(masks):
        parts = (tensor[row][mask] if cut else tensor[row] for tensor, cut in zip(tensors, padded, strict=True))
        keys.append(b"".join(part.numpy().tobytes() for part in parts))
    return keys
