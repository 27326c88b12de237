"""A tiny LIGER model over a random catalogue, some items of which nobody has had."""

import numpy as np
import torch
from conftest import make_processor

from hf_genrec.methods.liger.modeling_liger import LigerForConditionalGeneration
from hf_genrec.methods.liger.processing_liger import LigerProcessor
from hf_genrec.training.code_t5_training import build_code_t5

TEXT_SIZE = 6
TINY = {
    "d_model": 16,
    "d_ff": 24,
    "d_kv": 8,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "initializer_factor": 1.5,  # far from uniform, so that rankings differ
    "projector_sizes": [12],
}


def make_liger(*args, seed=0, cold=(), fields=None, **kwargs) -> LigerForConditionalGeneration:
    """Of the arguments of `make_processor`; `cold` are rows without an interaction."""
    made = make_processor(*args, **kwargs)
    popularity = np.maximum(made.popularity, 1)
    popularity[list(cold)] = 0
    processor = LigerProcessor(made.tokenizer, made.codebook_sizes, made.max_history)
    processor.set_catalogue(made.item_ids, made.codes, made.titles, popularity)
    torch.manual_seed(seed)
    settings = TINY | {"num_items": len(made.item_ids), "item_vector_size": TEXT_SIZE} | (fields or {})
    model = build_code_t5(LigerForConditionalGeneration, processor, **settings).eval()
    model.set_item_vectors(np.random.default_rng(seed).normal(size=(len(made.item_ids), TEXT_SIZE)))
    return model
