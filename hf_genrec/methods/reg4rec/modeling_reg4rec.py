"""REG4Rec (arXiv 2508.15308): reads histories of code sets and writes the next item's codes, surest codebook first."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput

from ...catalogue.flat_code import FlatModelCode
from ...catalogue.transformers_bridge import CACHE, CacheByBothNames, overrides, returns_tuples, takes_cache
from ...decoding.code_loss import at_least_float32
from ...decoding.code_set_encoding import CodeSetEncoding
from ...decoding.shared_batch import own_part_of_draw
from .configuration_reg4rec import Reg4RecConfig
from .recommending_reg4rec import Reg4RecRecommenderMixin
from .reg4rec_layers import Reg4RecDecoder, Reg4RecEncoder
from .reg4rec_losses import category_losses, teacher_path, token_losses


class Reg4RecPreTrainedModel(FlatModelCode, PreTrainedModel):
    """What the two models share."""

    config_class = Reg4RecConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]  # noqa: RUF012

    def get_encoder(self, modality=None) -> Reg4RecEncoder:
        base: Any = self.base_model
        return base.encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.get_encoder().embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):  # type: ignore[override]
        self.get_encoder().embed_tokens = value


@dataclass
class Reg4RecModelOutput(CacheByBothNames, Seq2SeqModelOutput):
    """`Seq2SeqModelOutput`."""


class Reg4RecModel(Reg4RecPreTrainedModel):
    """Encoder and decoder without heads."""

    _keys_to_ignore_on_load_unexpected = ["^code_heads", "^category_head"]  # noqa: RUF012

    def __init__(self, config: Reg4RecConfig):
        super().__init__(config)
        self.encoder = Reg4RecEncoder(config)
        self.decoder = Reg4RecDecoder(config)
        self.post_init()

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: CodeSetEncoding | None = None,
        cache: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Reg4RecModelOutput:
        r"""
        Args:
            input_ids, attention_mask: see [`Reg4RecEncoder.forward`].
            decoder_input_ids (`torch.LongTensor` of shape `(R, S)`, *optional*):
                The start token and the codes chosen so far; with a filled cache only those that are new. R is B or a
                multiple of it: the paths of one history stand one after the other. By default the start token alone.
            encoder_outputs ([`CodeSetEncoding`], *optional*):
                Encoded histories, instead of `input_ids`.
            cache (`EncoderDecoderCache`, *optional*):
                Keys and values of the paths and of the histories; may be named `past_key_values`.

        Raises:
            ValueError: for no history, rows that are no multiple of the histories, or a cache of fixed length.
        """
        if cache is not None and cache.is_compileable:
            raise ValueError("REG4Rec's decoder grows its cache: leave cache_implementation out.")
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("Give histories as input_ids, or encoded ones as encoder_outputs.")
            encoder_outputs = self.encoder(input_ids, attention_mask)
        num_histories = len(encoder_outputs.last_hidden_state)
        if decoder_input_ids is None:
            start = self.config.decoder_start_token_id
            decoder_input_ids = torch.full((num_histories, 1), start, device=self.device)  # type: ignore[arg-type]
        if len(decoder_input_ids) % num_histories:
            raise ValueError(
                f"{len(decoder_input_ids)} rows of decoder_input_ids for {num_histories} histories: give as many paths "
                f"to each."
            )
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        embed = self.encoder.embed_tokens
        start = None
        if self.config.code_reading == "set":  # looked up: processes that share out weights gather them at a lookup
            start = embed(decoder_input_ids.new_tensor(self.config.decoder_start_token_id))
        return Reg4RecModelOutput(
            last_hidden_state=self.decoder(embed(decoder_input_ids), encoder_outputs, cache, start),
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            **{CACHE: cache},  # type: ignore[arg-type]
        )


@dataclass
class Reg4RecOutput(CacheByBothNames, Seq2SeqLMOutput):
    """
    `Seq2SeqLMOutput` with the terms of the loss.

    Args:
        loss: `losses["token"] + category_weight * losses["category"]`.
        losses: the unweighted terms by name, `token` and `category`.
        logits: (R, S, vocab_size), log-probabilities: a softmax within each codebook. Tokens that are no codes have the
            dtype's minimum. `None` in training with labels, where only those of unused codebooks are computed.
        category_logits: (R, S, G).
        cache: keys and values of the paths and of the histories.
        encoder_last_hidden_state: (B, T, d).
    """

    losses: dict[str, torch.Tensor] | None = None
    category_logits: torch.Tensor | None = None


@overrides("_expand_inputs_for_generation")
class Reg4RecForConditionalGeneration(Reg4RecRecommenderMixin, Reg4RecPreTrainedModel, GenerationMixin):
    """
    REG4Rec with one head per codebook, all on the same state, and a head for the item's category. `generate` writes the
    codes of the next item in any order, `recommend` returns items.

    Example:

    ```python
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("runs/reg4rec-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    def __init__(self, config: Reg4RecConfig):
        super().__init__(config)
        self.model = Reg4RecModel(config)
        self.code_heads = nn.ModuleList(nn.Linear(config.hidden_size, size) for size in config.codebook_sizes)
        self.category_head = nn.Linear(config.hidden_size, config.num_categories)
        self.post_init()
        # No end token is ever trained: a path ends with its last codebook.
        self.generation_config = GenerationConfig(
            max_new_tokens=config.num_codebooks,
            decoder_start_token_id=config.decoder_start_token_id,
            pad_token_id=config.pad_token_id,
            do_sample=False,
        )

    def code_log_probs(self, states: torch.Tensor) -> torch.Tensor:
        """
        S(c) of equation (5) in logarithms: the log-softmax within each codebook, in float32 or wider.

        Args:
            states: (..., d), of the decoder.

        Returns:
            (..., codes), by token id.
        """
        of_codebooks = [at_least_float32(head(states)).log_softmax(-1) for head in self.code_heads]
        return torch.cat(of_codebooks, -1)

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        category_labels: torch.Tensor | None = None,
        orders: torch.Tensor | None = None,
        target_weights: torch.Tensor | None = None,
        next_only: bool | None = None,
        encoder_outputs: CodeSetEncoding | None = None,
        cache: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> Reg4RecOutput:
        r"""
        Args:
            input_ids, attention_mask, decoder_input_ids, encoder_outputs, cache: see [`Reg4RecModel.forward`].
            labels (`torch.LongTensor` of shape `(R, M)`, *optional*):
                The targets' token ids, column r of codebook r. They are also what the decoder reads, in the order of
                `orders`. R is B or a multiple of it: the targets of one history stand one after the other.
            category_labels (`torch.LongTensor` of shape `(R,)`, *optional*):
                The targets' categories; without them the loss has no category term.
            orders (`torch.LongTensor` of shape `(R, M)`, *optional*):
                The codebook whose code is chosen at each step, a permutation per target. By default drawn uniformly
                from torch's generator, or 0, 1, ..., M - 1 where `code_order="fixed"`.
            target_weights (`torch.FloatTensor` of shape `(R,)`, *optional*):
                How much each target's loss counts, by default 1; those of a history add up to 1.
            next_only (`bool`, *optional*):
                Learn at each step the code that is chosen there alone, and not those of all unused codebooks; by
                default with `code_order="fixed"`.
            num_items_in_batch (*optional*):
                Histories in the whole optimisation step. The loss is then the sum over targets divided by it.

        Returns:
            [`Reg4RecOutput`]: row i of `logits` and `category_logits` is for what is chosen after the first i + 1
            decoder tokens.

        Raises:
            ValueError: for labels together with `decoder_input_ids`, which follow from them.
        """
        fixed = self.config.code_order == "fixed"
        if labels is not None:
            if decoder_input_ids is not None:
                raise ValueError("The decoder reads the labels in their order: leave decoder_input_ids out.")
            if orders is None and fixed:
                orders = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
            elif orders is None:
                width, device = labels.shape[1], labels.device

                def draw(targets: int) -> torch.Tensor:
                    return torch.rand(targets, width, device=device)

                drawn = own_part_of_draw(draw, len(labels), device) if self.training else draw(len(labels))
                orders = drawn.argsort(1)
            decoder_input_ids = teacher_path(labels, orders, self.config.decoder_start_token_id)  # type: ignore[arg-type]
        outputs = self.model(input_ids, attention_mask, decoder_input_ids, encoder_outputs, cache, use_cache)
        states = outputs.last_hidden_state
        category_logits = at_least_float32(self.category_head(states))

        loss = losses = logits = None
        if labels is None or not self.training:
            codes = self.code_log_probs(states)
            special = self.config.vocab_size - self.config.num_codes  # type: ignore[operator]
            logits = nn.functional.pad(codes, (0, special), value=torch.finfo(codes.dtype).min)
        if labels is not None:
            total: Any = len(outputs.encoder_last_hidden_state) if num_items_in_batch is None else num_items_in_batch
            weights: Any = 1 if target_weights is None else target_weights
            next_only = fixed if next_only is None else next_only
            of_tokens = token_losses(states, self.code_heads, labels, orders, next_only)  # type: ignore[arg-type]
            losses = {"token": (weights * of_tokens).sum() / total}
            loss = losses["token"]
            if category_labels is not None:
                losses["category"] = (weights * category_losses(category_logits, category_labels)).sum() / total
                loss = loss + self.config.category_weight * losses["category"]
        return Reg4RecOutput(
            loss=loss,
            losses=losses,
            logits=logits,
            category_logits=category_logits,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            **{CACHE: outputs.get(CACHE)},
        )

    # ---- generate ----

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Rows of `input_ids` for beams and samples. Histories are not repeated: their paths share them."""
        encoding = model_kwargs.pop("encoder_outputs")
        expand: Any = super()._expand_inputs_for_generation  # type: ignore[misc]
        input_ids, model_kwargs = expand(expand_size, False, input_ids, **model_kwargs)
        return input_ids, model_kwargs | {"encoder_outputs": encoding}

    def _reorder_cache(self, cache: EncoderDecoderCache, beam_idx: torch.LongTensor) -> EncoderDecoderCache:
        cache.self_attention_cache.reorder_cache(beam_idx)
        return cache


Reg4RecModel.register_for_auto_class("AutoModel")
Reg4RecForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["Reg4RecConfig", "Reg4RecForConditionalGeneration", "Reg4RecModel"]
