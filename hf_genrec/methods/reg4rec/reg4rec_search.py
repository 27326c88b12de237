"""CRSS (REG4Rec, section 3.3.2): paths of codes, the surest codebook first; with CORP (section 3.5), which takes codes
back where the category prediction jumps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...catalogue.best_columns import best_columns
from ...catalogue.evaluation_mode import evaluation_mode
from ...catalogue.item_sets import ItemSets, SetStates
from ...catalogue.sound_scores import require_sound
from ...decoding.code_set_encoding import CodeSetEncoding
from .configuration_reg4rec import CODE_ORDERS
from .path_decoder import PathDecoder


def js_divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Equation (12): Jensen-Shannon divergence, natural logarithm, of log-probabilities (..., G). Returns (...,)."""
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=log_p.dtype))
    of_p, of_q = ((log.exp() * (log - log_m)).masked_fill(log == -torch.inf, 0.0).sum(-1) for log in (log_p, log_q))
    return 0.5 * (of_p + of_q)


@dataclass
class Reflection:
    """
    When CORP takes a code back, see [`CrssSearch`].

    Args:
        threshold: theta.
        interval: s.
        max_rollbacks: codes that one path may lose.
    """

    threshold: float
    interval: int = 1
    max_rollbacks: int = 2


@dataclass
class Paths:
    """
    What a search found, best first.

    Args:
        leaves: (B, w) int64, different in each row; -1 where a row has fewer.
        scores: (B, w) float32, the sum of log S(c) over the codes chosen (see [`CrssSearch`]), -inf where there is no
            leaf.
        rollbacks: (B, w) int64, the codes that each path has lost to CORP.
    """

    leaves: torch.Tensor
    scores: torch.Tensor
    rollbacks: torch.Tensor


class CrssSearch:
    """
    Beam search over (codebook, code) pairs.

    At each step every path may go on with any code, of any codebook it has not used, that some item of the catalogue
    has together with the codes it holds. A path's score is the sum of log S(c), equation (5), in float32. The best W
    extensions stay, those of the better path and then of the lower token first where they are equal; except that
    paths with the same *outcome* are merged into the best of them: those that hold the same codes in another order, and
    those that only one and the same item is left to. So no two paths end with the same item.

    The best extensions are those with the highest scores: with one path this is equation (5). But a path is surest of
    what is common, and the first two or three codes leave only a few items: which ones is decided before the other
    codes are asked. With `lookahead` every path goes on in one codebook only, that of [`next_codebooks`], as in
    training; and an extension is worth what its best item is: the path's score and the log-probabilities that the path
    gives now to all codes the item still needs ([`ItemSets.best_completions`]). So an item is at the end of one path
    only, scores are those of [`path_scores`], and with as many beams as items the search is exact scoring. The first
    step reads M numbers for every item of the catalogue, which is what ranking all items by a product costs.

    CORP, when `reflection` is given: let p_i be the category distribution of a path after i codes (p_0: of the start
    token). For i = s, 2s, ... < M, after the i-th code, a path with JS(p_{i-s}, p_i) > theta loses this code: it is
    forbidden after that prefix, and the path goes on from the prefix with the best extension that is not forbidden,
    whose outcome no other path has. Then it is looked at again, until it has lost `max_rollbacks` codes in all. A path
    without another extension keeps its code. Of a user's paths, the better one (with `lookahead`, the one that was
    worth more) looks for its extension first.

    Without `reflection` the search ends as soon as every path has one item left: later steps would not change which.
    With `lookahead` or `order="fixed"` the codes that are left are scored; pairs have the scores of the codes chosen
    until then.

    Args:
        model ([`Reg4RecForConditionalGeneration`])
        encoding: the histories of B users.
        sets: the legal items.
        num_beams: W.
        excluded (*optional*): sorted keys `user * sets.num_leaves + leaf` of leaves a user must not get.
        order: `"confidence"`, or `"fixed"` for codebook 1, 2, ..., M, the ablation.
        reflection (*optional*): CORP's settings.
        lookahead: judge extensions by the items they lead to.

    Raises:
        ValueError: for another `order`.
    """

    def __init__(
        self,
        model,
        encoding: CodeSetEncoding,
        sets: ItemSets,
        num_beams: int,
        excluded: torch.Tensor | None = None,
        order: str = "confidence",
        reflection: Reflection | None = None,
        lookahead: bool = False,
    ):
        _check_order(order)
        self.model = model
        self.sets = sets
        self.num_beams = num_beams
        self.order = order
        self.reflection = reflection
        self.lookahead = lookahead
        # Whether an item can be reached by one path only, of which its score is the sum.
        self.one_path_per_item = lookahead or order == "fixed"
        self.decoder = PathDecoder(model, encoding)
        num_users = self.decoder.num_users
        self.users = torch.arange(num_users, device=sets.items.device)
        # (B, W) of each path, but for the ragged `states`; the candidates are those that it was chosen from.
        self.states = sets.start(num_users, excluded)
        self.scores = torch.zeros(num_users, 1, device=sets.items.device)
        self.parents = self.tokens = self.outcomes = torch.zeros_like(self.scores, dtype=torch.long)
        self.rollbacks = torch.zeros_like(self.parents)
        self.prefixes, self.prefix_scores = self.states, self.scores
        self.log_probs = torch.empty(0)  # (B, W before, V), log S(c) of what could follow them
        self.candidates = torch.empty(0)  # (B, W before, V), what they are worth; -inf: none, or tried
        self.trail = torch.empty(0)  # (B, W, codes so far + 1, G) category log-probabilities

    @torch.no_grad()
    def run(self) -> Paths:
        hidden = self.decoder.start()
        if self.reflection is not None:
            self.trail = self._category_log_probs(hidden)[:, :, None]
        num_codebooks = self.sets.num_codebooks
        for step in range(num_codebooks):
            self._choose(step, hidden)
            if step + 1 == num_codebooks or (self.reflection is None and self._settled()):
                break
            hidden = self.decoder.extend(self.tokens, self.parents)
            if self.reflection is not None:
                self._reflect(step + 1, hidden, self.reflection)
        leaves = self.states.first_leaves().view(self.scores.shape).masked_fill(self.scores == -torch.inf, -1)
        if self.one_path_per_item and step + 1 < num_codebooks:
            log_probs = self.model.code_log_probs(self.decoder.extend(self.tokens, self.parents))
            tokens, used = self.sets.leaf_tokens[leaves.clamp(min=0)].long(), self.states.used.view(*leaves.shape, -1)
            self.scores += _rest_of_paths(self.model, self.decoder, log_probs, tokens, used, step + 1, self.order)
        scores, best = self.scores.sort(dim=1, descending=True, stable=True)
        return Paths(leaves.gather(1, best), scores, self.rollbacks.gather(1, best))

    def _settled(self) -> bool:
        """Whether every path has one leaf left."""
        open_paths = (self.states.counts > 1).view(self.scores.shape) & (self.scores > -torch.inf)
        return not bool(open_paths.any())

    def _choose(self, step: int, hidden: torch.Tensor) -> None:
        """The best extensions of all paths, given the states (B, W, d) after their newest codes."""
        log_probs = self.model.code_log_probs(hidden).float()
        # Of each codebook one code: its softmax makes NaN of all if one is NaN or infinite.
        require_sound(self.model, log_probs[..., self.sets.leaf_tokens[0].long()])
        self.log_probs = log_probs[..., : self.sets.num_tokens]
        self.prefixes, self.prefix_scores = self.states, self.scores
        if self.lookahead:
            used = self.states.used.view(*self.scores.shape, -1)
            codebooks = next_codebooks(log_probs, used, self.model.config.codebook_sizes, self.order)
            promise = self.sets.best_completions(self.states, self.log_probs.flatten(0, 1), codebooks.flatten())
            worth = promise.view(self.log_probs.shape)
        else:
            legal = self.sets.allowed(self.states, self.order)
            worth = self.log_probs.masked_fill(~legal.view(self.log_probs.shape), -torch.inf)
        self.candidates = self.scores[..., None] + worth
        num_tokens = self.candidates.shape[2]
        flat = self.candidates.flatten(1)
        # An item is one extension of one path, or of each codebook that it still needs.
        repeated = 1 if self.one_path_per_item else self.sets.num_codebooks - step
        size = min(self.num_beams * repeated, flat.shape[1])
        while True:
            worth, columns = best_columns(flat, size)
            parents, tokens = columns // num_tokens, columns % num_tokens
            states = self._extended(parents, tokens)
            outcomes = self.sets.outcomes(states).view(columns.shape)
            different = _first_of_each(outcomes) & (worth > -torch.inf)
            enough = (different.sum(1) >= self.num_beams) | (worth[:, -1] == -torch.inf)
            if size == flat.shape[1] or enough.all():
                break
            size = min(2 * size, flat.shape[1])
        first = (~different).byte().argsort(dim=1, stable=True)[:, : self.num_beams]
        first = first[:, : max(1, int(different.sum(1).max()))]
        scores = self.scores.gather(1, parents) + self.log_probs.flatten(1).gather(1, columns)
        self.scores = scores.masked_fill(~different, -torch.inf).gather(1, first)
        self.parents, self.tokens, self.outcomes = (t.gather(1, first) for t in (parents, tokens, outcomes))
        self.states = states.at((self.users[:, None] * columns.shape[1] + first).flatten())
        self.rollbacks = self.rollbacks.gather(1, self.parents)
        if self.reflection is not None:
            self.candidates[self.users[:, None], self.parents, self.tokens] = -torch.inf

    def _extended(self, parents: torch.Tensor, tokens: torch.Tensor) -> SetStates:
        """States of the prefixes `parents` (B, n) with one more code `tokens` (B, n)."""
        rows = self.users[:, None] * self.candidates.shape[1] + parents
        return self.sets.advance(self.prefixes, rows.flatten(), tokens.flatten())

    # ---- CORP ----

    def _category_log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        return require_sound(self.model, self.model.category_head(hidden).float().log_softmax(-1))

    def _reflect(self, count: int, hidden: torch.Tensor, reflection: Reflection) -> None:
        """CORP after `count` codes; rows of `hidden` (B, W, d) change with their paths."""
        ancestors = self.trail[self.users[:, None], self.parents]
        self.trail = torch.cat([ancestors, self._category_log_probs(hidden)[:, :, None]], 2)
        if count % reflection.interval:
            return
        suspects = self.scores > -torch.inf
        while suspects.any():
            jump = js_divergence(self.trail[:, :, count - reflection.interval], self.trail[:, :, count])
            offending = suspects & (jump > reflection.threshold) & (self.rollbacks < reflection.max_rollbacks)
            suspects = self._take_back(offending)
            users, paths = suspects.nonzero(as_tuple=True)
            if len(users):
                self.rollbacks[users, paths] += 1
                hidden[users, paths] = self.decoder.replace(users, paths, self.tokens[users, paths])
                self.trail[users, paths, count] = self._category_log_probs(hidden[users, paths])
        self.states = self._extended(self.parents, self.tokens)

    def _take_back(self, offending: torch.Tensor) -> torch.Tensor:
        """
        Other newest codes for the offending paths (B, W).

        Returns:
            (B, W) boolean, the paths that were given one.
        """
        waiting, replaced = offending.clone(), torch.zeros_like(offending)
        while waiting.any():
            # One path of each user at a time, so that no two take the same outcome.
            users = waiting.any(1).nonzero().squeeze(1)
            paths = waiting[users].byte().argmax(1)
            parents = self.parents[users, paths]
            tokens = self.candidates[users, parents].argmax(1)
            possible = self.candidates[users, parents, tokens] > -torch.inf
            self.candidates[users, parents, tokens] = -torch.inf  # tried: never again after this prefix
            rows = users * self.candidates.shape[1] + parents
            outcomes = self.sets.outcomes(self.sets.advance(self.prefixes, rows, tokens))
            held = self.outcomes[users] == outcomes[:, None]
            held[torch.arange(len(users)), paths] = False
            held &= self.scores[users] > -torch.inf
            taken = held.any(1) & possible
            new = possible & ~taken
            at = users[new], paths[new]
            scores = self.prefix_scores[users, parents] + self.log_probs[users, parents, tokens]
            self.tokens[at], self.scores[at], self.outcomes[at] = tokens[new], scores[new], outcomes[new]
            replaced[at] = True
            waiting[users[~taken], paths[~taken]] = False
        return replaced


def _first_of_each(numbers: torch.Tensor) -> torch.Tensor:
    """Which entries of each row (B, n) are the first with their number."""
    ordered, order = numbers.sort(dim=1, stable=True)
    first = torch.ones_like(numbers, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(first).scatter_(1, order, first)


def _check_order(order: str) -> None:
    if order not in CODE_ORDERS:
        raise ValueError(f"order={order!r}: use one of {', '.join(CODE_ORDERS)}.")


def next_codebooks(
    log_probs: torch.Tensor, used: torch.Tensor, codebook_sizes: Sequence[int], order: str
) -> torch.Tensor:
    """
    The codebook that each path goes on with: of the unused ones that whose best code the model is surest of (the first
    one, where it is equally sure), whether or not an item has this code; with `order="fixed"` the first one.

    Args:
        log_probs: (..., V), log S(c) after each path.
        used: (..., M) boolean, the codebooks that it holds a code of. At least one is left.

    Returns:
        (...) int64
    """
    if order == "fixed":
        return used.sum(-1)
    surest = torch.stack([of_codebook.amax(-1) for of_codebook in log_probs.split(list(codebook_sizes), -1)], -1)
    return surest.masked_fill(used, -torch.inf).argmax(-1)


@torch.no_grad()
def path_scores(model, encoding: CodeSetEncoding, tokens: torch.Tensor, order: str = "confidence") -> torch.Tensor:
    """
    Exact scores of items by teacher forcing: the sum of log S(c) along the model's path to the item, on which each
    step's codebook is that of [`next_codebooks`]. So they are the logarithms of a distribution over all sets of codes,
    one of each codebook.

    Args:
        encoding: the histories of B users.
        tokens: (B, W, M) token ids of W items for each user, column r of codebook r.

    Returns:
        (B, W) float32

    Raises:
        ValueError: for another `order`.
    """
    _check_order(order)
    decoder = PathDecoder(model, encoding)
    log_probs = model.code_log_probs(decoder.start()).expand(-1, tokens.shape[1], -1)
    return _rest_of_paths(model, decoder, log_probs, tokens, torch.zeros_like(tokens, dtype=torch.bool), 0, order)


def _rest_of_paths(
    model,
    decoder: PathDecoder,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    used: torch.Tensor,
    count: int,
    order: str,
) -> torch.Tensor:
    """
    What the codes that items still need add to their scores, from where the decoder's paths stand.

    Args:
        log_probs: (B, W, V), log S(c) after these paths.
        tokens: (B, W, M) token ids of their items, column r of codebook r.
        used: (B, W, M) boolean, the codebooks whose codes the paths hold.
        count: how many these are.

    Returns:
        (B, W) float32
    """
    scores = torch.zeros(tokens.shape[:2], device=tokens.device)
    for step in range(count, tokens.shape[2]):
        codebook = next_codebooks(log_probs, used, model.config.codebook_sizes, order)[..., None]
        fed = tokens.gather(2, codebook)
        scores += log_probs.gather(2, fed).squeeze(2).float()
        used = used.scatter(2, codebook, True)
        if step + 1 < tokens.shape[2]:
            fed = fed.squeeze(2)
            parents = torch.zeros_like(fed) if decoder.width < fed.shape[1] else None
            log_probs = model.code_log_probs(decoder.extend(fed, parents))
    return scores


@torch.no_grad()
def confidence_orders(model, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor):
    """
    The order of a target's codebooks on the model's path to it: at each step that of [`next_codebooks`], of which the
    right code is fed. Without dropout.

    Args:
        input_ids, attention_mask: (B, T * M) histories.
        labels: (R, M) token ids of the targets, column r of codebook r; R is B or a multiple of it, the targets of one
            history one after the other.

    Returns:
        (R, M) int64, a permutation of the codebooks in each row.
    """
    with evaluation_mode(model):
        tokens = labels.view(len(input_ids), -1, labels.shape[1])
        decoder = PathDecoder(model, model.get_encoder()(input_ids, attention_mask))
        log_probs = model.code_log_probs(decoder.start()).expand(-1, tokens.shape[1], -1)
        used = torch.zeros_like(tokens, dtype=torch.bool)
        orders = torch.empty_like(tokens)
        for step in range(tokens.shape[2]):
            codebook = next_codebooks(log_probs, used, model.config.codebook_sizes, "confidence")[..., None]
            orders[..., step] = codebook.squeeze(2)
            used = used.scatter(2, codebook, True)
            if step + 2 < tokens.shape[2]:  # of the last codebook nothing is to be asked
                fed = tokens.gather(2, codebook).squeeze(2)
                parents = torch.zeros_like(fed) if decoder.width < fed.shape[1] else None
                log_probs = model.code_log_probs(decoder.extend(fed, parents))
    return orders.view_as(labels)
