"""STREAM (arXiv 2504.09627): before an item's codes the decoder writes thinking tokens, codes that close in on it."""

from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache

from ...catalogue.transformers_bridge import initialization, overrides, returns_tuples, takes_cache
from ...decoding.code_loss import SoftTargets, at_least_float32
from ...decoding.code_t5 import CodeT5, CodeT5Output
from ...decoding.history_encoding import HistoryEncoding
from ...decoding.shared_batch import counts_of_all, own_start, rows_of_all
from .configuration_stream import StreamConfig
from .stream_beams import TraceBeamDecoder
from .stream_losses import preference_losses, quantization_losses, state_target_losses
from .thinking_space import item_directions, residuals, thinking_states


class ThinkingMap(nn.Module):
    """Two layers with a GELU between them, added to what they read; at first they add nothing."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + self.outer(nn.functional.gelu(self.inner(states)))


@overrides("_prepare_decoder_input_ids_for_generation")
class StreamForConditionalGeneration(CodeT5):
    """
    [`CodeT5`] whose decoder reads the start token, l thinking tokens, the answer token that closes them, and the codes.
    Thinking token i is meant to be a code of level ((i - 1) mod L) + 1. Without thinking tokens this is [`CodeT5`] with
    its weights, losses and lists.

    Example:

    ```python
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("runs/stream-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    config_class = StreamConfig
    beam_decoder_class = TraceBeamDecoder

    def __init__(self, config: StreamConfig):
        super().__init__(config)
        self.state_map = ThinkingMap(config.d_model) if config.learns_states else None
        self.residual_map = ThinkingMap(config.d_model) if config.learns_residuals else None
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ThinkingMap):
            initialization.normal_(module.inner.weight, mean=0.0, std=module.inner.in_features**-0.5)
            for parameter in (module.inner.bias, module.outer.weight, module.outer.bias):
                initialization.zeros_(parameter)

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        encoder_outputs: HistoryEncoding | None = None,
        cache: EncoderDecoderCache | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        user_bins: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        soft_targets: SoftTargets | None = None,
        rejected: torch.LongTensor | None = None,
        reference_margins: torch.Tensor | None = None,
        **kwargs,
    ) -> CodeT5Output:
        r"""
        [`CodeT5.forward`] with thinking tokens.

        Args:
            decoder_input_ids (`torch.LongTensor` of shape `(B, T)` or `(n * B, T)`, *optional*):
                Start token, thinking tokens, answer token and codes so far; n lines for each history, one history's
                after the other's.
            labels (`torch.LongTensor` of shape `(B, l + 1 + L)` or `(B, L)`, *optional*):
                Thinking tokens, -100 for the answer token that closes them, and the codes of the next item. Or the
                codes alone: the model thinks itself, and is taught nothing of it.
            rejected (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Codes of the items that the targets are preferred to, with labels of the first kind.
            reference_margins (`torch.Tensor` of shape `(B,)`, *optional*): see [`preference_losses`].
        """
        config: Any = self.config
        thinks, levels = config.num_thinking_tokens, config.num_levels
        encoding = encoder_outputs
        if encoding is None:
            encoding = self.encoder(input_ids, attention_mask, user_bins)
        written: torch.Tensor | None = decoder_input_ids
        if written is None and labels is not None and thinks:
            codes = labels[:, -levels:]
            trace = self.think(encoding) if labels.shape[1] == levels else labels[:, :thinks]
            written = self._shift_right(self._closed(trace, codes))
        if written is not None and len(written) > len(encoding.last_hidden_state):
            times = len(written) // len(encoding.last_hidden_state)
            encoding = type(encoding)(**{name: part.repeat_interleave(times, dim=0) for name, part in encoding.items()})
        output = super().forward(
            decoder_input_ids=written,
            encoder_outputs=encoding,
            cache=cache,
            labels=labels,
            use_cache=use_cache,
            num_items_in_batch=num_items_in_batch,
            soft_targets=soft_targets,
            **kwargs,
        )
        if labels is not None:
            output.logits = output.logits[:, -labels.shape[1] :]  # aligned with codes alone, too
        if rejected is not None and labels is not None:
            total = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
            chosen = _log_probs(output.logits[:, -levels:], labels[:, -levels:])
            other = self._shift_right(self._closed(labels[:, :thinks], rejected))
            states, _ = self._decode(other, encoding, None, False)
            logits = self.code_logits(self.scaled(states[:, -levels:]), torch.arange(levels, device=states.device))
            losses = preference_losses(chosen, _log_probs(logits, rejected), reference_margins, config.preference_beta)
            output.losses["preference"] = losses.sum() / total
            output.loss = output.loss + config.preference_weight * output.losses["preference"]
        return output

    def _closed(self, trace: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Thinking tokens (B, l), the token that closes them, and codes (B, n): (B, l + 1 + n)."""
        return torch.cat([trace, torch.full_like(codes[:, :1], self.config.answer_token_id), codes], dim=1)

    def _levels(self, slots: torch.Tensor) -> torch.Tensor:
        thinks = self.config.num_thinking_tokens
        if not thinks:
            return slots
        return torch.where(slots > thinks, slots - thinks - 1, slots % self.config.num_levels)

    # ---- thinking ----

    @torch.no_grad()
    def think(self, encoding: HistoryEncoding) -> torch.Tensor:
        """The thinking tokens (B, l) that the head writes for encoded histories, the likeliest one at a time."""
        decoder = TraceBeamDecoder(self, 1, 0)
        decoder.start(None, encoder_outputs=encoding)  # type: ignore[arg-type]
        assert decoder.trace is not None
        return decoder.trace

    def decoder_prompts(self, encoding: HistoryEncoding) -> torch.Tensor:
        """(B, l + 2) start token, thinking tokens, and the answer token that closes them; (B, 1) without thinking."""
        start = super().decoder_prompts(encoding)
        if not self.config.num_thinking_tokens:
            return start
        # The start token is the answer token, too.
        return torch.cat([start, self.think(encoding), start], dim=1)

    def _prepare_decoder_input_ids_for_generation(
        self, batch_size, model_input_name, model_kwargs, decoder_start_token_id, device=None
    ):
        given = "decoder_input_ids" in model_kwargs
        token_ids, model_kwargs = super()._prepare_decoder_input_ids_for_generation(
            batch_size, model_input_name, model_kwargs, decoder_start_token_id, device
        )
        return token_ids if given else self.decoder_prompts(model_kwargs["encoder_outputs"]), model_kwargs

    # ---- loss ----

    def _losses(self, logits, labels, total, encoding: HistoryEncoding, outputs, soft_targets):
        config: Any = self.config
        thinks, levels = config.num_thinking_tokens, config.num_levels
        if not thinks:
            return super()._losses(logits, labels, total, encoding, outputs, soft_targets)
        codes = labels[:, -levels:]
        losses = {"code": self._code_loss(logits[:, -levels:], codes, total, soft_targets)}
        if labels.shape[1] == levels:
            return losses["code"], losses
        trace = labels[:, :thinks]
        parts = []
        for first in range(0, thinks, levels):  # a head per level begins anew with each round of levels
            of_round = slice(first, min(first + levels, thinks))
            parts.append(self._code_loss(logits[:, of_round], labels[:, of_round], total))
        losses["trace"] = torch.stack(parts).sum()
        loss = losses["code"] + losses["trace"]
        if config.learns_states:
            states = thinking_states(outputs.last_hidden_state[:, : thinks + 1], self.state_map)
            targets = item_directions(self.shared.weight, codes)
        if config.state_weight:
            items, of_items, start = targets, codes, 0
            if self.training:
                counts = counts_of_all(len(codes), codes.device)
                items, of_items, start = rows_of_all(targets, counts), rows_of_all(codes, counts), own_start(counts)
            found = state_target_losses(states[:, 1:], items, of_items, config.temperature, start)
            losses["state"] = found.sum() / total
            loss = loss + config.state_weight * losses["state"]
        if config.learns_residuals:
            left = residuals(targets, states[:, :-1], self.residual_map)
            found = quantization_losses(left, nn.functional.normalize(self.shared(trace), dim=-1))
            losses["quantization"] = found.sum() / total
            loss = loss + config.quantization_weight * losses["quantization"]
        return loss, losses


def _log_probs(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """(B,) of codes (B, L), from logits (B, L, V)."""
    return at_least_float32(logits).log_softmax(-1).gather(2, codes[..., None]).squeeze(-1).sum(-1)


StreamForConditionalGeneration.register_for_auto_class("AutoModel")
StreamForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["StreamConfig", "StreamForConditionalGeneration"]
