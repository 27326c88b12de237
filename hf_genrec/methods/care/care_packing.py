"""Attention of packed rows: every slot reads its user's history, and a block's slots their own block besides.

In a packed row most pairs of slots cannot see each other: blocks are closed to one another and nobody's history. A mask
over all pairs would spend most of its time there. So the slots of a packed row are put in another order, history first
and then the blocks, all of one size, and a block's scores are those over the history beside those inside the block.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ...catalogue.device_waits import require
from .care_layout import CODE, HISTORY, PADDING, QUERY, CareLayout, RowSizes


@dataclass
class PackedMask:
    """What the slots of packed rows may attend to, True = attended."""

    history: torch.Tensor  # (B, E, H): the columns are the first H slots, which hold the history
    block: torch.Tensor  # (S, S): inside a block, the same for all


def pack_layout(layout: CareLayout, num_queries: list[int], sizes: RowSizes) -> tuple[CareLayout, int]:
    """
    The slots of packed rows in the order history, blocks; padding where a row has fewer of them than another.

    The slot of a block's last code is left out: nothing is predicted from it and nothing attends to it. Its token reads
    the slot before.

    Returns:
        the layout, and H, the number of slots before the blocks.

    Raises:
        ValueError: if a block does not hold exactly the answer token and L codes.
    """
    levels = len(num_queries)
    size = levels + sum(num_queries)  # slots of a block
    is_history = layout.kind == HISTORY
    is_last_code = (layout.kind == CODE) & (layout.stage == levels - 1)
    in_block = (layout.block > 0) & ~is_last_code
    num_blocks = is_last_code.sum(-1)
    beyond = in_block & (layout.stage >= levels)
    whole = (in_block.sum(-1) == num_blocks * size) & ~beyond.any(-1)
    require(whole, f"Packed rows need whole blocks: the answer token and the {levels} codes of a target each.")
    num_history = int(is_history.sum(-1).max()) if sizes.history is None else sizes.history
    most_blocks = int(num_blocks.max()) if sizes.blocks is None else sizes.blocks

    # Where each slot goes; what has no place any more (padding, last codes) goes behind the row and is cut off.
    length = num_history + most_blocks * size
    place = torch.where(is_history, is_history.cumsum(-1) - 1, num_history + in_block.cumsum(-1) - 1)
    place = torch.where(is_history | in_block, place, length)

    def moved(values: torch.Tensor, empty: int) -> torch.Tensor:
        rows = torch.full((len(values), length + 1), empty, device=values.device)
        return rows.scatter(1, place, values)[:, :-1]

    slots = {name: moved(getattr(layout, name), 0) for name in ("stage", "user", "position", "source", "query")}
    kept = torch.where(is_last_code, num_history + in_block.cumsum(-1) - 1, place).clamp(max=length - 1)
    return CareLayout(
        kind=moved(layout.kind, PADDING),
        block=moved(layout.block, -1),
        token_slot=kept.gather(1, layout.token_slot),
        reading_slot=kept.gather(1, layout.reading_slot),
        **slots,
    ), num_history


def packed_mask(
    layout: CareLayout, num_history: int, num_queries: list[int], progressive: list[bool], code_sees_itself: bool
) -> PackedMask:
    """The rules of `attention_allowed` for a layout of `pack_layout`."""
    kind, stage, user, source = (getattr(layout, name) for name in ("kind", "stage", "user", "source"))
    columns = slice(None, num_history)
    limited_stages = torch.tensor([*progressive, False], device=kind.device)
    # A query of a progressive stage reads codes up to its level; to everything else all levels are open.
    finest = torch.where((kind == QUERY) & limited_stages[stage], stage, len(progressive))
    history = (
        (kind[:, None, columns] == HISTORY)
        & (user[:, None, columns] == user[:, :, None])
        & (source[:, None, columns] <= source[:, :, None])
        & (stage[:, None, columns] <= finest[:, :, None])
    )
    # The answer token, then of each stage its queries and its code; the last code has no slot.
    is_code = [False]
    for count in num_queries:
        is_code += [False] * count + [True]
    is_code.pop()
    block = torch.ones(len(is_code), len(is_code), dtype=torch.bool, device=kind.device).tril()
    if not code_sees_itself:
        block &= ~torch.diag(torch.tensor(is_code, device=kind.device))
    return PackedMask(history, block)


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: PackedMask, scaling: float, dropout: float = 0.0
) -> torch.Tensor:
    """
    Attention of packed rows: a softmax over the history's columns and, for a block's slots, its own block's.

    Args:
        query, key, value: (B, heads, E, D).

    Returns:
        (B, heads, E, D)
    """
    size, num_history = len(mask.block), mask.history.shape[-1]
    query = query * scaling
    history_keys, history_values = key[:, :, :num_history].transpose(-1, -2), value[:, :, :num_history]
    closed = ~mask.history[:, None]

    of_history = _masked(query[:, :, :num_history] @ history_keys, closed[:, :, :num_history])
    of_history = _weights(of_history, dropout) @ history_values

    query_blocks, key_blocks, value_blocks = (  # (B, heads, blocks, S, D)
        states[:, :, num_history:].unflatten(2, (-1, size)) for states in (query, key, value)
    )
    outside = _masked(query[:, :, num_history:] @ history_keys, closed[:, :, num_history:])
    inside = _masked(query_blocks @ key_blocks.transpose(-1, -2), ~mask.block)
    weights = _weights(torch.cat([outside, inside.flatten(2, 3)], dim=-1), dropout)  # (B, heads, blocks * S, H + S)
    of_blocks = weights[..., num_history:].unflatten(2, (-1, size)) @ value_blocks
    of_blocks = weights[..., :num_history] @ history_values + of_blocks.flatten(2, 3)
    return torch.cat([of_history, of_blocks], dim=2)


def packed_reading(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: PackedMask,
    slots: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """
    [`packed_attention`] of some slots only.

    Args:
        query: (B, heads, R, D), of the slots (B, R).
        key, value: (B, heads, E, D).

    Returns:
        (B, heads, R, D)
    """
    size, num_history = len(mask.block), mask.history.shape[-1]
    query = query * scaling
    closed = ~torch.take_along_dim(mask.history, slots[..., None], dim=1)[:, None]
    outside = _masked(query @ key[:, :, :num_history].transpose(-1, -2), closed)

    place = (slots - num_history).clamp(min=0)
    own_block = mask.block[place % size] & (slots >= num_history)[..., None]  # (B, R, S)
    row = torch.arange(len(slots), device=slots.device)[:, None]
    key_blocks, value_blocks = (  # (B, R, heads, S, D), each slot's own block
        states[:, :, num_history:].unflatten(2, (-1, size)).transpose(1, 2)[row, place // size]
        for states in (key, value)
    )
    inside = (query.transpose(1, 2).unsqueeze(3) @ key_blocks.transpose(-1, -2)).squeeze(3).transpose(1, 2)
    inside = _masked(inside, ~own_block[:, None])
    weights = _weights(torch.cat([outside, inside], dim=-1), dropout)
    read_inside = (weights[..., num_history:].transpose(1, 2).unsqueeze(3) @ value_blocks).squeeze(3).transpose(1, 2)
    return weights[..., :num_history] @ value[:, :, :num_history] + read_inside


def _masked(scores: torch.Tensor, closed: torch.Tensor) -> torch.Tensor:
    """In place. Finite: the softmax of a padded slot, which nobody reads, is a number too."""
    return scores.masked_fill_(closed, torch.finfo(scores.dtype).min)  # under autocast not the type of the queries


def _weights(scores: torch.Tensor, dropout: float) -> torch.Tensor:
    return nn.functional.dropout(scores.softmax(-1, dtype=torch.float32).to(scores.dtype), dropout)
