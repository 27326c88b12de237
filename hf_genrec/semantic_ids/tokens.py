"""The vocabulary of codes: a tokenizer of their own, or added to a language model's."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_genrec.catalogue.processing_codes import ANSWER_TOKEN, code_token

PAD_TOKEN = "<pad>"


def code_tokens(codebook_sizes: Sequence[int]) -> list[str]:
    """`<a_0>`, `<a_1>`, ..., level by level, then the answer token."""
    if len(codebook_sizes) > 26:
        raise ValueError(f"{len(codebook_sizes)} code levels: the letters a..z name at most 26.")
    return [code_token(level, code) for level, size in enumerate(codebook_sizes) for code in range(size)] + [
        ANSWER_TOKEN
    ]


def code_tokenizer(codebook_sizes: Sequence[int]) -> PreTrainedTokenizerFast:
    """A tokenizer whose whole vocabulary is the codes, the answer token and a padding token; pads on the left."""
    tokens = [*code_tokens(codebook_sizes), PAD_TOKEN]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=PAD_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[a-z]_\d+>|\|start_of_answer\||<pad>"), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD_TOKEN, padding_side="left")


def add_code_tokens(tokenizer: PreTrainedTokenizerBase, codebook_sizes: Sequence[int]) -> PreTrainedTokenizerBase:
    """Add the codes and the answer token to a language model's tokenizer, in place; pads on the left."""
    tokenizer.add_tokens(code_tokens(codebook_sizes))
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
