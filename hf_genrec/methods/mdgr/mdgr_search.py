"""Two-stage decoding of MDGR: some codes one at a time, those the model is surest of first, and then several at once.

A *path* is an item that is partly filled in. At every step the decoder reads it once and says of every masked slot
which codes it holds likely. The steps of a path have sizes: 1 for each of W warm-up steps, then m, the last one what is
left. The *model's path* to an item fills in, at every step of size c, the c masked slots of which the model is surest,
with the item's codes. An item's score is the sum of the log-probabilities of its codes along that path: what is asked
next follows from what is filled in already, so the scores are the logarithms of a distribution over all sets of codes.
"""

from collections.abc import Sequence

import torch

from ...catalogue.best_columns import best_columns
from ...catalogue.flat_lists import rank_in_list
from ...catalogue.item_sets import ItemSets, SetStates
from ...catalogue.sound_scores import require_sound
from ...decoding.code_set_encoding import CodeSetEncoding


def step_sizes(num_codebooks: int, warmup_codes: int, parallel_width: int) -> list[int]:
    """How many codes each decoder pass writes: W + ceil((L - W) / m) numbers that sum to L."""
    left = num_codebooks - warmup_codes
    blocks = [min(parallel_width, left - done) for done in range(0, left, parallel_width)]
    return [1] * warmup_codes + blocks


class SlotDecoder:
    """
    Log-probabilities of what is masked. The users' histories are encoded before, and their keys and values are made
    once for all steps and paths.

    Args:
        model ([`MdgrForMaskedLM`])
        encoding: the histories of B users.
    """

    def __init__(self, model, encoding: CodeSetEncoding):
        self.model = model
        self.encoding = encoding
        self.memory = model.model.decoder.memory(encoding)
        self.num_users = len(encoding.last_hidden_state)

    def start(self) -> torch.Tensor:
        """(B, 1, L), token ids of a path of each user on which everything is masked."""
        config = self.model.config
        shape = (self.num_users, 1, config.num_codebooks)
        return torch.full(shape, config.mask_token_id, device=self.encoding.item_mask.device)

    def log_probs(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, W, codes) float32, by token id, of paths (B, W, L). Those of slots that are filled in mean nothing."""
        logits = self.model(
            decoder_input_ids=ids.flatten(0, 1), encoder_outputs=self.encoding, memory=self.memory
        ).logits
        return self.model.code_log_probs(logits).float().view(*ids.shape[:2], -1)


def surest_slots(
    log_probs: torch.Tensor, masked: torch.Tensor, codebook_sizes: Sequence[int], count: int
) -> torch.Tensor:
    """
    The masked slots that each path fills in next: those whose best code the model is surest of (the first ones, where
    it is equally sure), whether or not an item has this code.

    Args:
        log_probs: (..., codes).
        masked: (..., L) boolean, at least `count` of each.

    Returns:
        (..., count) int64, the surest first
    """
    surest = torch.stack([of_slot.amax(-1) for of_slot in log_probs.split(list(codebook_sizes), -1)], -1)
    order = surest.masked_fill(~masked, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order[..., :count]


@torch.no_grad()
def path_scores(model, encoding: CodeSetEncoding, tokens: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """
    Exact scores of items by teacher forcing along the model's path to each.

    Args:
        encoding: the histories of B users.
        tokens: (B, W, L) token ids of W items for each user, column r of codebook r.
        sizes: of the steps, see [`step_sizes`].

    Returns:
        (B, W) float32
    """
    decoder, mask = SlotDecoder(model, encoding), model.config.mask_token_id
    scores = torch.zeros(tokens.shape[:2], device=tokens.device)
    ids = decoder.start()
    for size in sizes:
        log_probs = decoder.log_probs(ids)  # of the first step one path for all items
        slots = surest_slots(log_probs, ids == mask, model.config.codebook_sizes, size)
        slots = slots.expand(*tokens.shape[:2], -1)
        told = tokens.gather(2, slots)
        scores += log_probs.expand(-1, tokens.shape[1], -1).gather(2, told).sum(2)
        ids = ids.expand(tokens.shape).scatter(2, slots, told)
    return scores


class SlotSearch:
    """
    Beam search over the catalogue, in W + ceil((L - W) / m) decoder passes.

    In a warm-up step every path goes on in the slot the model is surest of, with any code that some item has there
    together with the path's codes; with `order="any"` in any masked slot, as published. The W' best paths stay, those
    of the better path and then of the lower token first where they are equal. Paths that filled in the same codes in
    another order are merged into the best of them.

    In a later step of size c every path looks at the c masked slots it is surest of, and at the items that are left to
    it: each is worth the path's score and the log-probabilities of its codes there. The last step lists items by it;
    an earlier one keeps the best different sets of codes.

    In the guided order an item is at the end of one path only, its score is that of [`path_scores`], and with as many
    beams as items the search is exact scoring. With `order="any"` it is at the best of the ends found.

    Args:
        model ([`MdgrForMaskedLM`])
        encoding: the histories of B users.
        sets: the legal items.
        num_beams: W', paths kept and items found.
        sizes: of the steps, see [`step_sizes`].
        warmup_codes: W, the first steps.
        excluded (*optional*): sorted keys `user * sets.num_leaves + leaf` of leaves a user must not get.
        order: of the warm-up, `"guided"` or `"any"`.
    """

    def __init__(
        self,
        model,
        encoding: CodeSetEncoding,
        sets: ItemSets,
        num_beams: int,
        sizes: Sequence[int],
        warmup_codes: int,
        excluded: torch.Tensor | None = None,
        order: str = "guided",
    ):
        self.model = model
        self.sets = sets
        self.num_beams = num_beams
        self.sizes = sizes
        self.warmup_codes = warmup_codes
        self.order = order
        self.decoder = SlotDecoder(model, encoding)
        device = sets.items.device
        self.users = torch.arange(self.decoder.num_users, device=device)
        # (B, W) of each path, but for the ragged `states`
        self.ids = self.decoder.start()
        self.scores = torch.zeros(len(self.users), 1, device=device)
        self.states = sets.start(len(self.users), excluded)

    @torch.no_grad()
    def run(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Returns:
            leaves (B, w) int64, different in each row, -1 where a row has fewer, best first; and the sums of their
            log-probabilities along the search's paths (B, w) float32, -inf where there is no leaf.
        """
        for step, size in enumerate(self.sizes):
            log_probs = self.decoder.log_probs(self.ids)
            # Of each codebook one code: its softmax makes NaN of all if one is NaN or infinite.
            require_sound(self.model, log_probs[..., self.sets.leaf_tokens[0].long()])
            if step < self.warmup_codes:
                self._choose_code(step, log_probs)
            elif step + 1 < len(self.sizes):
                self._choose_block(log_probs, size)
            else:
                return self._choose_items(log_probs, size)
        leaves = self.states.first_leaves().view(self.scores.shape)
        return leaves.masked_fill(self.scores == -torch.inf, -1), self.scores

    # ---- one code ----

    def _choose_code(self, step: int, log_probs: torch.Tensor) -> None:
        """The best extensions of all paths by one code, given log-probabilities (B, W, codes)."""
        legal = self.sets.allowed(self.states).view(*self.scores.shape, -1)
        if self.order == "guided":
            legal &= self.sets.codebook_of == self._slots(log_probs, 1)
        worth = self.scores[..., None] + log_probs[..., : legal.shape[2]].masked_fill(~legal, -torch.inf)
        # The same codes are filled in by one path for each of them at most.
        repeated = 1 if self.order == "guided" else step + 1
        scores, columns = best_columns(worth.flatten(1), self.num_beams * repeated)
        parents, tokens = columns // self.sets.num_tokens, columns % self.sets.num_tokens
        tokens = tokens.masked_fill(scores == -torch.inf, -1)  # which leads nowhere
        states = self.sets.advance(self.states, self._rows(parents), tokens.flatten())
        different = scores > -torch.inf
        if repeated > 1:
            # What is filled in, and with what: the codes are those of the lowest leaf.
            keys = self._filled(states) * self.sets.num_leaves + states.first_leaves()
            different &= _first_of_each(keys.view(scores.shape))
        kept = (~different).byte().argsort(dim=1, stable=True)[:, : self.num_beams]
        kept = kept[:, : max(1, int(different.sum(1).max()))]
        scores = scores.masked_fill(~different, -torch.inf).gather(1, kept)
        states = states.at((self.users[:, None] * columns.shape[1] + kept).flatten())
        parents, tokens = parents.gather(1, kept), tokens.gather(1, kept)
        slots = self.sets.codebook_of[tokens.clamp(min=0)].clamp(min=0)  # of a dead path any
        self._go_on(parents, slots[..., None], tokens.clamp(min=0)[..., None], scores, states)

    # ---- several codes ----

    def _choose_block(self, log_probs: torch.Tensor, size: int) -> None:
        """The best different sets of codes of all paths in the `size` slots they are surest of."""
        slots, owner, leaves, worth = self._worth_of_items(log_probs, size)
        told = self.sets.leaf_tokens[leaves].long().gather(1, slots[owner])
        # Of the items of a path that have the same codes there, one: they are worth the same.
        lines, group = torch.cat([owner[:, None], told], 1).unique(dim=0, return_inverse=True)
        worth_of = worth.new_full((len(lines),), -torch.inf).scatter_reduce(0, group, worth, "amax")
        if self.order == "any":
            # The same codes on several paths of a user: the best of them.
            filled = self._filled(self.states)[lines[:, 0]] + (2**slots).sum(1)[lines[:, 0]]
            lowest = torch.full_like(lines[:, 0], self.sets.num_leaves).scatter_reduce(0, group, leaves, "amin")
            keys = filled * self.sets.num_leaves + lowest
        else:
            keys = torch.arange(len(lines), device=worth.device)
        user = lines[:, 0] // self.scores.shape[1]
        places, owners, ranks, width = self._best(user, keys, worth_of)
        parents = torch.zeros(len(self.users), width, dtype=torch.long, device=worth.device)
        scores = self.scores.new_full(parents.shape, -torch.inf)
        tokens = torch.full((*parents.shape, size), -1, device=worth.device)
        parents[owners, ranks] = lines[places, 0] % self.scores.shape[1]
        scores[owners, ranks] = worth_of[places]
        tokens[owners, ranks] = lines[places, 1:]
        states, rows = self.states, self._rows(parents)
        for column in tokens.unbind(2):
            states = self.sets.advance(states, rows, column.flatten())
            rows = torch.arange(len(states), device=rows.device)
        chosen = slots.view(*self.scores.shape, size).gather(1, parents[..., None].expand(-1, -1, size))
        self._go_on(parents, chosen, tokens.clamp(min=0), scores, states)

    def _choose_items(self, log_probs: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What [`run`] returns, the paths' last `size` slots being filled in."""
        _, owner, leaves, worth = self._worth_of_items(log_probs, size)
        places, owners, ranks, width = self._best(owner // self.scores.shape[1], leaves, worth)
        found = torch.full((len(self.users), width), -1, device=worth.device)
        scores = self.scores.new_full(found.shape, -torch.inf)
        found[owners, ranks], scores[owners, ranks] = leaves[places], worth[places]
        return found, scores

    def _worth_of_items(self, log_probs: torch.Tensor, size: int):
        """
        Returns:
            the `size` surest slots of each path (B * W, size); and of every item that is left to a path the path, the
            leaf, and the path's score with the log-probabilities of the item's codes in these slots, (n,) each.
        """
        slots = self._slots(log_probs, size).flatten(0, 1)
        states = self.states = _with_leaves(self.states, self.sets)
        owner = states.owners
        alive = self.scores.flatten()[owner] > -torch.inf
        owner, leaves = owner[alive], states.leaves[alive]
        told = self.sets.leaf_tokens[leaves].long().gather(1, slots[owner])
        worth = self.scores.flatten()[owner] + log_probs.flatten(0, 1)[owner[:, None], told].sum(1)
        return slots, owner, leaves, worth

    def _best(self, user: torch.Tensor, keys: torch.Tensor, worth: torch.Tensor):
        """
        The best `num_beams` entries of each user, of those with the same key the best alone, none that is worth -inf.

        Args:
            user, keys, worth: (n,), ties go to the lower key.

        Returns:
            places among the n, their user and their rank there, and the largest number of a user's
        """
        by_key = keys.argsort(stable=True)
        order = by_key[worth[by_key].argsort(descending=True, stable=True)]
        order = order[user[order].argsort(stable=True)]
        order = order[worth[order] > -torch.inf]
        if self.order == "any":
            _, which = torch.stack([user[order], keys[order]], 1).unique(dim=0, return_inverse=True)
            order = order[_first_of_each(which[None])[0]]
        owners = user[order]
        ranks = rank_in_list(owners, torch.bincount(owners, minlength=len(self.users)))
        top = ranks < self.num_beams
        order, owners, ranks = order[top], owners[top], ranks[top]
        return order, owners, ranks, max(1, int(ranks.max()) + 1 if len(ranks) else 1)

    # ---- paths ----

    def _slots(self, log_probs: torch.Tensor, count: int) -> torch.Tensor:
        """(B, W, count), the masked slots each path is surest of."""
        masked = self.ids == self.model.config.mask_token_id
        return surest_slots(log_probs, masked, self.model.config.codebook_sizes, count)

    def _rows(self, parents: torch.Tensor) -> torch.Tensor:
        """The states of paths `parents` (B, n), flat."""
        return (self.users[:, None] * self.scores.shape[1] + parents).flatten()

    def _filled(self, states: SetStates) -> torch.Tensor:
        """A number for the slots that each state has codes of, (S,)."""
        return (states.used * 2 ** torch.arange(self.sets.num_codebooks, device=states.used.device)).sum(1)

    def _go_on(
        self, parents: torch.Tensor, slots: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor, states: SetStates
    ) -> None:
        """Paths (B, n) that go on from `parents` (B, n) with `tokens` in `slots` (B, n, c)."""
        ids = self.ids.gather(1, parents[..., None].expand(-1, -1, self.ids.shape[2]))
        self.ids, self.scores, self.states = ids.scatter(2, slots, tokens), scores, states


def _with_leaves(states: SetStates, sets: ItemSets) -> SetStates:
    """States whose leaves are listed, though nothing is filled in yet."""
    if states.excluded is None:
        return states
    keys = torch.arange(len(states) * sets.num_leaves, device=sets.items.device)
    keys = keys[~torch.isin(keys, states.excluded)]
    counts = torch.bincount(keys // sets.num_leaves, minlength=len(states))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return SetStates(states.used, keys % sets.num_leaves, offsets)


def _first_of_each(numbers: torch.Tensor) -> torch.Tensor:
    """Which entries of each row (B, n) are the first with their number."""
    ordered, order = numbers.sort(dim=1, stable=True)
    first = torch.ones_like(numbers, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(first).scatter_(1, order, first)
