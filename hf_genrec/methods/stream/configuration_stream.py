"""Configuration of STREAM (arXiv 2504.09627): a T5 over codes that writes thinking tokens before an item's codes."""

import sys
from typing import Any

from ...catalogue.saved_files import require_number
from ...decoding.code_t5_config import CodeT5Config

WEIGHTS = ("state_weight", "quantization_weight", "preference_weight", "preference_beta")


class StreamConfig(CodeT5Config):
    r"""
    Configuration of [`StreamForConditionalGeneration`]: [`CodeT5Config`] with the thinking tokens.

    > Thinking

    Args:
        num_thinking_tokens (`int`, defaults to 0):
            Codes that the decoder writes before those of an item. 0: TIGER.

    > Loss, terms beside the cross-entropy of thinking tokens and codes

    Args:
        state_weight (`float`, defaults to 1.0):
            Of the contrastive loss that draws the states to the target.
        quantization_weight (`float`, defaults to 1.0):
            Of the distance between the residuals and the codes that stand for them.
        preference_weight (`float`, defaults to 0.1):
            Of the preference (DPO) for the target over an item that a model without thinking takes for it.
        preference_beta (`float`, defaults to 0.1):
            What the preference multiplies log-probability ratios by.
        temperature (`float`, defaults to 0.1):
            Of the softmax over cosines.
    """

    model_type = "stream"
    keys_to_ignore_at_inference = ["losses", "cache", "past_key_values"]  # noqa: RUF012

    num_thinking_tokens: int = 0
    state_weight: float = 1.0
    quantization_weight: float = 1.0
    preference_weight: float = 0.1
    preference_beta: float = 0.1
    temperature: float = 0.1

    def __post_init__(self, **kwargs: Any):
        super().__post_init__(**kwargs)
        require_number("num_thinking_tokens", self.num_thinking_tokens, 0)
        for name in WEIGHTS:
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_number("temperature", self.temperature, 1e-6, sys.float_info.max, whole=False)
        if self.num_thinking_tokens and not self.codebook_sizes:
            raise ValueError("num_thinking_tokens needs codebook_sizes: give the codes of each level.")
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_stream.StreamConfig",
                "AutoModel": "modeling_stream.StreamForConditionalGeneration",
                "AutoModelForSeq2SeqLM": "modeling_stream.StreamForConditionalGeneration",
                "AutoProcessor": "processing_sequences.GenRecProcessor",
            }

    @property
    def learns_states(self) -> bool:
        """Whether states are taught the target."""
        return self.num_thinking_tokens > 0 and (self.state_weight > 0 or self.quantization_weight > 0)

    @property
    def learns_residuals(self) -> bool:
        """Whether residuals and the codes that stand for them are drawn together."""
        return self.num_thinking_tokens > 0 and self.quantization_weight > 0


StreamConfig.register_for_auto_class()

__all__ = ["StreamConfig"]
