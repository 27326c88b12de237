"""Small S3-Rec models with a catalogue."""

import numpy as np
import torch

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecConfig, S3RecForNextItem

ITEMS, WIDTH = 30, 9


def tiny_s3rec(seed=0, **fields) -> S3RecForNextItem:
    torch.manual_seed(seed)
    settings = {
        "num_items": ITEMS,
        "max_history": WIDTH,
        "hidden_size": 8,
        "intermediate_size": 12,
        "initializer_range": 0.4,  # far from uniform, so that states and rankings differ
    } | fields
    model = S3RecForNextItem(S3RecConfig(**settings)).eval()
    rng = np.random.default_rng(seed)
    model.processor = ItemProcessor(WIDTH).set_catalogue(
        [f"i{row}" for row in range(settings["num_items"])], popularity=rng.integers(0, 9, settings["num_items"])
    )
    return model
