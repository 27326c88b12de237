"""A tiny S2GR model over a random catalogue, for several test files."""

import torch
from tiny_tiger import TINY

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.s2gr.modeling_s2gr import S2grForConditionalGeneration
from hf_genrec.methods.s2gr.training_s2gr import codebook_clusters
from hf_genrec.training.code_t5_training import build_code_t5


def make_s2gr(processor: GenRecProcessor, seed=0, **fields) -> S2grForConditionalGeneration:
    torch.manual_seed(seed)
    levels = processor.num_levels
    thinking = {"thinking": [True] * levels, "num_clusters": [2] * levels, "code_dim": 6}
    model = build_code_t5(S2grForConditionalGeneration, processor, **TINY | thinking | fields).eval()
    for level, size in enumerate(processor.codebook_sizes):
        if model.config.num_clusters[level]:
            codebook = torch.randn(size, model.config.code_dim)
            model.set_clusters(level, *codebook_clusters(codebook, model.config.num_clusters[level], seed))
    return model
