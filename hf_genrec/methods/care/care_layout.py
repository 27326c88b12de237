"""Where CARE's query tokens stand, and what each position may attend to: pure functions of the token ids.

The caller's row holds `history codes, answer token, code_1 .. code_L`. Inside the backbone every stage's queries are
inserted before its code, so a row of T tokens becomes a row of E >= T *slots*. Everything here is recomputed from the
ids at every call: there is no state to keep in step with a cache, and reordering beams costs nothing.
"""

from dataclasses import dataclass

import torch

PADDING, HISTORY, ANSWER, QUERY, CODE = range(5)


@dataclass
class CareLayout:
    """Slots of a batch; every tensor is (B, E) unless said otherwise."""

    kind: torch.Tensor  # PADDING, HISTORY, ANSWER, QUERY or CODE
    stage: torch.Tensor  # of a query or an answer's code: 0..L-1; of a history token: which code of its item it is
    user: torch.Tensor  # users of a packed row, in order; one number where there is but one
    block: torch.Tensor  # 0 history, 1..n target blocks, -1 padding
    position: torch.Tensor  # rotary position: padding does not count, a block goes on where its history ends
    source: torch.Tensor  # index into the caller's tokens; a query points at the token it follows
    query: torch.Tensor  # row of the query table, for slots of kind QUERY
    token_slot: torch.Tensor  # (B, T) slot of each token
    reading_slot: (
        torch.Tensor
    )  # (B, T) slot whose state predicts the token after: the last query that follows, or the token itself


def split_blocks(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, answer_token_id: int) -> torch.Tensor:
    """Blocks of unpacked rows, (B, T): history 0, the answer token and what follows it 1, padding -1."""
    blocks = (input_ids == answer_token_id).cumsum(-1).clamp(max=1)
    if attention_mask is not None:
        blocks = blocks.masked_fill(attention_mask == 0, -1)
    return blocks


@dataclass(frozen=True)
class RowSizes:
    """What decides the shapes of a batch, as far as it is known; read from a GPU it would have to be waited for."""

    slots: int | None = None  # of the longest row
    history: int | None = None  # packed rows: history tokens of the row with most of them
    blocks: int | None = None  # packed rows: target blocks of the row with most of them
    kept: int | None = None  # packed rows: of the row with most of them, rows of logits that are kept


def care_layout(
    input_ids: torch.Tensor,
    block_ids: torch.Tensor,
    num_queries: list[int],
    answer_token_id: int,
    num_slots: int | None = None,
) -> CareLayout:
    """
    Lay out the slots of a batch.

    Args:
        input_ids (`torch.Tensor` of shape `(B, T)`):
            Token ids; only the answer tokens, with which blocks begin, matter here.
        block_ids (`torch.Tensor` of shape `(B, T)`):
            0 for history codes, 1..n for target blocks (answer token, then codes; each block a contiguous run), -1 for
            padding. A block belongs to the history that stands before it in the row: with the blocks interleaved
            (item, block, item, block, ...) each target sees exactly its own prefix. Several users may share a row: a
            block 1 begins a new user, to whom the history right before it belongs.
        num_queries (`list[int]`): queries before each of the L codes.
        num_slots (`int`, *optional*): of the longest row.
    """
    device, (batch, length) = block_ids.device, block_ids.shape
    levels = len(num_queries)
    # One more entry of 0, where tokens without queries point.
    queries_after = torch.tensor([*num_queries, 0], device=device)
    first_query = queries_after.cumsum(0) - queries_after

    index = torch.arange(length, device=device).expand(batch, length)
    in_block = block_ids > 0
    starts = in_block & (input_ids == answer_token_id)
    block_start = torch.where(starts, index, 0).cummax(-1).values
    offset = index - block_start  # in a block: 0 the answer token, j the j-th code

    # History is its next block's user's, or the last user's where no block follows.
    user_so_far = (starts & (block_ids == 1)).cumsum(-1)
    user_ahead = torch.where(starts, user_so_far, user_so_far[:, -1:]).flip(-1).cummin(-1).values.flip(-1)
    user = torch.where(in_block, user_so_far, user_ahead)
    # Which code of its user's history a history token is.
    history_so_far = (block_ids == 0).cumsum(-1)
    history_before = torch.nn.functional.pad(history_so_far, (1, 0))[:, :-1]
    begins = user != torch.nn.functional.pad(user, (1, 0), value=-1)[:, :-1]
    history_rank = history_so_far - 1 - torch.where(begins, history_before, 0).cummax(-1).values

    stage_after = torch.where(in_block & (offset < levels), offset, levels)
    num_after = queries_after[stage_after]
    token_slot = index + num_after.cumsum(-1) - num_after
    slots_used = length + num_after.sum(-1, keepdim=True)

    num_slots = int(slots_used.max()) if num_slots is None else num_slots
    slots = torch.arange(num_slots, device=device).expand(batch, -1)
    source = torch.searchsorted(token_slot.contiguous(), slots.contiguous(), right=True) - 1
    within = slots - token_slot.gather(1, source)  # 0 the token, 1.. the queries that follow it

    block = block_ids.gather(1, source).masked_fill(slots >= slots_used, -1)
    slot_offset = offset.gather(1, source)
    rank = history_rank.gather(1, source)

    kind = torch.where(slot_offset == 0, ANSWER, CODE)
    kind = torch.where(within > 0, QUERY, kind)
    kind = torch.where(block == 0, HISTORY, kind).masked_fill(block < 0, PADDING)
    stage = torch.where(kind == QUERY, slot_offset, slot_offset - 1)
    stage = torch.where(kind == HISTORY, rank % levels, stage)
    slot_of_start = token_slot.gather(1, block_start).gather(1, source)
    position = torch.where(kind == HISTORY, rank, rank + 1 + slots - slot_of_start).masked_fill(block < 0, 0)
    query = torch.where(kind == QUERY, first_query[stage_after].gather(1, source) + within - 1, 0)
    user = user.gather(1, source)
    return CareLayout(kind, stage, user, block, position, source, query, token_slot, token_slot + num_after)


def attention_allowed(
    layout: CareLayout, progressive: list[bool], code_sees_itself: bool = False, first_slot: int = 0
) -> torch.Tensor:
    """
    Which slots each slot from `first_slot` on may attend to, (B, E - first_slot, E) boolean, True = attended.

    History and answer token are plainly causal over the history. A query sees of the history either everything or,
    where its stage is progressive, only the codes up to its own level; of its block everything before it and itself.
    An answer's code sees everything before it and, as published, not itself.
    """
    kind, stage, user, block = layout.kind, layout.stage, layout.user, layout.block
    slots = torch.arange(kind.shape[1], device=kind.device)
    row_kind, row_stage, row_user, row_block = (tensor[:, first_slot:, None] for tensor in (kind, stage, user, block))
    limited_stages = torch.tensor([*progressive, False], device=kind.device)
    limited = (row_kind == QUERY) & limited_stages[row_stage.clamp(0, len(progressive))]

    history = (kind == HISTORY)[:, None, :] & (~limited | (stage[:, None, :] <= row_stage))
    own_block = (row_block > 0) & (row_block == block[:, None, :])
    allowed = (history | own_block) & (row_user == user[:, None, :]) & (slots <= slots[first_slot:, None])
    # A padded row attends to itself only: softmax over nothing is not a number, and nobody reads these rows.
    itself = slots == slots[first_slot:, None]
    closed = (row_kind == CODE) & (not code_sees_itself)
    return torch.where(itself, ~closed, allowed)
