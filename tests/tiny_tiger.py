"""A tiny TIGER model over a random catalogue, for several test files."""

import torch

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.tiger.modeling_tiger import TigerForConditionalGeneration
from hf_genrec.training.code_t5_training import build_code_t5

TINY = {
    "d_model": 16,
    "d_ff": 24,
    "d_kv": 8,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "initializer_factor": 1.5,  # far from uniform, so that rankings differ
}


def make_tiger(processor: GenRecProcessor, seed=0, **fields) -> TigerForConditionalGeneration:
    torch.manual_seed(seed)
    return build_code_t5(TigerForConditionalGeneration, processor, **TINY | fields).eval()
