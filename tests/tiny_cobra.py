"""A tiny COBRA model over a random catalogue, for several test files."""

import numpy as np
import torch

from hf_genrec.methods.cobra.modeling_cobra import CobraConfig, CobraForCausalLM
from hf_genrec.methods.cobra.processing_cobra import CobraProcessor
from hf_genrec.semantic_ids.tokens import code_tokenizer

TEXT_SIZE = 6


def make_cobra_processor(num_items=40, sizes=(5, 6, 7), max_history=8, unique=True, seed=0) -> CobraProcessor:
    rng = np.random.default_rng(seed)
    if unique:
        flat = rng.choice(int(np.prod(sizes)), num_items, replace=False)
        codes = np.stack(np.unravel_index(flat, sizes), axis=1)
    else:
        codes = np.stack([rng.integers(0, max(size // 2, 1), num_items) for size in sizes], axis=1)
    return CobraProcessor(code_tokenizer(sizes), list(sizes), max_history).set_catalogue(
        [f"item-{row}" for row in range(num_items)],
        codes,
        [f"Title {row}" for row in range(num_items)],
        rng.integers(0, 30, num_items),
    )


def make_cobra(processor: CobraProcessor, seed=0, **fields) -> CobraForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "codebook_sizes": processor.codebook_sizes,
        "num_items": len(processor.item_ids),
        "item_vector_size": TEXT_SIZE,
        "max_history": processor.max_history,
        "hidden_size": 16,
        "intermediate_size": 24,
        "initializer_range": 0.4,  # far from uniform, so that rankings differ
        "dropout": 0.0,
        "num_neighbours": 5,
    } | fields
    model = CobraForCausalLM(CobraConfig(**settings)).eval()
    model.set_item_vectors(np.random.default_rng(seed).normal(size=(settings["num_items"], TEXT_SIZE)))
    model.processor = processor
    return model
