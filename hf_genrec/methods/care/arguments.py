"""The keys of CARE that a user sets."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class CareArguments:
    """
    The CARE model: from scratch at the given size, from a pretrained Qwen2, Qwen2.5 or Qwen3, or from an earlier run.

    Raises:
        ValueError: for sizes that do not fit together, with what to write instead.
    """

    method: Literal["care"] = field(default="care", metadata={"help": "what is trained"})
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "pretrained Qwen2, Qwen2.5 or Qwen3, folder or name; or the run folder of an earlier CARE model "
            "with the same codes (codes_run); null builds the sizes below from scratch"
        },
    )
    hidden_size: int = field(default=128, metadata={"help": "from scratch: width of the hidden states"})
    intermediate_size: int = field(default=256, metadata={"help": "from scratch: width of the feed-forward layers"})
    num_hidden_layers: int = field(default=2, metadata={"help": "from scratch: layers"})
    num_attention_heads: int = field(
        default=4, metadata={"help": "from scratch: attention heads (as many key/value heads)"}
    )
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of the attention weights"})
    hidden_dropout: float = field(
        default=0.0, metadata={"help": "dropout of the embeddings and of what each layer adds to them"}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of the target that the loss spreads over all codes"}
    )
    code_embeddings: Literal["random", "centroids"] = field(
        default="random",
        metadata={"help": "from scratch: code embeddings start random, or as the item tokenizer's centroids"},
    )
    tie_word_embeddings: bool = field(
        default=True, metadata={"help": "from scratch: one table for input and output codes"}
    )
    num_queries: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "query tokens before each code; one number stands for every code"},
    )
    progressive: list[bool] = field(
        default_factory=lambda: [True],
        metadata={
            "help": "per code: its queries see only the history codes up to its level; one value stands for every code"
        },
    )
    query_diversity_weight: float = field(
        default=0.1, metadata={"help": "weight of the query diversity term in the loss"}
    )

    shared_kv_pool_size: int = field(
        default=0,
        metadata={"help": "rows of the pool that users' cached keys, and values, are looked up in; 0 for plain ones"},
    )
    shared_kv_user_dim: int = field(
        default=2, metadata={"help": "with a pool: numbers of a cached key, and of a value, that are the user's own"}
    )

    def __post_init__(self) -> None:
        from hf_genrec.methods.care.configuration_care import CareConfig  # imports torch, which the keys need not

        if self.base_model is None and (self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}: "
                f"change one"
            )
        if self.code_embeddings not in ("random", "centroids"):
            raise ValueError(f"code_embeddings: {self.code_embeddings!r} is not one of random, centroids")
        if self.code_embeddings == "centroids" and self.base_model is not None:
            raise ValueError("code_embeddings: centroids starts a model from scratch: leave base_model out")
        if not self.num_queries or min(self.num_queries) < 0:
            raise ValueError(
                f"num_queries {self.num_queries}: give [n] for every code, or one number (0 or more) per code"
            )
        checked = ["attention_dropout", "hidden_dropout", "label_smoothing", "query_diversity_weight", "num_queries"]
        checked += ["shared_kv_pool_size", "shared_kv_user_dim"]
        values = {name: getattr(self, name) for name in checked}
        if self.base_model is None:
            sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
            values |= {name: getattr(self, name) for name in sizes} | {"num_key_value_heads": self.num_attention_heads}
        CareConfig(**values)
        if not self.progressive:
            raise ValueError("progressive is empty: give [true] for every code, or one value per code")
