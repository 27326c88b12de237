"""Configuration of MDGR (arXiv 2601.19501): an encoder-decoder that fills in an item's codes, several at a time."""

import sys
from dataclasses import field

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number, set_token_ids
from ...catalogue.transformers_bridge import PreTrainedConfig
from ...decoding.attention import require_layer_settings

NORMS = ("layernorm", "rmsnorm")
ORDERS = ("guided", "any")
COUNTS = (
    "max_history",
    "hidden_size",
    "intermediate_size",
    "num_encoder_layers",
    "num_hidden_layers",
    "num_attention_heads",
    "parallel_width",
)


class MdgrConfig(FlatCode, PreTrainedConfig):
    r"""
    Configuration of [`MdgrModel`] and [`MdgrForMaskedLM`].

    > Items

    Args:
        codebook_sizes (`list[int]`, defaults to four times 256):
            Codes of each of the L codebooks, which have no order. An item has one code of each. The token ids of the
            codes are 0, 1, ..., codebook after codebook, as far as `sum(codebook_sizes)`; then follow the mask token
            and the padding token.
        max_history (`int`, defaults to 50):
            Newest history items that are read.
        vocab_size, mask_token_id, pad_token_id (`int`, *optional*):
            Follow from `codebook_sizes`. The mask token is the answer token that ends the history of other models.

    > Model

    Args:
        hidden_size (`int`, defaults to 256):
            d, the length of embeddings and states.
        intermediate_size (`int`, defaults to 1024):
            Inner size of the feed-forward layers.
        num_encoder_layers (`int`, defaults to 1):
            Layers that read the history.
        num_hidden_layers (`int`, defaults to 4):
            Layers of the decoder.
        num_attention_heads (`int`, defaults to 4):
            Heads of every attention.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        norm_type (`str`, defaults to `"layernorm"`):
            `"layernorm"` or `"rmsnorm"`.
        norm_eps (`float`, defaults to 1e-5):
            Epsilon of the norms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.
        dropout (`float`, defaults to 0.1):
            Dropout of the embeddings and of what each attention and feed-forward layer adds.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the attention probabilities.

    > Loss

    Args:
        label_smoothing (`float`, defaults to 0.1):
            Share of a target's probability that is spread over its codebook.

    > Recommending

    Args:
        warmup_codes (`int`, *optional*):
            W, the codes that are written one at a time, before several are written at once: a decoder pass each. By
            default a quarter of the codebooks, at least one.
        parallel_width (`int`, defaults to 3):
            m, the codes that are written at once from then on. There are W + ceil((L - W) / m) decoder passes.

    Example:

    ```python
    >>> from hf_genrec.methods.mdgr.modeling_mdgr import MdgrConfig, MdgrForMaskedLM

    >>> model = MdgrForMaskedLM(MdgrConfig(codebook_sizes=[300] * 8))
    ```
    """

    model_type = "mdgr"
    settings_of_processor = ("max_history", "codebook_sizes")  # equal in both, or the folder is refused

    codebook_sizes: list[int] = field(default_factory=lambda: [256] * 4)
    max_history: int = 50
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_encoder_layers: int = 1
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    hidden_act: str = "gelu"
    norm_type: str = "layernorm"
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    dropout: float = 0.1
    attention_dropout: float = 0.0
    label_smoothing: float = 0.1
    warmup_codes: int | None = None
    parallel_width: int = 3
    vocab_size: int | None = None
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False  # the head reads the table of code embeddings itself

    def __post_init__(self, **kwargs):
        set_token_ids(self, "mask_token_id")
        if self.warmup_codes is None:
            self.warmup_codes = max(1, self.num_codebooks // 4)
        super().__post_init__(**kwargs)
        # save_pretrained writes the entry of the class it saves only; with all of them preset, AutoModel opens a
        # folder that MdgrForMaskedLM has saved.
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_mdgr.MdgrConfig",
                "AutoModel": "modeling_mdgr.MdgrModel",
                "AutoModelForMaskedLM": "modeling_mdgr.MdgrForMaskedLM",
                "AutoProcessor": "processing_code_sets.CodeSetProcessor",
            }
        self._check()

    def _check(self):
        if self.norm_type not in NORMS:
            raise ValueError(f"norm_type={self.norm_type!r}: use one of {', '.join(NORMS)}.")
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        for name in ("dropout", "attention_dropout", "label_smoothing"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in ("norm_eps", "initializer_range"):
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_number("warmup_codes", self.warmup_codes, 0, self.num_codebooks)
        require_layer_settings(self.hidden_size, self.num_attention_heads, self.hidden_act)

    @property
    def num_codebooks(self) -> int:
        """L, the number of codes of an item."""
        return len(self.codebook_sizes)

    @property
    def num_codes(self) -> int:
        """The codes of all codebooks; token ids below this are codes."""
        return sum(self.codebook_sizes)


MdgrConfig.register_for_auto_class()

__all__ = ["MdgrConfig"]
