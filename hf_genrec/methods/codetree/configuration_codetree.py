"""Configuration of CodeTree: a sequential recommender that reads items and writes the next one's codes down a tree."""

import sys
from dataclasses import field

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number, set_token_ids
from ...catalogue.transformers_bridge import PreTrainedConfig
from ...decoding.attention import require_layer_settings

COUNTS = (
    "num_items",
    "max_history",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


class CodeTreeConfig(FlatCode, PreTrainedConfig):
    r"""
    Configuration of [`CodeTreeForConditionalGeneration`].

    > Items

    Args:
        codebook_sizes (`list[int]`, defaults to three times 256):
            Codes of each of the L levels. Their token ids are 0, 1, ..., level after level; then follow
            `answer_token_id` and `pad_token_id`.
        vocab_size, answer_token_id, pad_token_id (`int`, *optional*):
            Follow from `codebook_sizes`.
        num_items (`int`, defaults to 1):
            N, the items that have a learned vector of their own beside those of their codes.
        max_history (`int`, defaults to 50):
            Newest history items that are read.

    > Model

    Args:
        hidden_size (`int`, defaults to 64):
            d, the length of item vectors and states.
        intermediate_size (`int`, defaults to 256):
            Inner size of the feed-forward layers.
        num_hidden_layers (`int`, defaults to 2):
            Layers that read the history.
        num_attention_heads (`int`, defaults to 2):
            Heads of each layer.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        hidden_dropout, attention_dropout (`float`, defaults to 0.2):
            Dropout of what enters the first layer and of what each layer adds, and of the attention probabilities.
        layer_norm_eps (`float`, defaults to 1e-12):
            Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.

    Example:

    ```python
    >>> from hf_genrec.methods.codetree.modeling_codetree import CodeTreeConfig, CodeTreeForConditionalGeneration

    >>> model = CodeTreeForConditionalGeneration(CodeTreeConfig(codebook_sizes=[256] * 3, num_items=12101))
    ```
    """

    model_type = "codetree"
    settings_of_processor = (  # equal in both, or the folder is refused
        "max_history",
        "codebook_sizes",
        "answer_token_id",
    )
    keys_to_ignore_at_inference = ["losses"]  # noqa: RUF012

    codebook_sizes: list[int] = field(default_factory=lambda: [256] * 3)
    num_items: int = 1
    max_history: int = 50
    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.2
    attention_dropout: float = 0.2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    vocab_size: int | None = None
    answer_token_id: int | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        set_token_ids(self, "answer_token_id", "decoder_start_token_id")
        super().__post_init__(**kwargs)
        # save_pretrained writes the entry of the class it saves only; with all of them preset, AutoModel opens the
        # folder, too.
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_codetree.CodeTreeConfig",
                "AutoModel": "modeling_codetree.CodeTreeForConditionalGeneration",
                "AutoModelForSeq2SeqLM": "modeling_codetree.CodeTreeForConditionalGeneration",
                "AutoProcessor": "processing_sequences.GenRecProcessor",
            }
        self._check()

    def _check(self):
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        for name in ("hidden_dropout", "attention_dropout"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in ("layer_norm_eps", "initializer_range"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_layer_settings(self.hidden_size, self.num_attention_heads, self.hidden_act)

    @property
    def num_levels(self) -> int:
        """L, the number of codes of an item."""
        return len(self.codebook_sizes)


CodeTreeConfig.register_for_auto_class()

__all__ = ["CodeTreeConfig"]
