"""Item tokenizers with random weights and codebooks, as after a fit."""

import torch

from hf_genrec.models.configuration_mpq import MpqConfig
from hf_genrec.models.configuration_rq_vae import RqVaeConfig
from hf_genrec.models.modeling_mpq import MpqTokenizer
from hf_genrec.models.modeling_rq_vae import RqVaeTokenizer


def make_mpq(sizes=(7, 5, 6), dim=10, latent_dim=4, hidden_sizes=(9,), seed=0, **fields):
    torch.manual_seed(seed)
    sizes_and_fields = {
        "codebook_sizes": list(sizes),
        "input_dim": dim,
        "part_dims": [dim],
        "latent_dim": latent_dim,
        "hidden_sizes": list(hidden_sizes),
    }
    tokenizer = MpqTokenizer(MpqConfig(**sizes_and_fields | fields))
    with torch.no_grad():
        for number in range(len(sizes)):
            tokenizer.get_parameter(f"codebook_{number}").normal_()
        tokenizer.mean_gate.copy_(torch.rand(len(sizes)).softmax(0))
        tokenizer.part_mean.zero_()
        tokenizer.part_scale.fill_(1.0)
    return tokenizer.eval()


def make_rq_vae(sizes=(7, 7, 7), dim=10, latent_dim=4, hidden_sizes=(9,), seed=0, **fields):
    torch.manual_seed(seed)
    sizes_and_fields = {
        "codebook_sizes": list(sizes),
        "input_dim": dim,
        "part_dims": [dim],
        "latent_dim": latent_dim,
        "hidden_sizes": list(hidden_sizes),
    }
    tokenizer = RqVaeTokenizer(RqVaeConfig(**sizes_and_fields | fields))
    with torch.no_grad():
        for level in range(len(sizes)):
            tokenizer.get_parameter(f"codebook_{level}").normal_(std=0.5**level)
        tokenizer.part_mean.zero_()
        tokenizer.part_scale.fill_(1.0)
    return tokenizer.eval()
