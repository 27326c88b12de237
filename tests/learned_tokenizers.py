"""Item tokenizers with random weights and codebooks, as after a fit."""

import torch

from hf_genrec.item_tokenizers.configuration_coba import CobaConfig
from hf_genrec.item_tokenizers.configuration_letter import LetterConfig
from hf_genrec.item_tokenizers.configuration_mpq import MpqConfig
from hf_genrec.item_tokenizers.configuration_opq import OpqConfig
from hf_genrec.item_tokenizers.configuration_rq_vae import RqVaeConfig
from hf_genrec.item_tokenizers.modeling_coba import CobaTokenizer
from hf_genrec.item_tokenizers.modeling_letter import LetterTokenizer
from hf_genrec.item_tokenizers.modeling_mpq import MpqTokenizer
from hf_genrec.item_tokenizers.modeling_opq import OpqTokenizer
from hf_genrec.item_tokenizers.modeling_rq_vae import RqVaeTokenizer


def make_mpq(sizes=(7, 5, 6), **settings):
    tokenizer = _make(MpqTokenizer, MpqConfig, sizes, codebook_stds=[1.0] * len(sizes), **settings)
    tokenizer.mean_gate.copy_(torch.rand(len(sizes)).softmax(0))
    return tokenizer


def make_opq(sizes=(7, 5, 6), dim=10, seed=0, **fields):
    """Fitted, not learned; its rotation is a random one."""
    torch.manual_seed(seed)
    tokenizer = OpqTokenizer(OpqConfig(codebook_sizes=list(sizes), input_dim=dim, part_dims=[dim], **fields))
    rows, columns = tokenizer.rotation.shape
    tokenizer.rotation.copy_(torch.linalg.qr(torch.randn(columns, rows))[0].T)
    for number in range(len(sizes)):
        tokenizer.get_buffer(f"codebook_{number}").normal_()
    tokenizer.part_mean.zero_()
    tokenizer.part_scale.fill_(1.0)
    return tokenizer.eval()


def make_rq_vae(sizes=(7, 7, 7), **settings):
    return _make(RqVaeTokenizer, RqVaeConfig, sizes, [0.5**level for level in range(len(sizes))], **settings)


def make_letter(sizes=(7, 7, 7), **settings):
    return _make(LetterTokenizer, LetterConfig, sizes, [0.5**level for level in range(len(sizes))], **settings)


def make_coba(sizes=(7, 7, 7), **settings):
    return _make(CobaTokenizer, CobaConfig, sizes, [0.5**level for level in range(len(sizes))], **settings)


def _make(
    tokenizer_class, config_class, sizes, codebook_stds, dim=10, latent_dim=4, hidden_sizes=(9,), seed=0, **fields
):
    torch.manual_seed(seed)
    settings = {
        "codebook_sizes": list(sizes),
        "input_dim": dim,
        "part_dims": [dim],
        "latent_dim": latent_dim,
        "hidden_sizes": list(hidden_sizes),
    }
    tokenizer = tokenizer_class(config_class(**settings | fields))
    with torch.no_grad():
        for number, std in enumerate(codebook_stds):
            tokenizer.get_parameter(f"codebook_{number}").normal_(std=std)
        tokenizer.part_mean.zero_()
        tokenizer.part_scale.fill_(1.0)
    return tokenizer.eval()
