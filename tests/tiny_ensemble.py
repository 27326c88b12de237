"""Small ensembles over one catalogue of 30 items."""

import torch
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec

from hf_genrec.methods.ensemble.join_models import build_ensemble


def scoring(processor, seed=0):
    """A model that scores every item of a processor's catalogue."""
    model = tiny_rearec(seed=seed)
    model.processor.set_catalogue(processor.item_ids, processor.titles, processor.popularity)
    return model


def tiny_ensemble(weights=(1.0, 2.0), num_candidates=30, unique=True, searching=1, seed=0):
    """The first `searching` members write codes, the others score every item."""
    processor = make_processor(30, unique=unique, seed=seed)
    members = [
        make_model(processor, seed=seed + place) if place < searching else scoring(processor, seed=seed + place)
        for place in range(len(weights))
    ]
    torch.manual_seed(seed)
    model = build_ensemble(members, num_candidates)
    model.set_weights(weights)
    return model
