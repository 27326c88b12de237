"""What ReaRec would have recommended after each of its reasoning steps."""

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.explanation import Explanation, Rankings
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.methods.rearec.reasoning_analysis import depth_states

SHOWN = 10  # items of each step


def explain(model: ReaRecForNextItem, history: np.ndarray, item: int, exclude_seen: bool = False) -> list[Explanation]:
    """The ranking after each reasoning step; nothing for a model that takes none."""
    if not model.config.steps:
        return []
    about = (
        "The list if the model had stopped after each step, where the chosen item stood, and the places that items "
        "rose or fell since the step before. Step 0 is before any reasoning."
    )
    return [
        Explanation("The ranking after each thinking step", about, step_rankings(model, history, item, exclude_seen))
    ]


@torch.no_grad()
def step_rankings(
    model: ReaRecForNextItem, history: np.ndarray, item: int, exclude_seen: bool = False, k: int = SHOWN
) -> Rankings:
    """
    What `recommend` answers at every depth (`num_steps` 0..K).

    Args:
        history: (n,) catalogue rows.
        item: catalogue row of the item whose ranks are asked for.
        exclude_seen: leave the items of the history out, as `recommend` does.
    """
    processor, config = model._require_processor(), model.config
    history = np.asarray(history, dtype=np.int64)
    num_items = len(processor.item_ids)
    inputs = {name: tensor.to(model.device) for name, tensor in processor.prompts([history]).items()}
    with evaluation_mode(model):
        vectors = model.item_vectors()
        chosen = config.steps
        if model.num_steps is not None:
            chosen = model.num_steps
        elif model.depth is not None:
            chosen = int(model.adaptive_vectors(**inputs, item_vectors=vectors)[1][0])
        states = model.model(**inputs, num_steps=config.steps, item_table=vectors).reasoning_states
        users = depth_states(states, config.reasoning)[0] / config.temperature  # (K + 1, d)
    seen = model._seen([history], np.arange(num_items)) if exclude_seen else None
    allowed = num_items - (len(np.unique(history)) if exclude_seen else 0)
    rows = np.full((len(users), k), -1, dtype=np.int64)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    ranks = []
    for step in range(len(users)):  # one at a time, as one user is recommended to: the same sums to the last bit
        found, values = model._best(users[step : step + 1], vectors[:num_items], num_items, seen)
        listed, count = found[0, :allowed].cpu().numpy(), min(k, allowed)
        rows[step, :count], scores[step, :count] = listed[:count], values[0, :count].cpu().numpy()
        place = np.flatnonzero(listed == item)
        ranks.append(int(place[0]) + 1 if len(place) else 0)
    return Rankings([f"step {step}" for step in range(len(users))], rows, scores, ranks, chosen)
