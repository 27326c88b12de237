"""CARE (arXiv 2602.03692): Qwen2 with query tokens before each code of a semantic ID and a progressive attention "
"mask."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import logging

from ...catalogue.device_waits import places_in_rows, places_of
from ...catalogue.flat_code import FlatModelCode
from ...catalogue.published_weights import require_same_weights
from ...catalogue.transformers_bridge import CACHE, CacheByBothNames, overrides, returns_tuples, takes_cache
from ...decoding.beam_decoder import additive_mask
from ...decoding.code_loss import SoftTargets, code_loss
from ...decoding.recommend_by_trie import GenerativeRecommenderMixin
from ...decoding.shared_keys_values import add_shared_losses, shared_losses
from .care_beams import CareBeamDecoder
from .care_layers import CareDecoderLayer, kept_rows, rows_to_read, take_slots, wants_all_states
from .care_layout import HISTORY, QUERY, CareLayout, RowSizes, attention_allowed, care_layout, split_blocks
from .care_packing import PackedMask, pack_layout, packed_mask
from .configuration_care import CareConfig


class CarePreTrainedModel(FlatModelCode, PreTrainedModel):
    """What the two models share: the configuration, the initialisation of the queries, the kinds of attention."""

    config_class = CareConfig
    _no_split_modules = ["CareDecoderLayer"]  # noqa: RUF012
    _supports_flash_attn = False  # the mask is not causal
    _supports_flex_attn = False

    def __setattr__(self, name, value):
        # An adapter is merged into its table in place. Put on one of two tables that are tied, it would change the
        # other, too: it gets a table of its own.
        if name in ("embed_tokens", "lm_head") and hasattr(value, "base_layer") and self.config.tie_word_embeddings:
            table = value.base_layer
            table.weight = nn.Parameter(table.weight.detach().clone(), requires_grad=False)
        super().__setattr__(name, value)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, CareModel) and module.query_embeddings is not None:
            nn.init.normal_(module.query_embeddings.weight, std=0.02)


class CareModel(CarePreTrainedModel, Qwen2Model):
    """
    The Qwen2 decoder with CARE's queries inserted inside.

    It takes and returns *aligned* rows: `input_ids` holds history codes, answer token and codes; hidden state i is the
    one that predicts token i + 1 (the last query before it where there are queries, or token i's own). Query positions
    never leave the backbone, so heads, `Trainer`, PEFT and `generate` need not know of them.
    """

    def __init__(self, config: CareConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([CareDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        total = sum(config.num_queries)
        self.query_embeddings = nn.Embedding(total, config.hidden_size) if total else None
        self.post_init()

    def layout(self, input_ids, attention_mask=None, block_ids=None, num_slots: int | None = None) -> CareLayout:
        """Slots of a batch of full rows (see `care_layout`)."""
        if self.config.answer_token_id is None:
            raise ValueError("config.answer_token_id is not set: give the id of the token that ends the history.")
        if block_ids is None:
            block_ids = split_blocks(input_ids, attention_mask, self.config.answer_token_id)
        return care_layout(input_ids, block_ids, self.config.num_queries, self.config.answer_token_id, num_slots)

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        block_ids: torch.LongTensor | None = None,
        context_ids: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        row_sizes: RowSizes | None = None,
        kept_places: torch.LongTensor | None = None,
        **kwargs,
    ) -> "CareModelOutput":
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                History codes, answer token, codes. With a filled cache only the new tokens.
            attention_mask (`torch.Tensor` of shape `(B, T_total)`, *optional*):
                1 for tokens, 0 for padding, over the full rows.
            block_ids (`torch.LongTensor` of shape `(B, T_total)`, *optional*):
                Packed rows: 0 history, 1..n target blocks, -1 padding (see `care_layout`).
            cache (`Cache`, *optional*):
                Keys and values so far; may be named `past_key_values`.
            context_ids (`torch.LongTensor` of shape `(B, T_total)`, *optional*):
                The full rows whose last tokens are `input_ids`. Required with a filled cache.
            logits_to_keep (`int` or `torch.Tensor`, *optional*):
                Return the states of these rows only (0: all), in the forms transformers knows for logits. The last
                layer then leaves the other slots out.
            row_sizes ([`RowSizes`], *optional*), kept_places (`torch.LongTensor` of shape `(n,)`, *optional*):
                What shapes follow from, and where a boolean `logits_to_keep` is true, all rows one after the other.

        Returns:
            [`CareModelOutput`]: `last_hidden_state` and, if asked for, `hidden_states` of shape `(B, T,
            hidden_size)`; the cache and `attentions` count slots, queries included. With `logits_to_keep`
            `last_hidden_state` holds the rows kept, `(B, rows, hidden_size)`, or `(rows, hidden_size)` for a mask.

        Raises:
            ValueError: for inputs from which the slots cannot be told.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("CARE places its queries by token id: pass input_ids, not inputs_embeds.")
        if position_ids is not None:
            raise ValueError("CARE derives positions from input_ids and attention_mask: do not pass position_ids.")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"attention_mask has {attention_mask.dim()} dimensions: pass the 2-D padding mask (B, T).")

        past_slots = int(cache.get_seq_length()) if cache is not None else 0
        if past_slots and context_ids is None:
            raise ValueError("With a filled cache pass context_ids, the full rows: stages are read from them.")
        full_ids = input_ids if context_ids is None else context_ids
        config, sizes = self.config, row_sizes or RowSizes()
        layout = self.layout(full_ids, attention_mask, block_ids, sizes.slots)
        # Eager attention keeps the mask over all pairs of slots: with it, the two ways can be compared.
        packed = block_ids is not None and cache is None and config._attn_implementation != "eager"
        if packed:
            layout, num_history = pack_layout(layout, config.num_queries, sizes)

        num_new = input_ids.shape[1]
        token_slot, reading_slot = layout.token_slot[:, -num_new:], layout.reading_slot[:, -num_new:]
        if past_slots and (token_slot[:, 0] != past_slots).any():
            raise ValueError(
                f"The cache holds {past_slots} slots, input_ids do not go on where it ends: check context_ids."
            )

        new = slice(past_slots, None)
        embeddings = self.embed_tokens(full_ids.gather(1, layout.source[:, new]))
        if self.query_embeddings is not None:
            is_query = (layout.kind[:, new] == QUERY).unsqueeze(-1)
            queries = self.query_embeddings(layout.query[:, new])
            embeddings = torch.where(is_query, queries.to(embeddings.dtype), embeddings)
        embeddings = nn.functional.dropout(embeddings, config.hidden_dropout, self.training)

        if packed:
            mask: PackedMask | torch.Tensor = packed_mask(
                layout, num_history, config.num_queries, config.progressive, config.code_sees_itself
            )
        else:
            allowed = attention_allowed(layout, config.progressive, config.code_sees_itself, past_slots)
            if cache is not None:  # a static cache has columns that are not filled yet
                columns, _ = cache.get_mask_sizes(allowed.shape[1], 0)
                allowed = nn.functional.pad(allowed, (0, columns - allowed.shape[2]), value=False)
            mask = self.attention_mask(allowed, embeddings.dtype)
        rows = reading_slot - past_slots
        read_slots, kept = rows_to_read(rows, logits_to_keep, sizes.kept)
        # The states of all layers, if they are asked for, are those of all slots.
        last_layer_slots = None if wants_all_states(config, kwargs) else read_slots
        outputs = super().forward(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": mask},
            position_ids=layout.position[:, new],
            use_cache=use_cache,
            read_slots=last_layer_slots,
            is_history=layout.kind[:, new] == HISTORY if config.shared_kv_pool_size else None,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        if last_layer_slots is None:
            wanted = rows if read_slots is None else read_slots
            outputs.last_hidden_state = take_slots(outputs.last_hidden_state, wanted)
        if kept is not None:
            places = places_of(kept) if kept_places is None else places_in_rows(kept, len(kept_places))
            outputs.last_hidden_state = outputs.last_hidden_state.flatten(0, 1)[places]
        if outputs.hidden_states is not None:
            outputs.hidden_states = tuple(take_slots(states, rows) for states in outputs.hidden_states)
        return CareModelOutput(**outputs)

    def attention_mask(self, allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(B, rows, columns) boolean, True = attended, as the layers take it: one mask for all heads."""
        return additive_mask(allowed, dtype) if self.config._attn_implementation == "eager" else allowed.unsqueeze(1)


@dataclass
class CareModelOutput(CacheByBothNames, BaseModelOutputWithPast):
    """`BaseModelOutputWithPast`."""


@dataclass
class CareCausalLMOutput(CacheByBothNames, CausalLMOutputWithPast):
    """`CausalLMOutputWithPast` and `diversity_loss`, the unweighted mean cosine between query embeddings."""

    diversity_loss: torch.FloatTensor | None = None


@overrides("_prefill", "_prepare_cache_for_generation")
class CareForCausalLM(GenerativeRecommenderMixin, CarePreTrainedModel, Qwen2ForCausalLM):
    """
    CARE with its language modelling head. `generate` writes the codes of the next item, `recommend` returns items.

    Example:

    ```python
    >>> model = AutoModelForCausalLM.from_pretrained("runs/care-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    beam_decoder_class = CareBeamDecoder

    def __init__(self, config: CareConfig):
        super().__init__(config)
        self.model = CareModel(config)
        if config.tie_word_embeddings:  # else the Trainer warns of a missing head whenever it loads a checkpoint
            self._keys_to_ignore_on_save = {"lm_head.weight"}
        self.post_init()
        self._write_generation_config()

    def _write_generation_config(self):
        # A base model's top_k, top_p or repetition penalty would delete legal codes, and no end token is ever trained.
        self.generation_config = GenerationConfig(
            max_new_tokens=self.config.num_levels, pad_token_id=self.config.pad_token_id, do_sample=False
        )

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        block_ids: torch.LongTensor | None = None,
        context_ids: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        soft_targets: SoftTargets | None = None,
        row_sizes: RowSizes | None = None,
        kept_places: torch.LongTensor | None = None,
        **kwargs,
    ) -> CareCausalLMOutput:
        r"""
        Args:
            input_ids, attention_mask, cache, block_ids, context_ids, row_sizes, kept_places: as [`CareModel`] has them.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                The codes at their own positions, -100 elsewhere; logits of row i are compared with label i + 1.
            logits_to_keep (`int` or `torch.Tensor`, *optional*):
                Compute logits for these rows only (0: all), in the forms transformers knows (packed rows: a boolean
                mask `(B, T)`, then `logits` is `(rows, vocab_size)`); labels are cut alike.
            num_items_in_batch (*optional*):
                Targets in the whole optimisation step. The loss is then the sum over targets divided by it.
            soft_targets ([`SoftTargets`], *optional*): what the labelled codes are compared with, beside the labels.

        Returns:
            [`CareCausalLMOutput`]: `logits` `(B, T, vocab_size)`, row i for token i + 1. `loss` is the cross-entropy
            per code over the full vocabulary plus `query_diversity_weight` times the diversity term, in evaluation too.
        """
        with shared_losses(self, labels is not None and self.config.shared_kv_pool_size > 0) as shared:
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                cache=cache,
                use_cache=use_cache,
                block_ids=block_ids,
                context_ids=context_ids,
                logits_to_keep=logits_to_keep,
                row_sizes=row_sizes,
                kept_places=kept_places,
                **kwargs,
            )
        logits = self.lm_head(outputs.last_hidden_state)

        loss = diversity = None
        if labels is not None:
            shifted = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
            shifted = kept_rows(shifted, logits_to_keep, kept_places)
            num_targets = (shifted != -100).sum()
            total = num_targets if num_items_in_batch is None else num_items_in_batch
            smoothing = self.config.label_smoothing if self.training else 0.0
            loss = code_loss(logits, shifted, smoothing, soft_targets) / total
            diversity = self.query_diversity()
            if diversity is not None:
                # Over accumulated batches the shares of the targets add up to one term, as the cross-entropies to one
                # mean.
                loss = loss + self.config.query_diversity_weight * diversity * (num_targets / total)
            of_targets = {name: term * (num_targets / total) for name, term in shared.items()}
            loss = add_shared_losses(loss, of_targets, self.config)
        return CareCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            diversity_loss=diversity,
            **{CACHE: outputs.get(CACHE)},
        )

    def query_diversity(self) -> torch.Tensor | None:
        """
        Mean cosine over all N x N pairs of query embeddings, the N pairs of a query with itself counted as 0 (signed;
        the published code's form, (N-1)/N times the paper's). `None` where the weight is 0 or there are no queries.
        """
        table = self.model.query_embeddings
        if table is None or not self.config.query_diversity_weight:
            return None
        # Called, not read: an adapter wrapped around the table takes part.
        queries = table(torch.arange(sum(self.config.num_queries), device=self.lm_head.weight.device))
        queries = nn.functional.normalize(queries.float(), dim=-1)
        cosine = queries @ queries.T
        return (cosine.sum() - cosine.diagonal().sum()) / cosine.numel()

    @takes_cache
    def prepare_inputs_for_generation(
        self, input_ids, next_sequence_length=None, cache=None, attention_mask=None, use_cache=None, **kwargs
    ):
        """The new tokens to feed, with the full rows beside them; positions and masks follow from these."""
        new_ids = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
        inputs = {"input_ids": new_ids, "context_ids": input_ids, "cache": cache, "use_cache": use_cache}
        # generate drops a mask that is all ones; where it kept one, it covers the full rows.
        inputs["attention_mask"] = attention_mask
        for name in ("logits_to_keep", "output_attentions", "output_hidden_states"):
            if name in kwargs:
                inputs[name] = kwargs[name]
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        # A cache of fixed length needs room for the queries.
        return super()._prepare_cache_for_generation(
            generation_config,
            model_kwargs,
            generation_mode,
            batch_size,
            max_cache_length + sum(self.config.num_queries),
        )

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """
        Encode each history once. Stock beam search repeats the prompt `num_beams` times and encodes every copy; here
        equal neighbouring rows are encoded once, and their keys, values and logits repeated.
        """
        cache = model_kwargs.get(CACHE)
        details_wanted = generation_config.output_attentions or generation_config.output_hidden_states
        if type(cache) is not DynamicCache or cache.get_seq_length() or details_wanted:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        mask = model_kwargs.get("attention_mask")
        rows = input_ids if mask is None else input_ids.masked_fill(mask == 0, -1)
        _, copy_of, counts = torch.unique_consecutive(rows, dim=0, return_inverse=True, return_counts=True)
        first = counts.cumsum(0) - counts
        unique_kwargs = model_kwargs if mask is None else model_kwargs | {"attention_mask": mask[first]}
        outputs = super()._prefill(input_ids[first], generation_config, unique_kwargs, is_first_iteration)
        outputs[CACHE].batch_select_indices(copy_of)
        outputs.logits = outputs.logits[copy_of]
        return outputs

    def save_pretrained(self, *args, **kwargs):
        """The head is saved unless it is the table of the input; the configuration says which."""
        self.config.tie_word_embeddings = self.lm_head.weight is self.model.embed_tokens.weight
        self._keys_to_ignore_on_save = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        super().save_pretrained(*args, **kwargs)

    @classmethod
    def from_base(
        cls, pretrained_model_name_or_path, vocab_size: int, base_vocab_size: int | None = None, **care_fields
    ) -> "CareForCausalLM":
        """
        A model with the weights of a pretrained Qwen2, Qwen2.5 or Qwen3; new tokens and queries are random.

        Args:
            vocab_size: tokens after the codes have been added; the embeddings (tied or not) are resized to it.
            base_vocab_size (*optional*): tokens of the base model's tokenizer. Rows beyond them, with which its
                embeddings may be padded, are no tokens: the new ones start without them. By default all rows are.
            care_fields: the fields [`CareConfig`] adds.

        Raises:
            ValueError: if the model is none of these, lacks weights of one, or has others.
        """
        fields, _ = Qwen2Config.get_config_dict(pretrained_model_name_or_path)
        kind = fields.get("model_type")
        if kind not in ("qwen2", "qwen3"):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a {kind} model: CARE starts from Qwen2, Qwen2.5, Qwen3 or an "
                f"earlier CARE."
            )
        base_config = (Qwen3Config if kind == "qwen3" else Qwen2Config).from_dict(fields)
        # The padding token may be one of the new ones, which the base model's embeddings do not hold yet.
        config = CareConfig.from_base(base_config, **care_fields | {"pad_token_id": None})
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # new tokens and queries are new by intention: not worth a report
        try:
            model, report = cls.from_pretrained(
                pretrained_model_name_or_path, config=config, dtype=torch.float32, output_loading_info=True
            )
            model.resize_token_embeddings(min(base_vocab_size or vocab_size, base_config.vocab_size))
            model.resize_token_embeddings(vocab_size)
        finally:
            logging.set_verbosity(verbosity)
        lacking = sorted(set(report["missing_keys"]) - {"model.query_embeddings.weight"})
        if lacking:
            raise ValueError(f"{pretrained_model_name_or_path} lacks weights of the model: {', '.join(lacking)}.")
        if report["unexpected_keys"]:
            left_over = ", ".join(sorted(report["unexpected_keys"])[:3])
            raise ValueError(
                f"{pretrained_model_name_or_path} has weights that CARE has no place for: {left_over}, ..."
            )
        model.config.pad_token_id = care_fields.get("pad_token_id", base_config.pad_token_id)
        model._write_generation_config()  # the base model's own was loaded with it
        return model

    @classmethod
    def from_published(cls, state_dict: dict[str, torch.Tensor], config: CareConfig) -> "CareForCausalLM":
        """
        A model with the weights of the published CARE code.

        Raises:
            ValueError: if a weight is missing, left over, or of another shape than `config` says.
        """
        model = cls(config)
        renamed = {
            "model.query_embeddings.weight" if name == "query_vector.weight" else name: tensor
            for name, tensor in state_dict.items()
            if tensor.numel()  # a table of no queries
        }
        if config.tie_word_embeddings:
            renamed.setdefault("lm_head.weight", renamed.get("model.embed_tokens.weight"))
        require_same_weights(model.state_dict(), renamed)
        model.load_state_dict(renamed)
        return model


CareModel.register_for_auto_class("AutoModel")
CareForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["CareConfig", "CareForCausalLM", "CareModel"]
