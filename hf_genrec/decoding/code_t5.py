"""T5 over the ordered codes of items: histories go into the encoder, the decoder writes the codes of the next item."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache, GenerationConfig, T5ForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

from ..catalogue.transformers_bridge import (
    CACHE,
    CacheByBothNames,
    initialization,
    overrides,
    returns_tuples,
    takes_cache,
)
from .code_loss import SoftTargets, code_loss, soft_targets_of
from .code_t5_config import CodeT5Config
from .code_t5_stack import CodeT5Stack, InitializedAsT5
from .history_encoder import HistoryEncoder
from .history_encoding import HistoryEncoding
from .recommend_by_seq2seq import Seq2SeqRecommenderMixin
from .shared_keys_values import add_shared_losses, shared_losses


@dataclass
class CodeT5Output(CacheByBothNames, Seq2SeqLMOutput):
    """
    `Seq2SeqLMOutput` with the terms of the loss.

    Args:
        losses (`dict[str, torch.Tensor]`, *optional*):
            Unweighted terms by name, where there are several; each a mean over codes.
    """

    losses: dict[str, torch.Tensor] | None = None


class LevelHeads(nn.Linear):
    """The heads of all levels, one below the other."""


@overrides("_initialize_weights")
class CodeT5(InitializedAsT5, Seq2SeqRecommenderMixin, T5ForConditionalGeneration):
    """
    T5 whose tokens are the codes of items. Weights have T5's names; a model without the options of [`CodeT5Config`] has
    T5's weights and logits. With a pool the losses have `peak` and `balance` of its routers in training.
    """

    config_class = CodeT5Config
    _no_split_modules = ["T5Block"]  # noqa: RUF012
    decoder: CodeT5Stack

    def __init__(self, config: CodeT5Config):
        super().__init__(config)
        self.encoder = HistoryEncoder(self.encoder.config)
        self.decoder = CodeT5Stack(self.decoder.config)
        if config.level_heads:
            self.lm_head = LevelHeads(config.d_model, config.vocab_size, bias=False)
            self._tied_weights_keys = {
                name: source for name, source in self._tied_weights_keys.items() if name != "lm_head.weight"
            }
        self.loss_type = None  # type: ignore[assignment]  # Trainer: labels are not shifted, each counts
        self.post_init()
        # No end token is ever trained, and stock settings would delete legal codes.
        self.generation_config = GenerationConfig(
            max_new_tokens=config.num_levels,
            pad_token_id=config.pad_token_id,
            decoder_start_token_id=config.decoder_start_token_id,
            do_sample=False,
        )

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LevelHeads):
            std = self.config.initializer_factor * module.in_features**-0.5
            initialization.normal_(module.weight, mean=0.0, std=std)

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
        **kwargs,
    ) -> CodeT5Output:
        r"""
        Args:
            input_ids, attention_mask, user_bins: see [`HistoryEncoder.forward`].
            decoder_input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                The start token and the codes so far; with a filled cache only those that are new. By default it follows
                from `labels`, or is the start token alone.
            encoder_outputs ([`HistoryEncoding`], *optional*):
                Encoded histories, instead of `input_ids`.
            cache (`EncoderDecoderCache`, *optional*):
                Keys and values so far; may be named `past_key_values`.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                The codes of the next item, -100 for what is not trained on.
            num_items_in_batch (*optional*):
                Codes in the whole optimisation step. The loss is then the sum over codes divided by it.
            soft_targets ([`SoftTargets`], *optional*): what the labelled codes are compared with, beside the labels.

        Returns:
            [`CodeT5Output`]: `logits` `(B, T, vocab_size)`, row i for label i; `loss` is the cross-entropy per code.

        Raises:
            ValueError: for no history.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, user_bins, **_details(kwargs))
        written: torch.Tensor | None = decoder_input_ids
        if written is None:
            written = self._decoder_inputs(labels, len(encoder_outputs.last_hidden_state))
        # Before the cache grows: the length of a static one is a tensor that grows with it.
        past = 0 if cache is None else self._codes_in(cache)
        levels = self._levels(torch.arange(written.shape[1], device=written.device) + past)
        sharing = labels is not None and bool(self.config.shared_kv_pool_size)
        with shared_losses(self, sharing) as shared:
            states, outputs = self._decode(written, encoder_outputs, cache, use_cache, **kwargs)
        logits = self.code_logits(self.scaled(states), levels)
        loss = losses = None
        if labels is not None:
            total = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
            wanted = labels.to(logits.device)
            loss, losses = self._losses(logits, wanted, total, encoder_outputs, outputs, soft_targets)
            if sharing:
                # Over accumulated batches the shares of the codes add up to one term of the routers, too.
                share = (labels != -100).sum() / total
                losses = {"code": loss} if losses is None else losses
                losses = losses | {name: term * share for name, term in shared.items()}
                loss = add_shared_losses(loss, losses, self.config)
        return CodeT5Output(
            loss=loss,
            losses=losses,
            logits=logits,
            decoder_hidden_states=outputs.get("hidden_states"),
            decoder_attentions=outputs.get("attentions"),
            cross_attentions=outputs.get("cross_attentions"),
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )

    def encode_histories(self, **inputs: torch.Tensor) -> HistoryEncoding:
        encoding = super().encode_histories(**inputs)
        if not self.config.shared_kv_pool_size:
            return encoding
        records = self.decoder.records(encoding.last_hidden_state)
        return HistoryEncoding(attention_mask=encoding.attention_mask, records=records)

    def _decoder_inputs(self, labels: torch.Tensor | None, rows: int) -> torch.Tensor:
        if labels is None:
            return torch.full((rows, 1), self.config.decoder_start_token_id, device=self.device)
        return self._shift_right(labels)

    def _codes_in(self, cache: EncoderDecoderCache) -> int | torch.Tensor:
        """Tokens, the start token among them, that the decoder has read."""
        return cache.get_seq_length()

    def _levels(self, slots: torch.Tensor) -> torch.Tensor:
        """The levels (T,) of what the decoder's slots (T,) predict, counted from 0."""
        return slots

    def _decode(self, decoder_input_ids, encoding: HistoryEncoding, cache, use_cache, **kwargs):
        """States (B, T, d) of the decoder, and its output."""
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoding.last_hidden_state,
            encoder_attention_mask=encoding.attention_mask,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE: cache},
            **_details(kwargs),
        )
        return outputs.last_hidden_state, outputs

    # ---- the head ----

    def scaled(self, states: torch.Tensor) -> torch.Tensor:
        """The decoder's states as the head takes them: T5's are scaled where the head is the table of the input."""
        return states if self.config.level_heads else states * self.config.d_model**-0.5

    def code_logits(self, states: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """
        Logits (B, T, vocab_size) from [`scaled`] states (B, T, d).

        Args:
            levels: (T,) or (1,), of the codes that they are for. With `level_heads` the tokens of other levels have the
                lowest number.
        """
        logits = self.lm_head(states)
        if not self.config.level_heads:
            return logits
        sizes = torch.tensor([*self.config.codebook_sizes, 0], device=logits.device)
        ends = sizes.cumsum(0)
        levels = levels.clamp(max=len(sizes) - 2)
        token = torch.arange(logits.shape[-1], device=logits.device)
        own = (token >= (ends - sizes)[levels, None]) & (token < ends[levels, None])  # (T, vocab_size)
        return logits.masked_fill(~own, torch.finfo(logits.dtype).min)

    def _losses(self, logits, labels, total, encoding: HistoryEncoding, outputs, soft_targets):
        """The loss, divided by `total` codes, and its terms by name, if there are several."""
        return self._code_loss(logits, labels, total, soft_targets), None

    def _code_loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        total: int | torch.Tensor,
        soft_targets: SoftTargets | None = None,
    ) -> torch.Tensor:
        """[`code_loss`] of logits (B, T, vocab_size) and labels (B, T), divided by `total`."""
        smoothing = self.config.label_smoothing if self.training else 0.0
        if not self.config.level_heads:
            return code_loss(logits, labels, smoothing, soft_targets) / total
        starts = [sum(self.config.codebook_sizes[:level]) for level in range(labels.shape[1] + 1)]
        losses = []
        for level, (start, end) in enumerate(pairwise(starts)):
            own = (labels[:, level] - start).masked_fill(labels[:, level] == -100, -100)
            targets = None if soft_targets is None else soft_targets_of(level, soft_targets, labels, start, end)
            losses.append(code_loss(logits[:, level, start:end], own, smoothing, targets))
        return torch.stack(losses).sum() / total


def _details(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of a call's further arguments, those that ask for more output."""
    return {name: kwargs[name] for name in ("output_attentions", "output_hidden_states") if name in kwargs}
