"""Small ReaRec models with a catalogue, and a split for them."""

import numpy as np
import torch

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem

ITEMS, WIDTH = 30, 9


def tiny_rearec(reasoning="prl", steps=2, seed=0, **fields) -> ReaRecForNextItem:
    torch.manual_seed(seed)
    settings = {
        "num_items": ITEMS,
        "max_history": WIDTH,
        "hidden_size": 8,
        "intermediate_size": 12,
        "reasoning": reasoning,
        "num_reasoning_steps": steps,
        "temperature": 0.5,
        "initializer_range": 0.4,  # far from uniform, so that states and rankings differ
    } | fields
    model = ReaRecForNextItem(ReaRecConfig(**settings)).eval()
    rng = np.random.default_rng(seed)
    model.processor = ItemProcessor(WIDTH).set_catalogue(
        [f"i{row}" for row in range(settings["num_items"])], popularity=rng.integers(0, 9, settings["num_items"])
    )
    return model


def tiny_split(users=40, targets=1, seed=0, name="test") -> EvaluationSplit:
    """Histories of 0 to twelve items, some longer than the model reads; with `targets` of 1 to that many targets."""
    rng = np.random.default_rng(seed)
    return EvaluationSplit(
        name,
        [f"u{user}" for user in range(users)],
        [rng.integers(0, ITEMS, rng.integers(0, 13)) for _ in range(users)],
        [rng.integers(0, ITEMS, rng.integers(1, targets + 1)) for _ in range(users)],
    )
