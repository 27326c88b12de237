"""Configuration of COBRA (arXiv 2503.02453): a decoder that writes an item's codes and then its dense vector."""

import sys
from dataclasses import field

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number, set_token_ids
from ...catalogue.transformers_bridge import CACHE_NAMES, PreTrainedConfig
from ...decoding.attention import require_layer_settings
from ...decoding.shared_keys_values import require_shared_settings
from .cobra_choices import NEGATIVES, RETRIEVAL

COUNTS = (
    "num_items",
    "item_vector_size",
    "max_history",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


class CobraConfig(FlatCode, PreTrainedConfig):
    r"""
    Configuration of [`CobraModel`] and [`CobraForCausalLM`].

    > Items

    Args:
        codebook_sizes (`list[int]`, defaults to three times 256):
            Codes of each of the L levels. Their token ids are 0, 1, ..., level after level; then follow
            `answer_token_id` and `pad_token_id`.
        vocab_size, answer_token_id, pad_token_id (`int`, *optional*):
            Follow from `codebook_sizes`. The answer token begins a row. From `vocab_size` on ids stand for the dense
            vectors of the items, in the order of the catalogue.
        num_items (`int`, defaults to 1):
            N, the items of the catalogue.
        item_vector_size (`int`, defaults to 384):
            D, the length of an item's text embedding.
        item_embeddings (`bool`, defaults to `False`):
            Whether an item's dense vector is what is made of its text and a learned vector of its own, which a new
            item does not have. Without it, it is made of the text alone.
        max_history (`int`, defaults to 50):
            Newest history items that are read.

    > Decoder

    Args:
        hidden_size (`int`, defaults to 128):
            d, the length of dense vectors and states.
        intermediate_size (`int`, defaults to 256):
            Inner size of the feed-forward layers.
        num_hidden_layers (`int`, defaults to 2):
            Layers.
        num_attention_heads (`int`, defaults to 4):
            Heads of each layer.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        layer_norm_eps (`float`, defaults to 1e-5):
            Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.
        dropout (`float`, defaults to 0.1):
            Dropout of what enters the first layer and of what each layer adds.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the attention probabilities.
        norm_first (`bool`, defaults to `True`):
            Layer norms in front of attention and feed-forward part. `False`: behind them, with a third one behind a
            vector that is added between the two: what is left of a cross-attention that has nothing to read (the
            community's code).

    > Cached histories

    Args:
        shared_kv_pool_size (`int`, defaults to 0):
            Rows of the pool that each layer's keys, and values, are looked up in; 0 for none.
        shared_kv_user_dim (`int`, defaults to 2):
            Numbers of a key, and of a value, that are the user's own.
        shared_kv_peak_weight, shared_kv_balance_weight (`float`, defaults to 0.01):
            Weights of the routers' losses, in training only.

    > Loss

    Args:
        dense_temperature (`float`, defaults to 0.1):
            Cosines are divided by it in the dense loss; the paper has none, which is 1.
        negatives (`str`, defaults to `"catalogue"`):
            What a target's vector is told from: `"catalogue"`, all items; `"batch"`, the items of the batch;
            `"other_users"`, the targets of other rows, an item as often as it is one, without gradients to any target's
            vector (the community's code).
        dense_loss_weight (`float`, defaults to 1.0):
            Weight of the dense loss beside the sparse one.

    > Use

    Args:
        retrieval (`str`, defaults to `"fusion"`):
            `"fusion"`: codes and dense vector together; `"sparse"`: codes alone; `"dense"`: all items by the dense
            vector that follows the likeliest codes.
        dense_weight (`float`, defaults to 10.0):
            Fusion: weight of the cosine beside the codes' log-probability, psi / tau of the paper.
        num_neighbours (`int`, defaults to 20):
            Fusion: items near the beams' dense vectors that are considered beside the beams' own.

    Example:

    ```python
    >>> from hf_genrec.methods.cobra.modeling_cobra import CobraConfig, CobraForCausalLM

    >>> model = CobraForCausalLM(CobraConfig(codebook_sizes=[256] * 3, num_items=12101))
    ```
    """

    model_type = "cobra"
    settings_of_processor = (  # equal in both, or the folder is refused
        "max_history",
        "num_items",
        "codebook_sizes",
        "answer_token_id",
        "vocab_size",
    )
    keys_to_ignore_at_inference = ["losses", *CACHE_NAMES]  # noqa: RUF012

    codebook_sizes: list[int] = field(default_factory=lambda: [256] * 3)
    num_items: int = 1
    item_vector_size: int = 384
    item_embeddings: bool = False
    max_history: int = 50
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    dropout: float = 0.1
    attention_dropout: float = 0.0
    norm_first: bool = True
    dense_temperature: float = 0.1
    negatives: str = "catalogue"
    dense_loss_weight: float = 1.0
    retrieval: str = "fusion"
    dense_weight: float = 10.0
    num_neighbours: int = 20
    vocab_size: int | None = None
    answer_token_id: int | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    shared_kv_pool_size: int = 0
    shared_kv_user_dim: int = 2
    shared_kv_peak_weight: float = 0.01
    shared_kv_balance_weight: float = 0.01

    def __post_init__(self, **kwargs):
        set_token_ids(self, "answer_token_id")
        super().__post_init__(**kwargs)
        # save_pretrained writes the entry of the class it saves only; with all of them preset, AutoModel opens a
        # folder that CobraForCausalLM has saved.
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_cobra.CobraConfig",
                "AutoModel": "modeling_cobra.CobraModel",
                "AutoModelForCausalLM": "modeling_cobra.CobraForCausalLM",
                "AutoProcessor": "processing_cobra.CobraProcessor",
            }
        self._check()

    def _check(self):
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        require_number("num_neighbours", self.num_neighbours, 0)
        for name in ("dropout", "attention_dropout"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in ("layer_norm_eps", "initializer_range", "dense_temperature", "dense_loss_weight", "dense_weight"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        for name, choices in (("retrieval", RETRIEVAL), ("negatives", NEGATIVES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(choices)}.")
        if not self.dense_temperature:
            raise ValueError("dense_temperature=0: give a number above 0.")
        for name in ("shared_kv_peak_weight", "shared_kv_balance_weight"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_shared_settings(self.shared_kv_pool_size, self.shared_kv_user_dim, self.hidden_size)
        require_layer_settings(self.hidden_size, self.num_attention_heads, self.hidden_act)

    @property
    def num_levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.codebook_sizes)

    @property
    def num_codes(self) -> int:
        """The codes of all levels; token ids below this are codes."""
        return sum(self.codebook_sizes)

    @property
    def num_positions(self) -> int:
        """Tokens of the longest row: the answer token, and L codes and a vector of each history item and the target."""
        return 1 + (self.max_history + 1) * (self.num_levels + 1)


CobraConfig.register_for_auto_class()

__all__ = ["CobraConfig"]
