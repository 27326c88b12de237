"""Configuration of REG4Rec (arXiv 2508.15308): an encoder-decoder that writes an item's codes, the surest first."""

import sys
from dataclasses import field

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number, set_token_ids
from ...catalogue.transformers_bridge import CACHE_NAMES, PreTrainedConfig
from ...decoding.attention import require_layer_settings

CODE_ORDERS = ("confidence", "fixed")
CODE_READINGS = ("path", "set")
COUNTS = (
    "num_categories",
    "max_history",
    "hidden_size",
    "intermediate_size",
    "num_encoder_layers",
    "num_hidden_layers",
    "num_attention_heads",
    "reflection_interval",
)


class Reg4RecConfig(FlatCode, PreTrainedConfig):
    r"""
    Configuration of [`Reg4RecModel`] and [`Reg4RecForConditionalGeneration`].

    > Items

    Args:
        codebook_sizes (`list[int]`, defaults to eight times 300):
            Codes of each of the M codebooks, which have no order. An item has one code of each. The token ids of the
            codes are 0, 1, ..., codebook after codebook, as far as `sum(codebook_sizes)`; then follow the start token
            and the padding token.
        num_categories (`int`, defaults to 1):
            G, the classes of items that the category head tells apart.
        max_history (`int`, defaults to 50):
            Newest history items that are read.
        vocab_size, decoder_start_token_id, pad_token_id (`int`, *optional*):
            Follow from `codebook_sizes`. The start token is the answer token that ends the history of other models.

    > Model

    Args:
        hidden_size (`int`, defaults to 128):
            d, the length of embeddings and states.
        intermediate_size (`int`, defaults to 640):
            Inner size of the feed-forward layers.
        num_encoder_layers (`int`, defaults to 1):
            Layers that read the history.
        num_hidden_layers (`int`, defaults to 2):
            Layers of the decoder.
        num_attention_heads (`int`, defaults to 4):
            Heads of every attention.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        layer_norm_eps (`float`, defaults to 1e-5):
            Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.
        dropout (`float`, defaults to 0.1):
            Dropout of the embeddings and of what each attention and feed-forward layer adds.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the attention probabilities.

    > Order of the codes

    Args:
        code_order (`str`, defaults to `"confidence"`):
            `"confidence"`: CRSS, any unused codebook may be next, and the surest one is; `"fixed"`: codebook 1, 2, ...,
            M, in training, recommending and post-training (the paper's ablation "w/o CRSS", and the order for residual
            codes).

        code_reading (`str`, defaults to `"path"`):
            What the decoder makes of the codes chosen so far. `"path"`: a code reads those before it, so that the same
            codes in another order say something else. `"set"`: a code reads the history alone, and the start token,
            which is read again after each code, reads them all: what comes next depends on which codes are chosen and
            not on their order. It reads twice the tokens.

    > Loss

    Args:
        category_weight (`float`, defaults to 0.2):
            Weight of the category loss beside the token loss, which is a sum over M steps.

    > Reflection (CORP), when recommending

    Args:
        reflection_threshold (`float`, *optional*):
            theta, the Jensen-Shannon divergence (natural logarithm) between the category distributions of two steps of
            a path above which its newest code is taken back; published: 0.06. `None`: never.
        reflection_interval (`int`, defaults to 1):
            s, the steps between the two distributions; they are compared at every s-th step.
        max_rollbacks (`int`, defaults to 2):
            How many codes of one path may be taken back.

    Example:

    ```python
    >>> from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecConfig, Reg4RecForConditionalGeneration

    >>> model = Reg4RecForConditionalGeneration(Reg4RecConfig(codebook_sizes=[300] * 8, num_categories=19))
    ```
    """

    model_type = "reg4rec"
    settings_of_processor = ("max_history", "codebook_sizes")  # equal in both, or the folder is refused
    keys_to_ignore_at_inference = ["losses", *CACHE_NAMES]  # noqa: RUF012

    codebook_sizes: list[int] = field(default_factory=lambda: [300] * 8)
    num_categories: int = 1
    max_history: int = 50
    hidden_size: int = 128
    intermediate_size: int = 640
    num_encoder_layers: int = 1
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    dropout: float = 0.1
    attention_dropout: float = 0.0
    code_order: str = "confidence"
    code_reading: str = "path"
    category_weight: float = 0.2
    reflection_threshold: float | None = None
    reflection_interval: int = 1
    max_rollbacks: int = 2
    vocab_size: int | None = None
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        set_token_ids(self, "decoder_start_token_id")
        super().__post_init__(**kwargs)
        # save_pretrained writes the entry of the class it saves only; with all of them preset, AutoModel opens a
        # folder that Reg4RecForConditionalGeneration has saved.
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_reg4rec.Reg4RecConfig",
                "AutoModel": "modeling_reg4rec.Reg4RecModel",
                "AutoModelForSeq2SeqLM": "modeling_reg4rec.Reg4RecForConditionalGeneration",
                "AutoProcessor": "processing_reg4rec.Reg4RecProcessor",
            }
        self._check()

    def _check(self):
        if self.code_order not in CODE_ORDERS:
            raise ValueError(f"code_order={self.code_order!r}: use one of {', '.join(CODE_ORDERS)}.")
        if self.code_reading not in CODE_READINGS:
            raise ValueError(f"code_reading={self.code_reading!r}: use one of {', '.join(CODE_READINGS)}.")
        for name in ("reflection_threshold", "max_rollbacks", "category_weight"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}: give 0 or more.")
        for size in self.codebook_sizes:
            require_number("codebook_sizes", size, 1)
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        for name in ("dropout", "attention_dropout"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in ("layer_norm_eps", "initializer_range", "category_weight"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_number("max_rollbacks", self.max_rollbacks, 0)
        if self.reflection_threshold is not None:
            require_number("reflection_threshold", self.reflection_threshold, 0, whole=False)
        require_layer_settings(self.hidden_size, self.num_attention_heads, self.hidden_act)

    @property
    def num_codebooks(self) -> int:
        """M, the number of codes of an item."""
        return len(self.codebook_sizes)

    @property
    def num_codes(self) -> int:
        """The codes of all codebooks; token ids below this are codes."""
        return sum(self.codebook_sizes)


Reg4RecConfig.register_for_auto_class()

__all__ = ["Reg4RecConfig"]
