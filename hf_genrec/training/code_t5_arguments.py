"""The keys that a user sets of any encoder-decoder over ordered codes."""

from dataclasses import dataclass, field
from typing import Any, Literal

# Keys by the names that T5's configuration has for them.
T5_NAMES = {
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_encoder_layers": "num_layers",
    "num_hidden_layers": "num_decoder_layers",
    "num_attention_heads": "num_heads",
    "head_dim": "d_kv",
    "dropout": "dropout_rate",
    "label_smoothing": "label_smoothing",
    "item_separators": "item_separators",
    "level_heads": "level_heads",
    "mlp_layers": "mlp_layers",
    "shared_kv_pool_size": "shared_kv_pool_size",
    "shared_kv_user_dim": "shared_kv_user_dim",
}


@dataclass
class CodeT5Arguments:
    """
    A T5 over codes, from scratch.

    Raises:
        ValueError: for values that the model's configuration refuses.
    """

    hidden_size: int = field(default=128, metadata={"help": "width of the states"})
    intermediate_size: int = field(default=256, metadata={"help": "width of the feed-forward layers"})
    num_encoder_layers: int = field(default=2, metadata={"help": "layers that read the history"})
    num_hidden_layers: int = field(default=2, metadata={"help": "layers of the decoder"})
    num_attention_heads: int = field(default=4, metadata={"help": "attention heads"})
    head_dim: int = field(default=32, metadata={"help": "width of an attention head"})
    dropout: float = field(
        default=0.1, metadata={"help": "dropout of embeddings, attention weights and what each layer adds"}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of the target that the loss spreads over all codes"}
    )
    code_embeddings: Literal["random", "centroids"] = field(
        default="random", metadata={"help": "code embeddings start random, or as the item tokenizer's centroids"}
    )
    item_separators: bool = field(
        default=False, metadata={"help": "the encoder reads a learned vector behind each item"}
    )
    level_heads: bool = field(
        default=False, metadata={"help": "a head per level whose softmax is over its codes; or one table for all"}
    )
    mlp_layers: int | None = field(
        default=None, metadata={"help": "feed-forward layers with biases and so many linear ones; null: T5's own"}
    )
    shared_kv_pool_size: int = field(
        default=0,
        metadata={"help": "rows of the pool that histories' keys, and values, are looked up in; 0 for plain ones"},
    )
    shared_kv_user_dim: int = field(
        default=2, metadata={"help": "with a pool: numbers of a key, and of a value, that are the user's own"}
    )

    def __post_init__(self) -> None:
        # It imports torch, which the keys need not.
        from hf_genrec.decoding.code_t5_config import CodeT5Config

        CodeT5Config(vocab_size=3, codebook_sizes=[1], **self.config_fields())  # the codes are not known yet: any do
        if self.code_embeddings not in ("random", "centroids"):
            raise ValueError(f"code_embeddings: {self.code_embeddings!r} is not one of random, centroids")

    def config_fields(self) -> dict[str, Any]:
        """The settings that are fields of `CodeT5Config`, by its names."""
        return {name: getattr(self, key) for key, name in T5_NAMES.items()}
