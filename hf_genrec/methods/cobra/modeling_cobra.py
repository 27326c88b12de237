"""COBRA (arXiv 2503.02453): one decoder writes the next item's codes and then, having read them, its dense vector."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from ...catalogue.device_waits import places_of
from ...catalogue.flat_code import FlatModelCode
from ...catalogue.item_vectors import checked_vectors
from ...catalogue.published_weights import require_same_weights
from ...catalogue.transformers_bridge import CACHE, CacheByBothNames, returns_tuples, takes_cache
from ...catalogue.transformers_bridge import initialization as init
from ...decoding.code_loss import at_least_float32
from ...decoding.shared_batch import counts_of_all, own_start, rows_of_all
from ...decoding.shared_keys_values import add_shared_losses, shared_losses
from .cobra_beams import CobraBeamDecoder
from .cobra_layers import CobraLayer, DenseItems, TextLinear
from .cobra_losses import dense_loss, other_users_loss
from .community_cobra import community_weights
from .configuration_cobra import CobraConfig
from .recommending_cobra import CobraRecommenderMixin

CODE, VECTOR = range(2)  # rows of the type embeddings


class CobraPreTrainedModel(FlatModelCode, PreTrainedModel):
    """What the two models share: the configuration, the initialisation, the items' text."""

    config_class = CobraConfig
    base_model_prefix = "model"
    _no_split_modules = ["CobraLayer"]  # noqa: RUF012
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, TextLinear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.zeros_(module.bias)
            return
        super()._init_weights(module)
        if isinstance(module, DenseItems):
            init.constant_(module.text, float("nan"))  # marks that none are set
            if module.own is not None:
                init.zeros_(module.own.weight)
        elif isinstance(module, CobraLayer) and not module.norm_first:
            init.zeros_(module.empty_memory)

    def set_item_vectors(self, vectors: np.ndarray | torch.Tensor) -> None:
        """
        Give the items their text embeddings; they are saved with the weights.

        Args:
            vectors: (N, D), in catalogue order.

        Raises:
            ValueError: for another shape, or vectors with NaN or infinity.
        """
        items: Any = self.base_model.items
        items.text.copy_(checked_vectors(vectors, len(items.text), items.text))


@dataclass
class CobraModelOutput(CacheByBothNames, BaseModelOutputWithPast):
    """`BaseModelOutputWithPast`."""


class CobraModel(CobraPreTrainedModel):
    """
    The decoder. A row is the answer token, and then of each item its L codes and its vector's token, `vocab_size` plus
    the item's catalogue row; it may begin without the answer token. All that is read of an item's text stands behind
    its codes, so that the state behind the codes of an item knows nothing of it yet.
    """

    _keys_to_ignore_on_load_unexpected = ["^code_head"]  # noqa: RUF012

    def __init__(self, config: CobraConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.items = DenseItems(config)
        self.position_embeddings = nn.Embedding(config.num_positions, config.hidden_size)
        self.type_embeddings = nn.Embedding(2, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(CobraLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.norm_first else nn.Identity()
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):  # type: ignore[override]
        self.embed_tokens = value

    def embed(self, input_ids: torch.Tensor, vectors: torch.Tensor | None = None) -> torch.Tensor:
        """
        What stands for tokens (..., d), without positions.

        Args:
            vectors (*optional*): (n, d), dense vectors of the tokens `vocab_size`, `vocab_size` + 1, ..., where the
                caller has them already.
        """
        is_item = input_ids >= self.config.vocab_size
        embeddings = self.embed_tokens(input_ids.masked_fill(is_item, 0))
        rows = input_ids - self.config.vocab_size
        if vectors is None:
            of_items = self.items(rows[is_item]).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter(is_item.unsqueeze(-1), of_items)
        else:
            of_items = vectors[rows.clamp(min=0)].to(embeddings.dtype)
            embeddings = torch.where(is_item.unsqueeze(-1), of_items, embeddings)
        return embeddings + self.type_embeddings(is_item.long())

    def embed_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """[`embed`] of tokens none of which is a vector's."""
        return self.embed_tokens(input_ids) + self.type_embeddings.weight[0]

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        is_token: torch.Tensor | None = None,
        **kwargs,
    ) -> CobraModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Tokens; with a filled cache only the new ones.
            attention_mask (`torch.Tensor` of shape `(B, T_total)` or `(B, 1, T, T_total)`, *optional*):
                1 for tokens, 0 for padding, over the full rows; or what is added to the attention's scores. Rows that
                are padded on the right need none.
            position_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                By default tokens are counted, padding is not.
            cache (`Cache`, *optional*):
                Keys and values so far; may be named `past_key_values`.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, d)`, *optional*):
                Of [`embed`], instead of `input_ids`.
            is_token (`torch.BoolTensor` of shape `(B, T)`, *optional*):
                False for padding, which the routers' losses leave out. By default nothing of what is given is.

        Raises:
            ValueError: for neither tokens nor embeddings, or a row that is too long.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("Give input_ids, or inputs_embeds of the model's embed.")
            inputs_embeds = self.embed(input_ids)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        past, length = (0 if cache is None else int(cache.get_seq_length())), inputs_embeds.shape[1]
        if position_ids is None:
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
            else:
                position_ids = past + torch.arange(length, device=inputs_embeds.device)[None]
            if past + length > self.config.num_positions and int(position_ids.max()) >= self.config.num_positions:
                raise ValueError(
                    f"Rows of {int(position_ids.max()) + 1} tokens: cut histories to the newest max_history="
                    f"{self.config.max_history} items."
                )
        hidden = self.dropout(inputs_embeds + self.position_embeddings(position_ids))
        allowed = attention_mask
        if attention_mask is None or attention_mask.dim() == 2:
            columns = torch.arange(past + length, device=hidden.device)
            allowed = columns <= columns[past:, None]  # (T, T_total)
            if attention_mask is not None:
                # Padding attends to itself: softmax over nothing is not a number.
                itself = columns == columns[past:, None]
                allowed = ((allowed & attention_mask.bool()[:, None]) | itself).unsqueeze(1)
        if is_token is None and self.config.shared_kv_pool_size:
            is_token = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, allowed, cache, index, is_token)
        return CobraModelOutput(last_hidden_state=self.norm(hidden), **{CACHE: cache if use_cache else None})


@dataclass
class CobraOutput(CacheByBothNames, CausalLMOutputWithPast):
    """
    `CausalLMOutputWithPast` with the terms of the loss.

    Args:
        loss: `losses["sparse"] + dense_loss_weight * losses["dense"]`, and the weighted terms of the routers.
        losses: the unweighted terms by name: the cross-entropy per code, and that of the dense vectors, both means over
            the targets; with a pool in training `peak` and `balance` of its routers.
        logits: (B, T, vocab_size), row i for token i + 1: the log-softmax over the codes of the level that comes next,
            -inf elsewhere. Where a vector comes next, all codes have the same. `None` in training with labels.
        last_hidden_state: (B, T, d); behind an item's last code it is the item's predicted vector.
    """

    losses: dict[str, torch.Tensor] | None = None
    last_hidden_state: torch.Tensor | None = None


class CobraForCausalLM(CobraRecommenderMixin, CobraPreTrainedModel, GenerationMixin):
    """
    COBRA with a head per level of codes. `recommend` ranks by codes and dense vector together, `generate` writes codes.

    Example:

    ```python
    >>> model = AutoModelForCausalLM.from_pretrained("runs/cobra-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    beam_decoder_class = CobraBeamDecoder

    def __init__(self, config: CobraConfig):
        super().__init__(config)
        self.model = CobraModel(config)
        self.code_head = nn.Linear(config.hidden_size, config.num_codes)  # level after level
        self.post_init()
        # No end token is ever trained: an item ends with its last code.
        self.generation_config = GenerationConfig(
            max_new_tokens=config.num_levels, pad_token_id=config.pad_token_id, do_sample=False
        )

    def get_output_embeddings(self) -> nn.Linear:
        return self.code_head

    # ---- codes ----

    def level_tokens(self, level: int) -> slice:
        """The token ids of a level's codes."""
        first = sum(self.config.codebook_sizes[:level])
        return slice(first, first + self.config.codebook_sizes[level])

    def level_logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """Logits (..., codes of the level) of states (..., d), in float32 or wider."""
        tokens = self.level_tokens(level)
        return at_least_float32(
            nn.functional.linear(states, self.code_head.weight[tokens], self.code_head.bias[tokens])
        )

    def logits_at(self, states: torch.Tensor, level: int) -> torch.Tensor:
        """[`level_logits`] at their token ids, (..., codes of all levels), -inf elsewhere."""
        tokens, logits = self.level_tokens(level), self.level_logits(states, level)
        return nn.functional.pad(logits, (tokens.start, self.config.num_codes - tokens.stop), value=-torch.inf)

    def _next_codes(self, input_ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, T, vocab_size) of the codes after each token."""
        config = self.config
        logits = torch.zeros(*states.shape[:2], config.vocab_size, device=states.device)
        starts = np.cumsum([0, *config.codebook_sizes])
        for level in range(config.num_levels):
            begins = input_ids >= config.answer_token_id
            if level:
                begins = (input_ids >= starts[level - 1]) & (input_ids < starts[level])
            of_level = self.logits_at(states[begins], level).log_softmax(-1).to(logits.dtype)
            special = config.vocab_size - config.num_codes
            logits[begins] = nn.functional.pad(of_level, (0, special), value=-torch.inf)
        return logits

    # ---- losses ----

    @returns_tuples
    @takes_cache
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        item_vectors: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        target_places: torch.Tensor | None = None,
        **kwargs,
    ) -> CobraOutput:
        r"""
        Args:
            input_ids, attention_mask, position_ids, cache: see [`CobraModel.forward`].
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                The targets' codes and vector tokens at their own positions, -100 elsewhere; row i is compared with
                label i + 1.
            item_vectors (`torch.FloatTensor` of shape `(N, d)`, *optional*):
                Dense vectors of all items, in place of those that the model makes of their text: of a text encoder that
                is trained with it.
            num_items_in_batch (*optional*):
                Target items in the whole optimisation step. The loss is then the sum over targets divided by it.
            target_places (`torch.LongTensor` of shape `(n,)`, *optional*):
                Where in `labels[:, 1:]`, all rows one after the other, the vector tokens of targets are, whose codes
                must be labelled, too. Read from the labels if left out, which a GPU has to be waited for.
        """
        ids, labels, vectors = input_ids, labels, item_vectors
        if labels is not None and vectors is None:
            ids, labels, vectors = self._vectors_of_batch(input_ids, labels)
        with shared_losses(self, labels is not None and self.config.shared_kv_pool_size > 0) as shared:
            outputs = self.model(
                inputs_embeds=self.model.embed(ids, vectors),
                attention_mask=attention_mask,
                position_ids=position_ids,
                cache=cache,
                use_cache=use_cache,
                is_token=input_ids != self.config.pad_token_id,
            )
        states = outputs.last_hidden_state
        loss = losses = logits = None
        if labels is not None:
            losses = self._losses(states, labels, vectors, num_items_in_batch, target_places, shared)
            loss = losses["sparse"] + self.config.dense_loss_weight * losses["dense"]
            loss = add_shared_losses(loss, losses, self.config)
        if labels is None or not self.training:
            logits = self._next_codes(input_ids, states)
        return CobraOutput(
            loss=loss, losses=losses, logits=logits, last_hidden_state=states, **{CACHE: outputs.get(CACHE)}
        )

    def _vectors_of_batch(self, input_ids: torch.Tensor, labels: torch.Tensor):
        """
        The ids and labels (B, T) with their vector tokens numbered anew, and the vectors (n, d) that the numbers stand
        for: those of all items, or of the batch's, in training of the batch that all processes share.
        """
        if self.config.negatives == "catalogue":
            return input_ids, labels, self.model.items()
        first = self.config.vocab_size
        both = torch.stack([input_ids, labels])
        named = both[both >= first] - first
        rows = named.unique()
        if self.training:
            rows = rows_of_all(rows).unique()
        both[both >= first] = torch.searchsorted(rows, named) + first
        return both[0], both[1], self.model.items(rows)

    def _losses(self, states, labels, vectors, num_items_in_batch, target_places, shared) -> dict[str, torch.Tensor]:
        """
        The terms, unweighted, for states (B, T, d), labels (B, T) and the vectors that they number; with those of the
        routers, `shared`.
        """
        config = self.config
        num_rows, width = len(labels), labels.shape[1] - 1
        states, labels = states[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        of_items = places_of(labels >= config.vocab_size, target_places)
        total = len(of_items) if num_items_in_batch is None else num_items_in_batch
        sparse = torch.zeros((), device=states.device)
        for level in range(config.num_levels):
            tokens = self.level_tokens(level)
            before = None if target_places is None else target_places - (config.num_levels - level)
            of_level = places_of((labels >= tokens.start) & (labels < tokens.stop), before)
            logits = self.level_logits(states[of_level], level)
            sparse = sparse + nn.functional.cross_entropy(logits, labels[of_level] - tokens.start, reduction="sum")
        predicted, rows = states[of_items], labels[of_items] - config.vocab_size
        if config.negatives == "other_users":
            users, targets, start = of_items // width, vectors[rows].detach(), 0
            if self.training:
                counts = counts_of_all(len(rows), rows.device)
                users = rows_of_all(users + own_start(counts_of_all(num_rows, rows.device)), counts)
                targets, start = rows_of_all(targets, counts), own_start(counts)
            dense = other_users_loss(predicted, targets, users, config.dense_temperature, start)
        else:
            dense = dense_loss(predicted, vectors, rows, config.dense_temperature)
        # Over accumulated batches the shares of the targets add up to one term of the routers, too.
        shared = {name: term * len(of_items) / total for name, term in shared.items()}
        return {"sparse": sparse / config.num_levels / total, "dense": dense / total, **shared}

    @classmethod
    def from_published(cls, state_dict: dict[str, torch.Tensor], config: CobraConfig) -> "CobraForCausalLM":
        """
        A model with the decoder of the community's code (phonism/genrec), in evaluation mode. That code has a text
        encoder, whose vectors [`forward`] takes as `item_vectors`, in place of fixed text embeddings; its table of
        positions may be longer.

        Raises:
            ValueError: if a weight is missing or of another shape than `config` says.
        """
        model = cls(config)
        found = community_weights(state_dict, config.num_hidden_layers, config.num_levels)
        own = {name: weight for name, weight in model.state_dict().items() if not name.startswith("model.items.")}
        for name, rows in (("model.embed_tokens.weight", config.num_codes), ("model.position_embeddings.weight", None)):
            rows = rows or config.num_positions
            found[name] = torch.cat([found[name][:rows], own[name][rows:].to(found[name].dtype)])
        require_same_weights(own, found)
        model.load_state_dict(found, strict=False)
        return model.eval()


CobraModel.register_for_auto_class("AutoModel")
CobraForCausalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["CobraConfig", "CobraForCausalLM", "CobraModel"]
