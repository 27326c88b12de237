import numpy as np
import pytest
import torch

from hf_genrec.models.modeling_care import CareConfig, CareForCausalLM
from hf_genrec.models.processing_genrec import GenRecProcessor
from hf_genrec.semantic_ids.tokens import code_tokenizer

torch.set_num_threads(1)


def make_processor(num_items=40, sizes=(5, 6, 7), max_history=8, unique=True, seed=0) -> GenRecProcessor:
    rng = np.random.default_rng(seed)
    if unique:
        flat = rng.choice(int(np.prod(sizes)), num_items, replace=False)
        codes = np.stack(np.unravel_index(flat, sizes), axis=1)
    else:
        codes = np.stack([rng.integers(0, max(size // 2, 1), num_items) for size in sizes], axis=1)
    return GenRecProcessor(code_tokenizer(sizes), list(sizes), max_history).set_catalogue(
        [f"item-{row}" for row in range(num_items)],
        codes,
        [f"Title {row}" for row in range(num_items)],
        rng.integers(0, 30, num_items),
    )


def make_model(processor: GenRecProcessor, seed=0, **fields) -> CareForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "num_queries": [1, 2, 1][: processor.num_levels],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,  # far from uniform, so that rankings differ
        "max_history": processor.max_history,
        "codebook_sizes": processor.codebook_sizes,
        "answer_token_id": processor.answer_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "vocab_size": len(processor.tokenizer),
    } | fields
    model = CareForCausalLM(CareConfig(**settings)).eval()
    model.processor = processor
    return model


@pytest.fixture
def processor() -> GenRecProcessor:
    return make_processor()


@pytest.fixture
def model(processor) -> CareForCausalLM:
    return make_model(processor)


@pytest.fixture
def histories() -> list[list[str]]:
    return [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(8)]]
