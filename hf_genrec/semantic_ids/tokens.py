"""The vocabulary of codes: a tokenizer of their own, or added to a language model's."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_genrec.catalogue.processing_codes import ANSWER_TOKEN, code_token
from hf_genrec.catalogue.transformers_bridge import cached_file

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


def base_tokenizer(base_model: str) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a pretrained model, a folder or a repository on the Hub.

    Raises:
        ValueError: if there is none, or it does not open. (transformers makes an empty one where there are no files.)
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
    except Exception as error:  # of many kinds, by what is damaged
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"the tokenizer of base_model {base_model} does not open (put its config.json, tokenizer and weights into "
            f"a folder and name that): {reason}"
        ) from error
    files = set(tokenizer.vocab_files_names.values())
    if not any(cached_file(base_model, file, _raise_exceptions_for_missing_entries=False) for file in sorted(files)):
        raise ValueError(
            f"base_model {base_model} has no tokenizer ({', '.join(sorted(files))}): put the tokenizer's files beside "
            f"the weights, so that the codes become new tokens and take no word's place"
        )
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that a table of all tokens has: one more than the largest id, which may exceed the number of tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def add_code_tokens(tokenizer: PreTrainedTokenizerBase, codebook_sizes: Sequence[int]) -> PreTrainedTokenizerBase:
    """
    Add the codes and the answer token to a language model's tokenizer, in place; pads on the left. Tokens it has
    already stay as they are.

    Raises:
        ValueError: if a new token gets the id of another one, as where the tokenizer's ids have gaps.
    """
    tokenizer.add_tokens(code_tokens(codebook_sizes))
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        else:
            tokenizer.pad_token = tokenizer.eos_token
    owners: dict[int, str] = {}
    for token, index in tokenizer.get_vocab().items():
        if owners.setdefault(index, token) != token:
            raise ValueError(
                f"tokens {owners[index]!r} and {token!r} of {tokenizer.name_or_path} have one id, {index}: the ids of "
                f"its tokens have gaps; number them without"
            )
    return tokenizer
