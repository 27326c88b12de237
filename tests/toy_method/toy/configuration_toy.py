"""Configuration of the toy method."""

from ...catalogue.flat_code import FlatCode
from ...catalogue.transformers_bridge import PreTrainedConfig


class ToyConfig(FlatCode, PreTrainedConfig):
    """
    Args:
        vocab_size: tokens.
        hidden_size: d, of their embeddings.
        max_history: newest items that are read.
    """

    model_type = "toy"

    vocab_size: int = 1
    hidden_size: int = 8
    num_hidden_layers: int = 0
    max_history: int = 50

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = {
                "AutoConfig": "configuration_toy.ToyConfig",
                "AutoModel": "modeling_toy.ToyForNextItem",
                "AutoModelForSequenceClassification": "modeling_toy.ToyForNextItem",
                "AutoProcessor": "processing_sequences.GenRecProcessor",
            }


ToyConfig.register_for_auto_class()
