"""ReaRec (arXiv 2503.22675): a sequential recommender that feeds its last state back K times before it ranks."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ...catalogue.device_waits import places_in_rows, places_of
from ...catalogue.flat_code import FlatModelCode
from ...catalogue.published_weights import require_same_weights
from ...catalogue.transformers_bridge import initialization as init
from ...catalogue.transformers_bridge import returns_tuples
from ...decoding.post_norm_layers import dropout
from ...decoding.recommend_by_scores import ItemRecommenderMixin
from .configuration_rearec import ReaRecConfig
from .rearec_depth_rules import ConfidenceRule, HaltingRule, adaptive_predictions, build_depth_rule
from .rearec_layers import (
    MASKED,
    AdaptorLinear,
    IdItems,
    LayerCache,
    ReaRecLayer,
    TextItems,
    Whitening,
    last_items,
    real_items,
    rows_at,
    whole_table,
)
from .rearec_losses import draw_negatives, prediction_state, rearec_loss
from .rearec_targets import labelled_positions, states_of_targets
from .rearec_text_catalogue import NewTextItems, TextVectors


class ReaRecPreTrainedModel(TextVectors, FlatModelCode, PreTrainedModel):
    """What the two models share: the configuration, the initialisation, the text embeddings."""

    config_class = ReaRecConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, AdaptorLinear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.zeros_(module.bias)
            return
        super()._init_weights(module)
        if isinstance(module, TextItems):
            init.constant_(module.vectors, float("nan"))  # marks that none are set
        elif isinstance(module, Whitening):
            init.zeros_(module.mean)
        elif isinstance(module, HaltingRule | ConfidenceRule):
            for buffer in module.buffers():
                init.zeros_(buffer)


@dataclass
class ReaRecModelOutput(ModelOutput):
    """
    Args:
        reasoning_states: (B, K + 1, d), r_0..r_K; with `positions` (B, M, K + 1, d).
        noised_states: the same with noise, its r_0 the clean one; `None` without noise.
        caches: keys and values of each layer, items and steps apart; with noise, the noised steps after the others.
    """

    reasoning_states: torch.FloatTensor | None = None
    noised_states: torch.FloatTensor | None = None
    caches: tuple[LayerCache, ...] | None = None


class ReaRecModel(ReaRecPreTrainedModel):
    """
    The encoder and its reasoning steps. A history is encoded once; each step adds one position to the keys and values
    of every layer, and gradients flow through all of them.
    """

    _keys_to_ignore_on_load_unexpected = [r"^depth\."]  # noqa: RUF012  (the rule of adaptive depth, which is the head's)

    def __init__(self, config: ReaRecConfig):
        super().__init__(config)
        self.items = TextItems(config) if config.reads_text else IdItems(config)
        # The last row is the position of padding.
        self.position_embeddings = nn.Embedding(config.max_history + 1, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers: Any = nn.ModuleList(ReaRecLayer(config) for _ in range(config.num_hidden_layers))
        has_positions = config.reasoning in ("rpe", "erl", "prl")
        self.reasoning_embeddings = nn.Embedding(config.steps, config.hidden_size) if has_positions else None
        self.post_init()

    def item_table(self) -> torch.Tensor:
        """Item vectors as they are read and scored, (N + 1, d), PAD last."""
        return self.items()

    def enter(self, states: torch.Tensor) -> torch.Tensor:
        """What enters the first layer: layer norm and dropout, the same for items and for reasoning steps."""
        return dropout(self.layer_norm(states), self.config.embedding_dropout, self.training)

    @returns_tuples
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        num_steps: int | None = None,
        positions: torch.Tensor | None = None,
        item_table: torch.Tensor | None = None,
        **kwargs,
    ) -> ReaRecModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Catalogue rows, oldest first, padded on either side with PAD = N. Of a row without items, PAD is read.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                1 for items; PAD is left out without it, too.
            noise (`torch.FloatTensor` of shape `(K, B, d)`, *optional*):
                Standard normal noise: the steps are taken a second time with `noise_scale` times it added to their
                inputs. With `positions`, `(K, B, M, d)`.
            num_steps (`int`, *optional*):
                Take fewer steps than K; the states are the first ones.
            positions (`torch.LongTensor` of shape `(B, M)`, *optional*):
                Positions to reason from, by default each row's last item. Each attends to what that position may
                attend to, and to its own steps.
            item_table (`torch.FloatTensor` of shape `(N + 1, d)`, *optional*):
                [`item_table`], where the caller has it already.

        Raises:
            ValueError: for histories longer than `max_history`, more steps than K, or noise of another shape.
        """
        config = self.config
        num_steps = config.steps if num_steps is None else num_steps
        if not 0 <= num_steps <= config.steps:
            raise ValueError(f"num_steps={num_steps}: this model takes 0 to {config.steps} reasoning steps.")
        real = real_items(input_ids, attention_mask, config.num_items)
        rows = input_ids.shape[:1]
        expected = (num_steps, *(rows if positions is None else positions.shape), config.hidden_size)
        if noise is not None and noise.shape != expected:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {expected}: one vector per step and row.")
        noises = None
        if noise is not None:
            noises = config.noise_scale * (noise.unsqueeze(2) if positions is None else noise)  # (K, B, M, d)

        table = self.item_table() if item_table is None else item_table
        hidden, caches, mask = self.encode(input_ids, real, table, positions)
        states, noised, count = [hidden], [hidden], hidden.shape[1]
        if noises is not None:
            mask = torch.cat([mask, mask], 1)  # the steps with noise are those of M more readings
        for step in range(num_steps):
            fed = self.fed(states[-1], step)
            if noises is not None:
                fed = torch.cat([fed, fed + noises[step]], 1)
            state, caches = self.reason(fed, caches, mask)
            states.append(state[:, :count])
            noised.append(state[:, count:])
        results = [torch.stack(states, 2), torch.stack(noised, 2) if noise is not None else None]
        if positions is None:
            results = [result.squeeze(1) if result is not None else None for result in results]
        return ReaRecModelOutput(results[0], results[1], tuple(caches))

    def encode(
        self,
        input_ids: torch.Tensor,
        real: torch.Tensor,
        item_table: torch.Tensor,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[LayerCache], torch.Tensor]:
        """
        The histories before any reasoning.

        Args:
            input_ids, item_table, positions: see [`forward`].
            real: (B, T) boolean, which of `input_ids` are items.

        Returns:
            r_0 (B, M, d), the caches, and what each reading attends to (B, M, T): 0, or `MASKED`.

        Raises:
            ValueError: for histories longer than `max_history`.
        """
        length, limit = input_ids.shape[1], self.config.max_history
        if length > limit:
            raise ValueError(f"Histories of {length} items: cut them to the newest max_history={limit}.")
        columns = torch.arange(length, device=input_ids.device)
        readings: torch.Tensor = last_items(real) if positions is None else positions  # (B, M)
        place = torch.where(real, real.cumsum(-1) - 1, limit)
        hidden = self.enter(nn.functional.embedding(input_ids, item_table) + self.position_embeddings(place))
        # Every position attends to itself: so a row without items reads PAD.
        causal = columns >= 0 if self.config.backbone == "bert4rec" else columns <= columns.unsqueeze(-1)
        allowed = (real.unsqueeze(1) & causal) | torch.eye(length, dtype=torch.bool, device=real.device)  # (B, T, T)
        of_readings = rows_at(allowed, readings)  # (B, M, T)
        caches = []
        for layer in self.layers[:-1]:
            hidden, cache = layer.encode(hidden, allowed)
            caches.append(cache)
        # Nobody asks for the last layer's states but the readings'.
        hidden, cache = self.layers[-1].encode(hidden, of_readings, readings)
        caches.append(cache)
        mask = torch.zeros_like(of_readings, dtype=hidden.dtype).masked_fill(~of_readings, MASKED)
        return hidden, caches, mask

    def fed(self, state: torch.Tensor, step: int) -> torch.Tensor:
        """What reasoning step `step` (from 0) reads of the state before it, (B, M, d)."""
        return state if self.reasoning_embeddings is None else state + whole_table(self.reasoning_embeddings)[step]

    def reason(self, fed: torch.Tensor, caches: list[LayerCache], mask: torch.Tensor):
        """One step: the state (B, M, d) and the caches with the step."""
        hidden, extended = self.enter(fed), []
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden, cache = layer.reason(hidden, cache, mask)
            extended.append(cache)
        return hidden, extended


@dataclass
class ReaRecOutput(ModelOutput):
    """
    Args:
        loss: weighted sum of `losses`.
        losses: the unweighted terms by name: `ce`, and `kl` (ERL), `progressive` and `contrastive` (PRL).
        logits: (B, N), scores of the prediction state divided by the temperature; packed rows: (targets, N). `None` in
            training with labels: the loss makes do without an array of all of them.
        reasoning_states: (B, K + 1, d), r_0..r_K; packed rows: (targets, K + 1, d).
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: torch.FloatTensor | None = None
    reasoning_states: torch.FloatTensor | None = None


class ReaRecForNextItem(NewTextItems, ItemRecommenderMixin, ReaRecPreTrainedModel):
    """
    ReaRec with the score of every catalogue row as one class each.

    Attributes:
        num_steps (`int`, *optional*): reasoning steps to take where a call does not say, instead of K or of what
            `depth_rule` decides.
        depth (*optional*): the rule of [`adaptive_depth`] that `depth_rule` names.

    Example:

    ```python
    >>> model = AutoModelForSequenceClassification.from_pretrained("runs/rearec-beauty/model", trust_remote_code=True)
    >>> model.recommend([["B004756YJA", "B004ZT0SSG"]], k=10)
    ```
    """

    num_steps: int | None = None

    def __init__(self, config: ReaRecConfig):
        super().__init__(config)
        self.model = ReaRecModel(config)
        self.depth = build_depth_rule(config)
        self.post_init()

    @returns_tuples
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        sequence_labels: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        num_steps: int | None = None,
        target_places: torch.Tensor | None = None,
        most_targets: int | None = None,
        **kwargs,
    ) -> ReaRecOutput:
        r"""
        Args:
            input_ids, attention_mask, num_steps: see [`ReaRecModel.forward`]. All users take as many steps; a depth is
                chosen by [`recommend`], [`score_items`] and [`user_vectors`] alone.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*):
                Catalogue rows of the targets.
            noise (`torch.FloatTensor` of shape `(K, B, d)`, *optional*):
                PRL: standard normal noise. The loss has its contrastive term when it is given. Packed rows: `(K,
                targets, d)`, in the order of `sequence_labels`.
            sequence_labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Packed rows, instead of `labels`: at position t the target after items 0..t, -100 where there is none.
                The loss is that of one row per target, and the history is encoded once for all of them.
            num_items_in_batch (*optional*):
                Targets in the whole optimisation step. The loss is then the sum over targets divided by it.
            target_places (`torch.LongTensor` of shape `(n,)`, *optional*), most_targets (`int`, *optional*):
                Where `sequence_labels`, all rows one after the other, have their targets, and how many the row with
                most of them has. Read from the labels if left out, which a GPU has to be waited for.

        Raises:
            ValueError: for arguments that do not go together, or targets where there is no item.
        """
        if noise is not None and self.config.reasoning != "prl":
            raise ValueError(f"noise is for reasoning='prl', this model has {self.config.reasoning!r}: leave it out.")
        num_steps = self.num_steps if num_steps is None else num_steps
        table = self.model.item_table()
        if labels is None and sequence_labels is None:
            outputs = self.model(input_ids, attention_mask, noise=noise, num_steps=num_steps, item_table=table)
            states = outputs.reasoning_states
            return ReaRecOutput(logits=self._user_vectors(states) @ table[:-1].T, reasoning_states=states)
        real = real_items(input_ids, attention_mask, self.config.num_items)
        if sequence_labels is None:
            positions = last_items(real)
            is_target = torch.ones_like(positions, dtype=torch.bool)
        else:
            if labels is not None:
                raise ValueError("Give labels (a target per row) or sequence_labels (of packed rows), not both.")
            if self.config.backbone == "bert4rec":
                raise ValueError("bert4rec's items see later ones: give it a row per target (labels), not packed rows.")
            positions, is_target = labelled_positions(real, sequence_labels, most_targets)
            labels = sequence_labels.flatten()[places_of(sequence_labels != -100, target_places)]
        readings = places_in_rows(is_target, len(labels))
        states, noised = states_of_targets(
            self.model, input_ids, real, positions, is_target, readings, noise, num_steps=num_steps, item_table=table
        )
        popularity = None if self.processor is None else torch.from_numpy(self.processor.popularity)
        negatives = draw_negatives(self.config, labels, popularity, shared=self.training)
        total = len(labels) if num_items_in_batch is None else num_items_in_batch
        result = rearec_loss(states, noised, table, labels, self.config, negatives, total, shared=self.training)
        logits = None if self.training else self._user_vectors(states) @ table[:-1].T
        return ReaRecOutput(loss=result.loss, losses=result.terms, logits=logits, reasoning_states=states)

    def _user_vectors(self, states: torch.Tensor) -> torch.Tensor:
        return prediction_state(states, self.config.reasoning) / self.config.temperature

    def item_vectors(self) -> torch.Tensor:
        """
        (N + 1, d), PAD last; scores are their products with [`user_vectors`].

        Raises:
            ValueError: for a processor with more items or fewer: they would be read as others, or as PAD.
        """
        if self.processor is not None and len(self.processor.item_ids) != self.config.num_items:
            raise ValueError(
                f"The processor has {len(self.processor.item_ids)} items, the model {self.config.num_items}: new items "
                f"enter by the model's add_items."
            )
        return self.model.item_table()

    def user_vectors(self, input_ids, attention_mask, item_vectors: torch.Tensor) -> torch.Tensor:
        """(B, d), prediction states divided by the temperature; of the depth that `depth_rule` decides, if any."""
        if self.depth is not None and self.num_steps is None:
            return self.adaptive_vectors(input_ids, attention_mask, item_vectors)[0]
        outputs = self.model(input_ids, attention_mask, num_steps=self.num_steps, item_table=item_vectors)
        return self._user_vectors(outputs.reasoning_states)

    def adaptive_vectors(
        self, input_ids, attention_mask, item_vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[`user_vectors`] (B, d) with the number of steps (B,) that each user has taken by `depth_rule`."""
        predictions, depths = adaptive_predictions(self.model, self.depth, input_ids, attention_mask, item_vectors)
        return predictions / self.config.temperature, depths

    def set_depth_rule(self, rule: str | None, threshold: float = 0.0, **weights: torch.Tensor) -> None:
        """
        Decide the depth by another rule; it is saved with the model.

        Args:
            rule: one of `DEPTH_RULES`, or `None` for K steps always.
            threshold: `depth_threshold`.
            weights: all buffers of the rule's class in [`adaptive_depth`], by name.

        Raises:
            ValueError: for a rule that is not known, a model without reasoning, or weights that do not fit.
        """
        config = copy.deepcopy(self.config)
        config.depth_rule, config.depth_threshold = rule, threshold
        config.check_depth()
        depth = build_depth_rule(config)
        require_same_weights({} if depth is None else depth.state_dict(), weights)
        if depth is not None:
            depth.load_state_dict(weights)
            depth.to(self.device)
        self.depth = depth
        self.config.depth_rule, self.config.depth_threshold = rule, threshold

    @classmethod
    def from_published(cls, state_dict: dict[str, torch.Tensor], config: ReaRecConfig) -> "ReaRecForNextItem":
        """
        A model with the weights of the published ReaRec code, in evaluation mode as `from_pretrained`'s.

        Raises:
            ValueError: if a weight is missing, left over, or of another shape than `config` says.
        """
        model = cls(config)
        own = model.state_dict()
        require_same_weights({published_name(name): tensor for name, tensor in own.items()}, state_dict)
        model.load_state_dict({name: state_dict[published_name(name)] for name in own})
        return model.eval()


def published_name(name: str) -> str:
    """What the published code calls a weight of [`ReaRecForNextItem`] with backbone sasrec or bert4rec."""
    for ours, published in (
        ("model.items.embeddings", "item_emb"),
        ("model.position_embeddings", "pos_emb"),
        ("model.reasoning_embeddings", "model.reason_pos_emb"),
        ("model.layers.", "trm_encoder.layer."),
        (".attention.output", ".multi_head_attention.dense"),
        (".attention.layer_norm", ".multi_head_attention.LayerNorm"),
        (".attention.query", ".multi_head_attention.query_layer"),
        (".attention.key", ".multi_head_attention.key_layer"),
        (".attention.value", ".multi_head_attention.value_layer"),
        (".up.", ".dense_1."),
        (".down.", ".dense_2."),
        (".layer_norm", ".LayerNorm"),
    ):
        name = name.replace(ours, published)
    return name


ReaRecModel.register_for_auto_class("AutoModel")
ReaRecForNextItem.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = ["ReaRecConfig", "ReaRecForNextItem", "ReaRecModel"]
