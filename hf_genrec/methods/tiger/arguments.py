"""The keys of TIGER that a user sets."""

from dataclasses import dataclass, field
from typing import Literal

from hf_genrec.training.code_t5_arguments import CodeT5Arguments


@dataclass
class TigerArguments(CodeT5Arguments):
    """The TIGER model, a T5 over codes, from scratch."""

    method: Literal["tiger"] = field(default="tiger", metadata={"help": "what is trained"})
