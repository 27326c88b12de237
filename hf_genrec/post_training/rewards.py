"""What a sampled item is worth: pure functions of codes, category distributions and targets.

n answers (an answer is one sampled item: its codes) are compared with the h items that came next in the user's
sequence, so most functions return (n, h); `time_decayed` makes (n,) of that. Equations are those of arXiv
2508.15308. The worked examples share this answer, whose first two codes are those of the first target:

    codes = np.array([[3, 14, 25]])                             # (n=1, M=3), token ids: unlike per codebook
    target_codes = np.array([[[3, 14, 29], [3, 19, 25]]])       # (n=1, h=2, M=3)
"""

import numpy as np
from scipy.special import rel_entr

# ---- any codes ----


def item_hit(codes: np.ndarray, target_codes: np.ndarray) -> np.ndarray:
    """
    1 where an answer is the target, that is where all codes agree in their order, else 0; (n, h).

    Items that share all their codes are the same answer. Example: `[[0, 0]]`.
    """
    return (codes[:, None] == target_codes).all(axis=-1).astype(np.float64)


def prefix_share(codes: np.ndarray, target_codes: np.ndarray) -> np.ndarray:
    """
    Share of the codes that are right before the first wrong one, (n, h).

    The exact match of arXiv 2504.09627: length of the matching prefix over the number of codes. Example:
    `[[2/3, 1/3]]`; the last code of the second target is right, but behind a wrong one.
    """
    return np.cumprod(codes[:, None] == target_codes, axis=-1).mean(axis=-1)


def rank_penalty(right: np.ndarray, scores: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """
    Minus what a wrong answer's place in its group's ranking is worth, (groups, G): the surer the model is of it, the
    more it costs.

    The different answers of a group are ranked by score, best first. A wrong one at rank r gets -1/log2(r + 1),
    divided by the sum of these numbers over the group's wrong answers, so that a group's penalties add up to -1; a
    right one gets 0. A group without a right answer gets 0 throughout: it does not say what should stand higher. (The
    idea is MiniOneRec's, arXiv 2510.24431; ranks are of different items here, since samples repeat.)

    Args:
        right: (groups, G) bool.
        scores: (groups, G), log-probabilities of the answers.
        answers: (groups, G) int, equal where the answer is the same item.

    Example: `right = [[False, True, False]]`, `scores = [[-1, -2, -3]]`, three different answers: ranks 1, 2, 3, values
    1 and 1/2 for the wrong ones, so `[[-2/3, 0, -1/3]]`.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(answers, order, axis=1)
    # An answer counts where it stands first.
    earlier = (ranked[:, :, None] == ranked[:, None, :]) & np.tri(ranked.shape[1], k=-1, dtype=bool)
    is_new = ~earlier.any(axis=-1)
    first = np.argmax(ranked[:, :, None] == ranked[:, None, :], axis=-1)
    rank_in_order = np.take_along_axis(is_new.cumsum(axis=1), first, axis=1)
    rank = np.empty_like(rank_in_order)
    np.put_along_axis(rank, order, rank_in_order, axis=1)
    worth = np.where(right, 0.0, 1.0 / np.log2(rank + 1.0))
    total = np.where(right.any(axis=1), worth.sum(axis=1), 0.0)[:, None]
    return -np.divide(worth, total, out=np.zeros_like(worth), where=total > 0)


# ---- sets of codes ----


def step_hit(codes: np.ndarray, target_codes: np.ndarray) -> np.ndarray:
    """
    Equation (10): share of an answer's tokens that are in the target's token set, in whatever order, (n, h).

    Example: `[[2/3, 2/3]]`.
    """
    return (codes[:, None, :, None] == target_codes[:, :, None, :]).any(axis=-1).mean(axis=-1)


def category_hit(category_probs: np.ndarray, target_categories: np.ndarray) -> np.ndarray:
    """
    Equation (11): share of the steps at which the most likely category is the target's, (n, h).

    Args:
        category_probs: (n, M, G), the category distribution predicted at every step.
        target_categories: (n, h) int.

    Example: with the most likely categories 4, 4, 1 and targets of the categories 4 and 1: `[[2/3, 1/3]]`.
    """
    predicted = category_probs.argmax(axis=-1)
    return (predicted[:, None, :] == target_categories[:, :, None]).mean(axis=-1)


def js_divergence(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Equation (12): Jensen-Shannon divergence of distributions over the last axis, in nats; between 0 and ln 2.

    Example: of `[1, 0]` and `[0, 1]` it is ln 2; of `[1, 0]` and `[0.5, 0.5]` it is 0.2158.
    """
    middle = (first + second) / 2
    return (rel_entr(first, middle).sum(axis=-1) + rel_entr(second, middle).sum(axis=-1)) / 2


def step_consistency(category_probs: np.ndarray) -> np.ndarray:
    """
    Equation (13): 1 minus the mean divergence of the M - 1 pairs of neighbouring steps, (n,).

    Args:
        category_probs: (n, M, G).

    Raises:
        ValueError: for fewer than two steps.

    Example: the distributions `[1, 0]`, `[1, 0]`, `[0, 1]` give 1 - (0 + ln 2) / 2 = 0.6534.
    """
    if category_probs.shape[1] < 2:
        raise ValueError(f"Consistency compares neighbouring steps: {category_probs.shape[1]} is too few.")
    return 1 - js_divergence(category_probs[:, :-1], category_probs[:, 1:]).mean(axis=-1)


def path_hit(
    codes: np.ndarray,
    target_codes: np.ndarray,
    targets: np.ndarray,
    codewords: np.ndarray,
    item_vectors: np.ndarray,
    top_n: int,
    max_errors: int,
) -> np.ndarray:
    """
    Equations (14) and (16): 1 where the right part of a path still finds its item, else 0; (n, h).

    With more than `max_errors` (the paper's d) tokens outside the target's set it is 0. Otherwise z is the sum of the
    codewords of the right tokens, and the items are ranked by their Euclidean distance from z, nearest first; the
    target must be among the first `top_n`. An item's own vector is the sum of all its codewords. (The paper leaves the
    measure open. By distance a path without an error is at its item's very place; by inner product a longer vector
    could stand before it.)

    Args:
        targets: (n, h) catalogue rows; negative where there is none.
        codewords: (vocabulary, D), by token id.
        item_vectors: (items, D).
    """
    correct = (codes[:, None, :, None] == target_codes[:, :, None, :]).any(axis=-1)  # (n, h, M)
    tried = ((~correct).sum(axis=-1) <= max_errors) & (targets >= 0)
    answer, place = np.nonzero(tried)
    found = np.zeros(targets.shape)
    if not len(answer):
        return found
    z = np.einsum("am,amd->ad", correct[answer, place].astype(codewords.dtype), codewords[codes[answer]])
    distances = np.square(item_vectors).sum(axis=-1) - 2 * z @ item_vectors.T  # less |z|^2, the same for all items
    own = np.take_along_axis(distances, targets[answer, place][:, None], axis=1)
    found[answer, place] = (distances < own).sum(axis=1) < top_n
    return found


# ---- several targets ----


def time_decayed(values: np.ndarray, targets: np.ndarray, decay: float) -> np.ndarray:
    """
    Equations (15) and (16): the mean over the next h items with weights w^(j-1), (n,).

    Near the end of a sequence fewer than h items follow; the weights of those that do are normalised.

    Args:
        values: (n, h), of one of the functions above.
        targets: (n, h) catalogue rows; negative where there is none. The first always exists.
        decay: w, above 0 and at most 1.

    Example: `values = [[1, 0, 1]]`, w = 0.8 and three targets give 1.64 / 2.44; with two targets 1 / 1.8.
    """
    weights = np.where(targets >= 0, decay ** np.arange(targets.shape[1]), 0.0)
    return (weights * values).sum(axis=1) / weights.sum(axis=1)
