"""REG4Rec's decoder over growing paths of codes, with the keys and values of what it has read."""

from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache

from ...decoding.code_set_encoding import CodeSetEncoding


class PathDecoder:
    """
    Decoder states of growing paths, as many for each user. The users' histories are encoded before, and their keys and
    values are made once for all paths.

    Args:
        model ([`Reg4RecForConditionalGeneration`])
        encoding: the histories of B users.
    """

    def __init__(self, model, encoding: CodeSetEncoding):
        self.model = model
        self.encoding = encoding
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.num_users = len(encoding.last_hidden_state)
        self.width = 1
        self.tokens_per_code = 2 if model.config.code_reading == "set" else 1  # that the decoder reads

    def start(self) -> torch.Tensor:
        """(B, 1, d), the states after the start token."""
        return self._decode(None, self.encoding, self.cache)

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor | None = None) -> torch.Tensor:
        """
        Append a code to each path.

        Args:
            tokens: (B, W)
            parents (*optional*): (B, W), the paths of the step before that they continue; by default each its own.

        Returns:
            (B, W, d)
        """
        if parents is not None:
            first_row = torch.arange(self.num_users, device=tokens.device)[:, None] * self.width
            self.cache.self_attention_cache.batch_select_indices((first_row + parents).flatten())
            self.width = tokens.shape[1]
        return self._decode(tokens.reshape(-1, 1), self.encoding, self.cache).view(*tokens.shape, -1)

    def replace(self, users: torch.Tensor, paths: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """
        Give some paths another newest code.

        Args:
            users, paths, tokens: (n,)

        Returns:
            (n, d)
        """
        rows = users * self.width + paths
        own: Any = self.cache.self_attention_cache.layers
        cross: Any = self.cache.cross_attention_cache.layers
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        newest = -self.tokens_per_code
        for index, (path, history) in enumerate(zip(own, cross, strict=True)):
            cache.self_attention_cache.update(path.keys[rows, :, :newest], path.values[rows, :, :newest], index)
            cache.cross_attention_cache.update(history.keys[users], history.values[users], index)
            cache.is_updated[index] = True
        states = self._decode(tokens[:, None], self.encoding.of_users(users), cache)
        replaced: Any = cache.self_attention_cache.layers
        for path, new in zip(own, replaced, strict=True):
            path.keys[rows, :, newest:], path.values[rows, :, newest:] = (
                new.keys[:, :, newest:],
                new.values[:, :, newest:],
            )
        return states.squeeze(1)

    def _decode(self, ids: torch.Tensor | None, encoding: CodeSetEncoding, cache: EncoderDecoderCache) -> torch.Tensor:
        outputs = self.model.model(decoder_input_ids=ids, encoder_outputs=encoding, cache=cache)
        return outputs.last_hidden_state
