"""A tiny CodeTree model over a random catalogue, for several test files."""

import torch

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.codetree.modeling_codetree import CodeTreeConfig, CodeTreeForConditionalGeneration

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,  # far from uniform, so that rankings differ
}


def make_codetree(processor: GenRecProcessor, seed=0, **fields) -> CodeTreeForConditionalGeneration:
    torch.manual_seed(seed)
    settings = TINY | fields
    model = CodeTreeForConditionalGeneration(
        CodeTreeConfig(
            codebook_sizes=processor.codebook_sizes,
            num_items=len(processor.item_ids),
            max_history=processor.max_history,
            **settings,
        )
    )
    model.processor = processor
    return model.eval()
