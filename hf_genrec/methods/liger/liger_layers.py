"""What LIGER adds to a T5: items' dense vectors from their text, and an encoder that reads them beside the codes."""

from itertools import pairwise

import torch
from torch import nn

from ...decoding.history_encoder import HistoryEncoder
from ...decoding.history_encoding import HistoryEncoding
from .configuration_liger import LigerConfig

EPS = 1e-8  # of the layer norms, as published


class ResidualLayer(nn.Module):
    """A linear layer, norm, ReLU and dropout, and a linear map past them."""

    def __init__(self, size: int, next_size: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(size, next_size)
        self.norm = nn.LayerNorm(next_size, EPS)
        self.skip = nn.Linear(size, next_size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.dropout(nn.functional.relu(self.norm(self.linear(states)))) + self.skip(states)


class TextVectors(nn.Module):
    """Dense vectors of items from their text embeddings, which are fixed and saved with the weights."""

    text: torch.Tensor  # (N, D), NaN until they are set

    def __init__(self, config: LigerConfig):
        super().__init__()
        self.register_buffer("text", torch.full((config.num_items, config.item_vector_size), float("nan")))
        sizes = [config.item_vector_size, *config.projector_sizes]
        self.dropout = nn.Dropout(config.projector_dropout if config.projector_sizes else 0.0)
        self.layers = nn.ModuleList(ResidualLayer(*pair, config.projector_dropout) for pair in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], config.d_model)
        self._known_to_be_set = False

    def forward(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """
        Dense vectors (..., d) of catalogue rows (...), by default of all.

        Raises:
            ValueError: if the texts are not there.
        """
        if not (self._known_to_be_set or torch.compiler.is_compiling()):
            if not self.text.isfinite().all():
                raise ValueError("The model has no text embeddings: call set_item_vectors with an array (N, D) first.")
            self._known_to_be_set = True
        states = self.dropout(self.text if rows is None else self.text[rows])
        for layer in self.layers:
            states = layer(states)
        return self.output(states)


class LigerEncoder(HistoryEncoder):
    """
    T5's encoder of codes, to each of which are added: its item's dense vector, the item's place in the history, and the
    code's level. What stands behind the items (the answer token) is read as it is.
    """

    def __init__(self, config: LigerConfig):
        super().__init__(config)
        self.items = TextVectors(config)
        self.place_embeddings = nn.Embedding(config.max_history, config.d_model)
        self.level_embeddings = nn.Embedding(config.num_levels, config.d_model)
        self.input_norm = nn.LayerNorm(config.d_model, EPS)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.post_init()

    def read(self, input_ids: torch.Tensor, item_rows: torch.Tensor) -> torch.Tensor:
        """
        What the first layer reads, (B, S, d).

        Args:
            input_ids: (B, S), codes of n items and what stands behind them.
            item_rows: (B, n) catalogue rows of the items, -1 where there is none.
        """
        there = item_rows >= 0
        places = (there.long().cumsum(-1) - 1).clamp(min=0)
        of_items = self.items(item_rows.clamp(min=0)) + self.place_embeddings(places)  # (B, n, d)
        added = of_items.unsqueeze(2) + self.level_embeddings.weight  # (B, n, L, d)
        added = added.masked_fill(~there[..., None, None], 0).flatten(1, 2)
        behind = input_ids.shape[1] - added.shape[1]
        states = self.embed_tokens(input_ids) + nn.functional.pad(added, (0, 0, 0, behind))
        return self.input_dropout(self.input_norm(states))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        item_rows: torch.Tensor | None = None,
        **kwargs,
    ) -> HistoryEncoding:
        r"""
        Args:
            input_ids, attention_mask: see [`HistoryEncoder.forward`].
            item_rows (`torch.LongTensor` of shape `(B, n)`):
                Catalogue rows of the items whose codes `input_ids` begin with, -1 for padding.

        Raises:
            ValueError: for no history.
        """
        if input_ids is None or item_rows is None:
            raise ValueError("Give histories as input_ids and item_rows, or encoded ones as encoder_outputs.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        kwargs.pop("return_dict", None)
        outputs = super(HistoryEncoder, self).forward(
            inputs_embeds=self.read(input_ids, item_rows), attention_mask=mask, return_dict=True, **kwargs
        )
        return HistoryEncoding(
            outputs.last_hidden_state, outputs.get("hidden_states"), outputs.get("attentions"), attention_mask=mask
        )
