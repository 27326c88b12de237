"""A tiny MDGR model over a random catalogue, and its scores by slower ways, for several test files."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from hf_genrec.decoding.processing_code_sets import CodeSetProcessor
from hf_genrec.methods.mdgr.modeling_mdgr import MdgrConfig, MdgrForMaskedLM
from hf_genrec.semantic_ids.tokens import code_tokenizer


def make_code_set_processor(num_items=30, sizes=(4, 5, 3), max_history=6, unique=True, seed=0) -> CodeSetProcessor:
    rng = np.random.default_rng(seed)
    if unique:
        flat = rng.choice(int(np.prod(sizes)), num_items, replace=False)
        codes = np.stack(np.unravel_index(flat, sizes), axis=1)
    else:
        codes = np.stack([rng.integers(0, max(size // 2, 1), num_items) for size in sizes], axis=1)
    return CodeSetProcessor(code_tokenizer(sizes), list(sizes), max_history).set_catalogue(
        [f"item-{row}" for row in range(num_items)],
        codes,
        [f"Title {row}" for row in range(num_items)],
        rng.integers(0, 30, num_items),
    )


def make_mdgr(processor: CodeSetProcessor | None = None, seed=0, **fields) -> MdgrForMaskedLM:
    processor = make_code_set_processor() if processor is None else processor
    torch.manual_seed(seed)
    settings = {
        "codebook_sizes": processor.codebook_sizes,
        "max_history": processor.max_history,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "initializer_range": 0.4,  # far from uniform, so that rankings differ
        "dropout": 0.0,
    } | fields
    model = MdgrForMaskedLM(MdgrConfig(**settings)).eval()
    model.processor = processor
    return model


def log_probs_given(model, history: np.ndarray, codes: dict[int, int]) -> list[torch.Tensor]:
    """Log-probabilities of the codes of each codebook, given the token ids of some (by codebook); in a batch of one."""
    ids = torch.full((1, model.config.num_codebooks), model.config.mask_token_id)
    for codebook, token in codes.items():
        ids[0, codebook] = token
    with torch.no_grad():
        logits = model(**model.processor.prompts([history]), decoder_input_ids=ids).logits[0]
    return [part.log_softmax(-1) for part in logits.split(model.config.codebook_sizes)]


def path_score(
    model,
    history: np.ndarray,
    tokens: list[int],
    sizes: list[int],
    first: Sequence[int] = (),
    cache: dict | None = None,
) -> float:
    """
    The score of an item along the model's path to it; with `first` the first steps write these codebooks' codes.
    `cache` keeps what the model says of this history.
    """
    starts, known, total = np.cumsum([0, *model.config.codebook_sizes]), {}, 0.0
    cache = {} if cache is None else cache
    for step, size in enumerate(sizes):
        key = frozenset(known.items())
        if key not in cache:
            cache[key] = log_probs_given(model, history, known)
        log_probs = cache[key]
        left = [codebook for codebook in range(len(tokens)) if codebook not in known]
        surest = sorted(left, key=lambda codebook: -float(log_probs[codebook].max()))[:size]
        chosen = [first[step]] if step < len(first) else surest
        total += sum(float(log_probs[codebook][tokens[codebook] - starts[codebook]]) for codebook in chosen)
        known |= {codebook: tokens[codebook] for codebook in chosen}
    return total


def best_in_any_order(
    model, history: np.ndarray, tokens: list[int], sizes: list[int], warmup: int, cache: dict
) -> float:
    """The largest sum over all orders in which the warm-up steps may write an item's codes."""
    orders = itertools.permutations(range(len(tokens)), warmup)
    return max(path_score(model, history, tokens, sizes, order, cache) for order in orders)
