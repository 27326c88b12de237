"""`recommend` and `score_items` of encoder-decoders that write ordered codes."""

from collections.abc import Sequence

import numpy as np
import torch

from ..catalogue.transformers_bridge import CACHE
from .history_encoding import HistoryEncoding
from .recommend_by_trie import GenerativeRecommenderMixin
from .seq2seq_beams import Seq2SeqBeamDecoder
from .whole_history_cache import WholeHistoryCache


class Seq2SeqRecommenderMixin(GenerativeRecommenderMixin):
    """Placed before an encoder-decoder whose decoder starts with the answer token and writes L codes."""

    beam_decoder_class = Seq2SeqBeamDecoder
    reads_whole_histories = True

    def recommend_rows(  # type: ignore[override]
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        num_beams: int | None = None,
        batch_size: int = 64,
        normalize: str = "vocabulary",
        user_cache: WholeHistoryCache | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        By beam search over the trie. A score is the sum of the L log-probabilities over the full vocabulary; with
        `level_heads`, over the codes of each level.

        Args:
            num_beams (*optional*): defaults to `max(2 * k, 20)`.
            batch_size: histories decoded at a time.
            normalize: what a code's probability is relative to: the full `"vocabulary"`, the codes of its `"level"`, or
                those that are `"legal"` behind the codes before it.
            user_cache (*optional*): keeps encoded histories between calls: who asks again with the same history costs
                the decoder alone. A longer history is read anew, from its first item.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.

        Raises:
            ValueError: for a row outside the catalogue, numbers that make no sense, or scores that are NaN.
        """
        return super().recommend_rows(
            histories, k, exclude_seen, candidates, num_beams, batch_size, normalize, user_cache
        )

    @staticmethod
    def user_cache(max_bytes: int = 2**30) -> WholeHistoryCache:
        """An empty store of encoded histories, for `recommend(..., user_cache=...)` of this model."""
        return WholeHistoryCache(max_bytes)

    def encode_histories(self, **inputs: torch.Tensor) -> HistoryEncoding:
        """What the decoder reads of histories, from what the encoder reads."""
        return self.get_encoder()(**inputs)

    @torch.no_grad()
    def _score_leaves(self, inputs: dict[str, torch.Tensor], token_ids: torch.Tensor, chunk_size: int = 512):
        """By teacher forcing: histories are encoded once, and what items read of one is not repeated."""
        token_ids = token_ids.to(inputs["input_ids"].device)
        encoding = self.get_encoder()(**inputs)
        starts, scores = self.decoder_prompts(encoding), []
        for user, start in enumerate(starts.split(1)):
            of_user = type(encoding)(**{name: part[user : user + 1] for name, part in encoding.items()})
            parts = [self._score_chunk(of_user, start, chunk) for chunk in token_ids.split(chunk_size)]
            scores.append(torch.cat(parts))
        return torch.stack(scores)

    def decoder_prompts(self, encoding) -> torch.Tensor:
        """What the decoder reads before the codes of an item, (B, T) token ids for B encoded histories."""
        rows = len(encoding.last_hidden_state)
        return torch.full((rows, 1), self.config.decoder_start_token_id, device=self.device)

    def _score_chunk(self, encoding, start: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Scores (n,) of items with the codes (n, L) behind one encoded history and `start` (1, T)."""
        first = self(encoder_outputs=encoding, decoder_input_ids=start, use_cache=True)
        score = first.logits[0, -1].float().log_softmax(-1)[codes[:, 0]]
        if codes.shape[1] == 1:
            return score
        cache, rows = first[CACHE], len(codes)
        for layer in (*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers):
            layer.keys, layer.values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
        repeated = {name: part.expand(rows, *part.shape[1:]) for name, part in encoding.items()}
        outputs = self(
            encoder_outputs=type(encoding)(**repeated),
            decoder_input_ids=codes[:, :-1],
            use_cache=True,
            **{CACHE: cache},
        )
        log_probs = outputs.logits.float().log_softmax(-1)
        return score + log_probs.gather(2, codes[:, 1:, None]).squeeze(-1).sum(-1)
