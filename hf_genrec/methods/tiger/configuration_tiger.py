"""Configuration of TIGER (arXiv 2305.05065): T5 from the codes of a history to those of the next item."""

from typing import Any

from ...decoding.code_t5_config import CodeT5Config


class TigerConfig(CodeT5Config):
    r"""
    Configuration of [`TigerForConditionalGeneration`]: [`CodeT5Config`] with nothing added.

    Example:

    ```python
    >>> from hf_genrec.methods.tiger.modeling_tiger import TigerConfig, TigerForConditionalGeneration

    >>> config = TigerConfig(
    ...     vocab_size=770, codebook_sizes=[256, 256, 256], answer_token_id=768, pad_token_id=769, d_model=128,
    ...     d_ff=1024, d_kv=64, num_heads=6, num_layers=4,
    ... )
    >>> model = TigerForConditionalGeneration(config)
    ```
    """

    model_type = "tiger"

    def __post_init__(self, **kwargs: Any):
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_tiger.TigerConfig",
                "AutoModel": "modeling_tiger.TigerForConditionalGeneration",
                "AutoModelForSeq2SeqLM": "modeling_tiger.TigerForConditionalGeneration",
                "AutoProcessor": "processing_sequences.GenRecProcessor",
            }


TigerConfig.register_for_auto_class()

__all__ = ["TigerConfig"]
