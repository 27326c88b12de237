"""A tiny STREAM model over a random catalogue, for several test files."""

import torch
from tiny_tiger import TINY

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.stream.modeling_stream import StreamForConditionalGeneration
from hf_genrec.training.code_t5_training import build_code_t5


def make_stream(processor: GenRecProcessor, seed=0, **fields) -> StreamForConditionalGeneration:
    torch.manual_seed(seed)
    fields = {"num_thinking_tokens": 4} | fields
    model = build_code_t5(StreamForConditionalGeneration, processor, **TINY | fields).eval()
    for mlp in (model.state_map, model.residual_map):
        if mlp is not None:  # as trained: at first they add nothing
            torch.nn.init.normal_(mlp.outer.weight, std=0.2)
    return model
