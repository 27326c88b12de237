"""A T5 encoder that reads a history of codes, with what may stand between the items and before them."""

import torch
from torch import nn

from .code_t5_config import CodeT5Config
from .code_t5_stack import CodeT5Stack
from .history_encoding import HistoryEncoding


class HistoryEncoder(CodeT5Stack):
    """
    T5's encoder. With `item_separators` a learned vector follows the codes of each item; with `num_user_bins` one of so
    many learned vectors stands before the history. Both shift T5's relative positions, as in GRID.
    """

    def __init__(self, config: CodeT5Config):
        super().__init__(config)
        self.separator = nn.Embedding(1, config.d_model) if config.item_separators else None
        self.user_embeddings = nn.Embedding(config.num_user_bins, config.d_model) if config.num_user_bins else None
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        user_bins: torch.Tensor | None = None,
        **kwargs,
    ) -> HistoryEncoding:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`):
                Codes of whole items, oldest first, and the answer token behind them, if it is read.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*):
                1 for tokens, 0 for padding by whole items, on either side.
            user_bins (`torch.LongTensor` of shape `(B,)`, *optional*):
                The row of each user's vector, -1 where the user is not known.

        Raises:
            ValueError: for no history, user bins that the model has no vectors for, or with `item_separators` a length
            that is no number of whole items.
        """
        if input_ids is None:
            raise ValueError("Give histories as input_ids, or encoded ones as encoder_outputs.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeddings = self.embed_tokens(input_ids)
        if self.separator is not None:
            embeddings, mask = self._separated(embeddings, mask, self.separator.weight)
        if self.user_embeddings is not None:
            bins = torch.full_like(input_ids[:, 0], -1) if user_bins is None else user_bins
            users = self.user_embeddings(bins.clamp(min=0)).unsqueeze(1)
            embeddings = torch.cat([users, embeddings], dim=1)
            mask = torch.cat([(bins >= 0).to(mask.dtype).unsqueeze(1), mask], dim=1)
        elif user_bins is not None:
            raise ValueError("user_bins: the model has no vectors of users (num_user_bins): leave them out.")
        kwargs.pop("return_dict", None)
        outputs = super().forward(inputs_embeds=embeddings, attention_mask=mask, return_dict=True, **kwargs)
        return HistoryEncoding(
            outputs.last_hidden_state, outputs.get("hidden_states"), outputs.get("attentions"), attention_mask=mask
        )

    def _separated(
        self, embeddings: torch.Tensor, mask: torch.Tensor, separator: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, n * (L + 1) + rest, d) and their mask: the separator behind each item is read as it is."""
        levels = self.config.num_levels
        size, rest = divmod(embeddings.shape[1], levels)
        if rest > 1:
            raise ValueError(
                f"Histories of {embeddings.shape[1]} tokens are no whole items of {levels} codes: make prompts with "
                f"the processor."
            )
        items, items_mask = embeddings[:, : size * levels], mask[:, : size * levels]
        items = items.unflatten(1, (size, levels))
        items_mask = items_mask.unflatten(1, (size, levels))
        items = torch.cat([items, separator.expand(len(items), size, 1, -1)], dim=2).flatten(1, 2)
        items_mask = torch.cat([items_mask, items_mask[:, :, -1:]], dim=2).flatten(1, 2)
        if not rest:
            return items, items_mask
        return torch.cat([items, embeddings[:, -1:]], dim=1), torch.cat([items_mask, mask[:, -1:]], dim=1)
