"""Configuration of CARE (arXiv 2602.03692): a Qwen2 or Qwen3 decoder with query tokens before each code of a
semantic ID."""

import sys
from dataclasses import field

from transformers import Qwen2Config, Qwen3Config

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number
from ...catalogue.transformers_bridge import ACT2FN, CACHE_NAMES
from ...decoding.shared_keys_values import require_shared_settings

COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)


class CareConfig(FlatCode, Qwen2Config):
    r"""
    Configuration of [`CareModel`] and [`CareForCausalLM`]. The fields of [`Qwen2Config`] describe the backbone.

    > Semantic IDs

    Args:
        num_queries (`list[int]`, defaults to `[1, 1, 1, 1]`):
            Query tokens before code 1, 2, ..., L. Its length is L, the number of codes of an item. 0 is allowed, and
            then the code is read from the token before it, as in a plain causal language model.
        codebook_sizes (`list[int]`, *optional*):
            Codes per level, L numbers. Not needed by the forward pass; the processor and `recommend` know the codes.
        answer_token_id (`int`):
            Token that ends the history and starts the answer.

    > Reasoning

    Args:
        progressive (`list[bool]`, *optional*, an empty list stands for all true):
            Per stage: whether its queries see only codes 1..k of each history item (stage k, counted from 1) or all of
            them.
        query_diversity_weight (`float`, defaults to 0.1):
            Weight of the mean cosine between query embeddings in the loss. 0 leaves the term out.
        code_sees_itself (`bool`, defaults to `False`):
            Whether the row of an answer's code may attend to its own column. The published model closes it.

    > Training

    Args:
        hidden_dropout (`float`, defaults to 0.0):
            Dropout of the embeddings and of what each attention and feed-forward layer adds to them.
        label_smoothing (`float`, defaults to 0.0):
            Share of the target that the cross-entropy spreads over the whole vocabulary, in training only.

    > Use

    Args:
        max_history (`int`, *optional*):
            Newest history items that are read. `None`: as many as `max_position_embeddings` allows.

    > Shared keys and values (CollectiveKV)

    Args:
        shared_kv_pool_size (`int`, defaults to 0):
            Rows of the pool that each layer's history keys, and values, are looked up in; 0 for none.
        shared_kv_user_dim (`int`, defaults to 2):
            Numbers of a key, and of a value, that are the user's own.
        shared_kv_peak_weight, shared_kv_balance_weight (`float`, defaults to 0.01):
            Weights of the routers' losses, in training only.

    > Backbone, where it is not Qwen2's

    Args:
        qk_norm (`bool`, defaults to `False`):
            Whether queries and keys are normed head by head, as Qwen3 has it.
        attention_bias (`bool`, defaults to `True`):
            Whether the projections to queries, keys and values have biases; Qwen3's have none.
        head_dim (`int`, *optional*):
            Width of an attention head, by default `hidden_size / num_attention_heads`.

    Example:

    ```python
    >>> from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM

    >>> config = CareConfig(
    ...     vocab_size=770, answer_token_id=768, codebook_sizes=[256, 256, 256], num_queries=[1, 1, 2], hidden_size=64,
    ...     intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    ... )
    >>> model = CareForCausalLM(config)
    ```
    """

    model_type = "care"
    settings_of_processor = (
        "max_history",
        "codebook_sizes",
        "answer_token_id",
    )  # equal in both, or the folder is refused
    keys_to_ignore_at_inference = [*CACHE_NAMES]  # noqa: RUF012

    num_queries: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    codebook_sizes: list[int] | None = None
    answer_token_id: int | None = None
    progressive: list[bool] = field(default_factory=list)
    query_diversity_weight: float = 0.1
    code_sees_itself: bool = False
    hidden_dropout: float = 0.0
    label_smoothing: float = 0.0
    max_history: int | None = None
    shared_kv_pool_size: int = 0
    shared_kv_user_dim: int = 2
    shared_kv_peak_weight: float = 0.01
    shared_kv_balance_weight: float = 0.01
    qk_norm: bool = False
    attention_bias: bool = True
    head_dim: int | None = None

    def __post_init__(self, **kwargs):
        self.num_queries = list(self.num_queries)
        self.progressive = [bool(stage) for stage in self.progressive] or [True] * len(self.num_queries)
        for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):  # or lists as long as they are made
            require_number(name, getattr(self, name), 1)
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)
        # save_pretrained writes the entry of the class it saves only; with all of them preset, AutoModel opens a
        # folder that CareForCausalLM has saved.
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_care.CareConfig",
                "AutoModel": "modeling_care.CareModel",
                "AutoModelForCausalLM": "modeling_care.CareForCausalLM",
                "AutoProcessor": "processing_sequences.GenRecProcessor",
            }
        self._check()

    def _check(self):
        levels = len(self.num_queries)
        for number in self.num_queries:
            require_number("num_queries", number, 0)
        for size in self.codebook_sizes or ():
            require_number("codebook_sizes", size, 1)
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        for name in ("hidden_dropout", "attention_dropout", "label_smoothing"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        weights = ("query_diversity_weight", "shared_kv_peak_weight", "shared_kv_balance_weight")
        for name in ("rms_norm_eps", "initializer_range", *weights):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        for name in ("answer_token_id", "max_history"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), 0 if name == "answer_token_id" else 1)
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r}: name an activation of transformers, such as silu.")
        heads: int = self.num_key_value_heads or 1
        require_shared_settings(self.shared_kv_pool_size, self.shared_kv_user_dim, heads * int(self.head_dim or 1))
        if levels == 0:
            raise ValueError(
                f"num_queries={self.num_queries}: give one number of queries (0 or more) per code of an item."
            )
        if len(self.progressive) != levels:
            raise ValueError(
                f"progressive has {len(self.progressive)} entries, num_queries {levels}: give one per code."
            )
        if self.codebook_sizes is not None and len(self.codebook_sizes) != levels:
            raise ValueError(
                f"codebook_sizes has {len(self.codebook_sizes)} levels, num_queries {levels}: give one entry per code."
            )
        if self.num_attention_heads % int(self.num_key_value_heads or 1):
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide into num_key_value_heads="
                f"{self.num_key_value_heads}: change one."
            )
        if self.use_sliding_window or {"full_attention"} != set(self.layer_types):
            raise ValueError("CARE's attention mask reads the whole history: set use_sliding_window=False.")

    @property
    def num_levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.num_queries)

    @classmethod
    def from_published(
        cls,
        qwen2_config: dict,
        query_list: list[int],
        progressive_list: list[bool],
        query_div_scale: float,
        identifier_len: int,
        answer_token_id: int,
    ) -> "CareConfig":
        """
        Configuration of a model trained with the published CARE code, in that code's names.

        Raises:
            ValueError: if a list does not have `identifier_len` entries.
        """
        for name, values in (("query_list", query_list), ("progressive_list", progressive_list)):
            if len(values) != identifier_len:
                raise ValueError(
                    f"{name} has {len(values)} entries, identifier_len is {identifier_len}: give one per code."
                )
        return cls(
            **qwen2_config,
            num_queries=list(query_list),
            progressive=[bool(p) for p in progressive_list],
            query_diversity_weight=query_div_scale,
            answer_token_id=answer_token_id,
        )

    @classmethod
    def from_base(cls, base_config: Qwen2Config | Qwen3Config, **care_fields) -> "CareConfig":
        """The backbone's fields of a Qwen2, Qwen2.5, Qwen3 or CARE configuration with CARE's own beside them."""
        fields = base_config.to_dict()
        for name in ("model_type", "architectures", "auto_map", "transformers_version", "_name_or_path"):
            fields.pop(name, None)
        return cls(**({"qk_norm": isinstance(base_config, Qwen3Config)} | fields | care_fields))


CareConfig.register_for_auto_class()

__all__ = ["CareConfig"]
