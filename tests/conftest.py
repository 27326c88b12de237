import os

# One thread here and in the processes that tests start: sums in another order differ in their last bits.
os.environ["OMP_NUM_THREADS"] = "1"

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


USERS, ITEMS = 40, 24


@pytest.fixture(scope="session")
def own_data(tmp_path_factory):
    """A log and its items as a user would have them: even users like even items."""
    folder = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    log = ["member,film,seen_at"]
    for user in range(USERS):
        for place, item in enumerate(rng.permutation(np.arange(user % 2, ITEMS, 2))[:8]):
            log.append(f"u{user:02d},f{item:02d},{1_600_000_000 + 1000 * place}")
    (folder / "log.csv").write_text("\n".join(log) + "\n")
    films = [f"f{item:02d},Film number {item}" for item in range(ITEMS)]
    (folder / "films.csv").write_text("\n".join(["film,name", *films]) + "\n")
    (folder / "mine.yaml").write_text(
        f"""# my films
source: tabular
source_path: {folder}/log.csv
item_path: {folder}/films.csv
user_column: member
item_column: film
time_column: seen_at
title_column: name
vectors: collaborative
collaborative_dim: 8
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 32
intermediate_size: 48
attention_dropout: 0.1
output_dir: {folder}/run
num_train_epochs: 4
per_device_train_batch_size: 16
learning_rate: 0.003
use_cpu: true
"""
    )
    return folder
