"""A tiny REG4Rec model over a random catalogue, and its states without cache, for several test files."""

import numpy as np
import torch

from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecConfig, Reg4RecForConditionalGeneration
from hf_genrec.methods.reg4rec.processing_reg4rec import Reg4RecProcessor
from hf_genrec.semantic_ids.tokens import code_tokenizer

CATEGORIES = ["drama", "comedy", "other"]


def make_set_processor(num_items=30, sizes=(4, 5, 3), max_history=6, unique=True, seed=0) -> Reg4RecProcessor:
    rng = np.random.default_rng(seed)
    if unique:
        flat = rng.choice(int(np.prod(sizes)), num_items, replace=False)
        codes = np.stack(np.unravel_index(flat, sizes), axis=1)
    else:
        codes = np.stack([rng.integers(0, max(size // 2, 1), num_items) for size in sizes], axis=1)
    return Reg4RecProcessor(code_tokenizer(sizes), list(sizes), max_history, CATEGORIES).set_catalogue(
        [f"item-{row}" for row in range(num_items)],
        codes,
        [f"Title {row}" for row in range(num_items)],
        rng.integers(0, 30, num_items),
        rng.integers(0, len(CATEGORIES), num_items),
    )


def make_reg4rec(processor: Reg4RecProcessor, seed=0, **fields) -> Reg4RecForConditionalGeneration:
    torch.manual_seed(seed)
    settings = {
        "codebook_sizes": processor.codebook_sizes,
        "num_categories": len(CATEGORIES),
        "max_history": processor.max_history,
        "hidden_size": 16,
        "intermediate_size": 24,
        "initializer_range": 0.4,  # far from uniform, so that rankings differ
        "dropout": 0.0,
    } | fields
    model = Reg4RecForConditionalGeneration(Reg4RecConfig(**settings)).eval()
    model.processor = processor
    return model


def log_probs_after(model, history: np.ndarray, tokens: list[int]) -> torch.Tensor:
    """log S (codes,) after some codes of one history, without a cache."""
    path = torch.tensor([[model.config.decoder_start_token_id, *tokens]])
    with torch.no_grad():
        output = model(**model.processor.prompts([history]), decoder_input_ids=path)
    return output.logits[0, -1, : model.config.num_codes]


def surest_codebook(log_probs, sizes, left) -> int:
    """Of the codebooks `left`, the first of those that hold the likeliest code."""
    starts = np.cumsum([0, *sizes])
    return max(left, key=lambda r: (max(log_probs[starts[r] : starts[r + 1]]), -r))


def model_path_score(model, history: np.ndarray, item_tokens: list[int], fixed=False) -> float:
    """The score of an item along the model's path to it, without a cache."""
    left, path, total = list(range(len(item_tokens))), [], 0.0
    while left:
        log_probs = log_probs_after(model, history, path).tolist()
        codebook = left[0] if fixed else surest_codebook(log_probs, model.config.codebook_sizes, left)
        total += log_probs[item_tokens[codebook]]
        path.append(item_tokens[codebook])
        left.remove(codebook)
    return total
