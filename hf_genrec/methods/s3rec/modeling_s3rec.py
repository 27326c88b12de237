"""S3-Rec (arXiv 2008.07873): an encoder that is pretrained on items, attributes and segments, then predicts items."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from ...catalogue.device_waits import may_ask, places_of, require
from ...catalogue.flat_code import FlatModelCode
from ...catalogue.published_weights import require_same_weights
from ...catalogue.transformers_bridge import returns_tuples
from ...decoding.post_norm_layers import PostNormLayer, dropout
from ...decoding.recommend_by_scores import ItemRecommenderMixin
from ...decoding.shared_batch import is_shared
from .configuration_s3rec import S3RecConfig
from .s3rec_losses import attribute_loss, contrast_loss, next_item_loss


class S3RecPreTrainedModel(FlatModelCode, PreTrainedModel):
    """What the models share: the configuration, and weights of the published code."""

    config_class = S3RecConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    # The heads of the pretraining, which fine-tuning does without.
    _keys_to_ignore_on_load_unexpected = [r"^attribute_embeddings\.", r"^(aap|mip|map|sp)\."]  # noqa: RUF012

    @classmethod
    def from_published(cls, state_dict: dict[str, torch.Tensor], config: S3RecConfig):
        """
        A model with the weights of the published code, in evaluation mode as `from_pretrained`'s. Its rows of items are
        PAD, items, MASK; here PAD stands behind the items.

        Raises:
            ValueError: if a weight is missing, left over, or of another shape than `config` says.
        """
        model: Any = cls(config)
        own = model.state_dict()
        heads = ("attribute_embeddings.", "aap_norm.", "mip_norm.", "map_norm.", "sp_norm.")
        given = state_dict
        if not any(name.startswith("aap") for name in own):
            given = {name: weight for name, weight in state_dict.items() if not name.startswith(heads)}
        require_same_weights({published_name(name): weight for name, weight in own.items()}, given)
        weights = {name: given[published_name(name)] for name in own}
        for name in weights:
            if name.endswith("item_embeddings.weight"):
                weights[name] = ours_first(weights[name])
        model.load_state_dict(weights)
        return model.eval()


def ours_first(table: torch.Tensor) -> torch.Tensor:
    """A published table of PAD, items and MASK (N + 2, d) in the order items, PAD, MASK."""
    return torch.cat([table[1:-1], table[:1], table[-1:]])


def published_name(name: str) -> str:
    """What the published code calls a weight."""
    for ours, published in (
        ("model.", ""),
        ("layers.", "item_encoder.layer."),
        (".attention.output", ".attention.dense"),
        (".feed_forward.up", ".intermediate.dense_1"),
        (".feed_forward.down", ".intermediate.dense_2"),
        (".feed_forward.", ".intermediate."),
        ("layer_norm", "LayerNorm"),
        ("aap.", "aap_norm."),
        ("mip.", "mip_norm."),
        ("map.", "map_norm."),
        ("sp.", "sp_norm."),
    ):
        name = name.replace(ours, published)
    return name


class S3RecModel(S3RecPreTrainedModel):
    """The encoder: items and positions, and post-norm layers."""

    def __init__(self, config: S3RecConfig):
        super().__init__(config)
        self.item_embeddings = nn.Embedding(config.num_items + 2, config.hidden_size)  # items, PAD, MASK
        self.position_embeddings = nn.Embedding(config.max_history, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(PostNormLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def places(self, real: torch.Tensor) -> torch.Tensor:
        """Position (B, T) of each column; `real` says which hold an item or MASK, and these stand side by side."""
        length, limit = real.shape[1], self.config.max_history
        # Of a row without items, the last column is read.
        first = torch.where(real.any(-1), real.int().argmax(-1), length - 1).unsqueeze(-1)
        place = torch.arange(length, device=real.device) - first
        if self.config.positions_from == "newest":
            place = place + limit - real.sum(-1, keepdim=True).clamp(min=1)
        return place.clamp(0, limit - 1)

    @returns_tuples
    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, causal: bool = True, **kwargs
    ) -> BaseModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Catalogue rows, oldest first, padded on either side with PAD = N; MASK = N + 1. Of a row without items,
                PAD is read.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                1 for items; PAD is left out without it, too.
            causal (`bool`, defaults to `True`):
                Items attend to earlier ones and themselves (fine-tuning, recommending), or to all (pretraining).

        Raises:
            ValueError: for histories longer than `max_history`.
        """
        length, limit = input_ids.shape[1], self.config.max_history
        if length > limit:
            raise ValueError(f"Histories of {length} items: cut them to the newest max_history={limit}.")
        real = real_items(input_ids, attention_mask, self.config.num_items)
        columns = torch.arange(length, device=input_ids.device)
        hidden = self.item_embeddings(input_ids) + self.position_embeddings(self.places(real))
        hidden = dropout(self.layer_norm(hidden), self.config.hidden_dropout, self.training)
        before = columns <= columns.unsqueeze(-1) if causal else columns >= 0
        allowed = real.unsqueeze(1) & before  # (B, T, T)
        # What may attend to nothing, as padding before the first item, attends to itself.
        alone = ~allowed.any(-1, keepdim=True) & torch.eye(length, dtype=torch.bool, device=real.device)
        allowed = (allowed | alone).unsqueeze(1)
        for layer in self.layers:
            hidden = layer(hidden, allowed)
        return BaseModelOutput(last_hidden_state=hidden)

    def by_length(self, input_ids: torch.Tensor, real: torch.Tensor, causal: bool) -> torch.Tensor:
        """
        The states (B, T, d) of [`forward`]; on a processor rows of like lengths at a time, so that little of what is
        computed is padding, whose states are 0 then. A GPU takes longer to start more operations than to read some
        padding, and processes that gather weights module by module must call each of them equally often.

        Args:
            real: (B, T) boolean, which of `input_ids` hold an item or MASK.
        """
        if not may_ask(real) or is_shared():
            return self(input_ids, real, causal=causal).last_hidden_state
        states = self.item_embeddings.weight.new_zeros(*input_ids.shape, self.config.hidden_size)
        parts = (real.sum(-1).clamp(min=4) - 1.0).frexp().exponent  # lengths differ by less than a factor of two
        for part in parts.unique():
            rows = (parts == part).nonzero()  # (n, 1)
            used = real[rows[:, 0]].any(0)
            columns = used.nonzero().squeeze(1) if used.any() else torch.arange(real.shape[1])[-1:]
            found = self(input_ids[rows, columns], real[rows, columns], causal=causal)
            states = states.index_put((rows, columns), found.last_hidden_state)
        return states


def real_items(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, pad: int) -> torch.Tensor:
    """Which of the columns (B, T) hold an item or MASK."""
    real = input_ids != pad
    return real if attention_mask is None else real & attention_mask.bool()


def last_states(states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Of (B, T, d) the states of the newest items, (B, d); of a row without items, that of its last column."""
    columns = torch.arange(real.shape[1], device=real.device)
    last = torch.where(real.any(-1), (real * columns).argmax(-1), real.shape[1] - 1)
    return states.gather(1, last.view(-1, 1, 1).expand(-1, -1, states.shape[-1])).squeeze(1)


@dataclass
class S3RecPretrainingOutput(ModelOutput):
    """
    Args:
        loss: weighted sum of `losses`.
        losses: the unweighted terms by name: `aap`, `mip`, `map`, `sp`; sums over the batch, or divided as the loss.
        hidden_states: (B, T, d), of the history with masked items.
        segment_context, segment, other_segment: (B, d), newest states of the history without the segment, of the
            segment, and of the negative one.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    hidden_states: torch.FloatTensor | None = None
    segment_context: torch.FloatTensor | None = None
    segment: torch.FloatTensor | None = None
    other_segment: torch.FloatTensor | None = None


class S3RecForPretraining(S3RecPreTrainedModel):
    """The encoder with the heads of the four tasks; items attend to all items."""

    def __init__(self, config: S3RecConfig):
        super().__init__(config)
        size = config.hidden_size
        self.model = S3RecModel(config)
        self.mip, self.sp = nn.Linear(size, size), nn.Linear(size, size)
        if config.num_attributes:
            self.attribute_embeddings = nn.Embedding(config.num_attributes, size)
            self.aap, self.map = nn.Linear(size, size), nn.Linear(size, size)
        self.post_init()

    def attribute_logits(self, head: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        """(n, A) of states (n, d) by `aap` or `map`."""
        return head(states) @ self.attribute_embeddings.weight.T

    @returns_tuples
    def forward(
        self,
        input_ids: torch.Tensor,
        items: torch.Tensor,
        negatives: torch.Tensor,
        masked_segment: torch.Tensor,
        segment: torch.Tensor,
        other_segment: torch.Tensor,
        attributes: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        item_places: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> S3RecPretrainingOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Histories in which some items are MASK = N + 1; see [`S3RecModel.forward`].
            items, negatives (`torch.LongTensor` of shape `(B, T)`):
                What stands there, and items that the history does not have.
            masked_segment, segment, other_segment (`torch.LongTensor` of shape `(B, T)`):
                The history with MASK in the place of a segment, the segment between MASK, and another one there.
            attributes (`torch.Tensor` of shape `(n, A)`, *optional*):
                1 for those that an item has; of all n items, one history after the other, without padding. Needed where
                the model knows attributes.
            item_places (`torch.LongTensor` of shape `(n,)`, *optional*):
                Where all histories, one after the other, have these items. Found if left out, which a GPU has to be
                waited for.
            num_items_in_batch (*optional*):
                What the sums are divided by; by default they are not, as published.

        Raises:
            ValueError: if attributes are given to a model without any, or are missing.
        """
        config = self.config
        if (attributes is None) == bool(config.num_attributes):
            raise ValueError(f"The model knows {config.num_attributes} attributes: give them with the items, or none.")
        rows = torch.cat([input_ids, masked_segment, segment, other_segment])
        masks = None if attention_mask is None else attention_mask.repeat(4, 1)
        real = real_items(rows, masks, config.num_items)
        states = self.model.by_length(rows, real, causal=False)
        hidden = states[: len(input_ids)]
        context, own, other = last_states(states, real)[len(input_ids) :].chunk(3)

        places = places_of(real[: len(input_ids)], item_places)
        read, is_masked = hidden.flatten(0, 1)[places], input_ids.flatten()[places] == config.num_items + 1
        guessed, table = self.mip(read), self.model.item_embeddings
        scores = [(guessed * table(rows.flatten()[places])).sum(-1) for rows in (items, negatives)]
        losses = {"mip": contrast_loss(*scores, counts=is_masked, on_logits=config.mip_on_logits)}
        context_of = self.sp(context)
        segments = [(context_of * segment_of).sum(-1) for segment_of in (own, other)]
        losses["sp"] = contrast_loss(*segments, on_logits=config.mip_on_logits)
        if attributes is not None:
            losses["aap"] = attribute_loss(self.attribute_logits(self.aap, read), attributes, ~is_masked)
            losses["map"] = attribute_loss(self.attribute_logits(self.map, read), attributes, is_masked)
        divisor = 1 if num_items_in_batch is None else num_items_in_batch
        losses = {name: value / divisor for name, value in losses.items()}
        loss: Any = sum(getattr(config, f"{name}_weight") * value for name, value in losses.items())
        return S3RecPretrainingOutput(loss, losses, hidden, context, own, other)


@dataclass
class S3RecOutput(ModelOutput):
    """
    Args:
        loss: of the next items.
        logits: (B, N), scores; `None` with labels.
        hidden_states: (B, T, d)
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: torch.FloatTensor | None = None


class S3RecForNextItem(ItemRecommenderMixin, S3RecPreTrainedModel):
    """
    The encoder with the score of every catalogue row as one class each: the product of the newest state and the item's
    vector.

    Example:

    ```python
    >>> model = AutoModelForSequenceClassification.from_pretrained("runs/s3rec-beauty/model", trust_remote_code=True)
    >>> model.recommend([["B004756YJA", "B004ZT0SSG"]], k=10)
    ```
    """

    def __init__(self, config: S3RecConfig):
        super().__init__(config)
        self.model = S3RecModel(config)
        self.post_init()

    @returns_tuples
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sequence_labels: torch.Tensor | None = None,
        negatives: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        target_places: torch.Tensor | None = None,
        **kwargs,
    ) -> S3RecOutput:
        r"""
        Args:
            input_ids, attention_mask: see [`S3RecModel.forward`].
            labels (`torch.LongTensor` of shape `(B,)`, *optional*):
                Catalogue rows of the targets.
            sequence_labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Instead of `labels`: at position t the target after items 0..t, -100 where there is none.
            negatives (`torch.LongTensor` of shape `(n,)`, *optional*):
                `loss_type="bce"`: a row for each of the n targets that it is told from, one history after the other.
            num_items_in_batch (*optional*):
                Targets in the whole optimisation step. The loss is then the sum over targets divided by it.
            target_places (`torch.LongTensor` of shape `(n,)`, *optional*):
                Where `sequence_labels`, all rows one after the other, have their targets. Read from the labels if left
                out, which a GPU has to be waited for.

        Raises:
            ValueError: for arguments that do not go together, or targets where there is no item.
        """
        config = self.config
        real = real_items(input_ids, attention_mask, config.num_items)
        states = self.model.by_length(input_ids, real, causal=True)
        if labels is None and sequence_labels is None:
            logits = last_states(states, real) @ self.item_vectors()[: config.num_items].T
            return S3RecOutput(logits=logits, hidden_states=states)
        if labels is not None and sequence_labels is not None:
            raise ValueError("Give labels (a target per row) or sequence_labels (one per position), not both.")
        if (negatives is None) == (config.loss_type == "bce"):
            raise ValueError(f"loss_type={config.loss_type!r}: negatives are for 'bce', which needs them.")
        if sequence_labels is None:
            chosen = last_states(states, real)
        else:
            is_target = sequence_labels != -100
            require(real | ~is_target, "sequence_labels has a target at a row and position where there is no item.")
            places = places_of(is_target, target_places)
            chosen, labels = states.flatten(0, 1)[places], sequence_labels.flatten()[places]
        table = self.item_vectors()
        table = table[: config.num_items] if negatives is None else table
        total = len(chosen) if num_items_in_batch is None else num_items_in_batch
        return S3RecOutput(loss=next_item_loss(chosen, table, labels, negatives) / total, hidden_states=states)

    def item_vectors(self) -> torch.Tensor:
        """
        (N + 2, d), PAD and MASK last, which are never recommended; scores are their products with [`user_vectors`].

        Raises:
            ValueError: for a processor with more items or fewer: they would be read as others, or as PAD.
        """
        if self.processor is not None and len(self.processor.item_ids) != self.config.num_items:
            raise ValueError(
                f"The processor has {len(self.processor.item_ids)} items, the model {self.config.num_items}: it learns "
                f"a vector per item, train it on the new catalogue."
            )
        return self.model.item_embeddings.weight

    def user_vectors(self, input_ids, attention_mask, item_vectors: torch.Tensor) -> torch.Tensor:
        """(B, d), the states of the newest items."""
        states = self.model(input_ids, attention_mask).last_hidden_state
        return last_states(states, real_items(input_ids, attention_mask, self.config.num_items))


S3RecModel.register_for_auto_class("AutoModel")
S3RecForNextItem.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = ["S3RecConfig", "S3RecForNextItem", "S3RecForPretraining", "S3RecModel"]
