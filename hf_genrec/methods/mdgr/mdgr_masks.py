"""Which of a target's codes are hidden in training: the views of it that the decoder is taught on.

A view is a choice of slots to hide, (L,) boolean; several views of a target share its encoded history. What is drawn
comes as `noise`, uniform from 0 to 1, so that whoever trains in several processes can draw it for all rows at once.
"""

import math
from collections.abc import Callable

import torch

FULL_SPEED = 0.3  # the share of the training after which any number of codes may be hidden
MOST_TILT = 2.0  # gamma_0, how much a code's familiarity decides at the start and at the end of the training


def most_hidden(num_codebooks: int, progress: float) -> int:
    """K(s) = ceil(1 + (L - 1) min(1, s / 0.3)): the most codes that are hidden after a share s of the training."""
    return math.ceil(1 + (num_codebooks - 1) * min(1.0, progress / FULL_SPEED))


def familiarity(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The share of the history's items that have the target's code, of each codebook; 0 for an empty history.

    Args:
        input_ids, attention_mask: (B, T * L) histories, the codes of an item codebook after codebook.
        labels: (B, L), column r of codebook r.

    Returns:
        (B, L) float32
    """
    shape = (-1, labels.shape[1])
    is_item = attention_mask.unflatten(1, shape).bool()  # (B, T, L)
    same = (input_ids.unflatten(1, shape) == labels[:, None]) & is_item
    return same.sum(1).float() / is_item.sum(1).clamp(min=1)


def familiar_views(noise: torch.Tensor, known: torch.Tensor, progress: float, full_share: float = 0.25) -> torch.Tensor:
    """
    Views by the two schedules of MDGR; the paper's formulas are not public, these are ours. In time: k codes are
    hidden, k uniform on 1 ... K(s), with the probability `full_share` all of them, as where recommending begins. By
    sample: they are drawn without replacement by weights exp(gamma (1 - f)), gamma = 2 (2 s - 1), f a code's
    [`familiarity`]: early in training familiar codes are hidden, late unfamiliar ones.

    Args:
        noise: (B, V, L + 2) uniform numbers.
        known: (B, L), the familiarity of each code.
        progress: s, the share of the training that is over.

    Returns:
        (B, V, L) boolean, V views of each target
    """
    num_codebooks = known.shape[1]
    gamma = MOST_TILT * (2 * progress - 1)
    # The largest k of log-weights with Gumbel noise are k draws without replacement.
    keys = gamma * (1 - known[:, None]) - (-noise[..., 2:].log()).log()
    count = 1 + (noise[..., 0] * most_hidden(num_codebooks, progress)).long()
    count = torch.where(noise[..., 1] < full_share, num_codebooks, count)
    return _place_of(-keys) < count[..., None]


def random_views(noise: torch.Tensor) -> torch.Tensor:
    """
    Views in which k codes are hidden, k uniform on 1 ... L, whichever they are.

    Args:
        noise: (B, V, L + 1) uniform numbers.

    Returns:
        (B, V, L) boolean
    """
    num_codebooks = noise.shape[-1] - 1
    count = 1 + (noise[..., 0] * num_codebooks).long()
    return _place_of(noise[..., 1:]) < count[..., None]


def sequential_views(noise: torch.Tensor) -> torch.Tensor:
    """
    The L views along one random order of the codes: view r, from 0, shows the first r of them.

    Args:
        noise: (B, L) uniform numbers.

    Returns:
        (B, L, L) boolean
    """
    shown = torch.arange(noise.shape[1], device=noise.device)
    return _place_of(noise)[:, None] >= shown[:, None]


def guided_views(
    confidence: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    first: str = "least",
    refresh: bool = False,
) -> torch.Tensor:
    """
    DiffGRM's L nested views by the model's own confidence: view t hides the t codes that it is least sure of, so that
    what is hard is hidden most often.

    Args:
        confidence: from hidden slots (B, L) boolean to how sure the model is of each slot, (B, L).
        hidden: (B, L) boolean, all True: asked once, unless with `refresh`.
        first: `"least"`, or `"most"` for the slots that it is surest of.
        refresh: start with nothing hidden, and hide one slot more each time, by the confidence given those hidden.

    Returns:
        (B, L, L) boolean
    """
    sign = 1 if first == "least" else -1
    if not refresh:
        shown = torch.arange(hidden.shape[1], device=hidden.device)
        return _place_of(sign * confidence(hidden))[:, None] <= shown[:, None]
    views, hidden = [], torch.zeros_like(hidden)
    for _ in range(hidden.shape[1]):
        keys = (sign * confidence(hidden)).masked_fill(hidden, torch.inf)
        hidden = hidden.scatter(1, keys.argmin(1, keepdim=True), True)
        views.append(hidden)
    return torch.stack(views, 1)


def _place_of(keys: torch.Tensor) -> torch.Tensor:
    """The place of each slot (..., L) when they are sorted by rising keys, ties by the slot."""
    return keys.argsort(dim=-1, stable=True).argsort(dim=-1)
