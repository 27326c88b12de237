"""TIGER (arXiv 2305.05065): a T5 that reads the codes of a history and writes those of the next item."""

from ...decoding.code_t5 import CodeT5
from .configuration_tiger import TigerConfig


class TigerForConditionalGeneration(CodeT5):
    """
    [`CodeT5`] as it is. `generate` writes the codes of the next item, `recommend` returns items.

    Example:

    ```python
    >>> model = AutoModelForSeq2SeqLM.from_pretrained("runs/tiger-ml-100k/model", trust_remote_code=True)
    >>> model.recommend([["50", "172", "181"]], k=10)
    ```
    """

    config_class = TigerConfig


TigerForConditionalGeneration.register_for_auto_class("AutoModel")
TigerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = ["TigerConfig", "TigerForConditionalGeneration"]
