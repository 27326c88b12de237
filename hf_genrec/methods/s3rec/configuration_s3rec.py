"""Configuration of S3-Rec (arXiv 2008.07873): a sequential recommender with self-supervised pretraining."""

import sys

from ...catalogue.flat_code import FlatCode
from ...catalogue.saved_files import require_number
from ...catalogue.transformers_bridge import PreTrainedConfig
from ...decoding.attention import require_layer_settings
from .s3rec_choices import LOSSES, POSITIONS, TERMS

COUNTS = (
    "num_items",
    "max_history",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
WEIGHTS = ("layer_norm_eps", "initializer_range", *(f"{name}_weight" for name in TERMS))


class S3RecConfig(FlatCode, PreTrainedConfig):
    r"""
    Configuration of [`S3RecModel`], [`S3RecForPretraining`] and [`S3RecForNextItem`].

    > Encoder

    Args:
        num_items (`int`, defaults to 1):
            N, the items of the catalogue. Row N of the item table is PAD, row N + 1 MASK.
        max_history (`int`, defaults to 50):
            Newest history items that are read.
        hidden_size (`int`, defaults to 64):
            d, the length of item vectors and states.
        intermediate_size (`int`, defaults to 256):
            Inner size of the feed-forward layers.
        num_hidden_layers (`int`, defaults to 2):
            Transformer layers.
        num_attention_heads (`int`, defaults to 2):
            Heads of each layer.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers; `"gelu"` is the exact one (erf).
        layer_norm_eps (`float`, defaults to 1e-12):
            Epsilon of the layer norms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights.
        hidden_dropout (`float`, defaults to 0.5):
            Dropout of the embeddings, and of what each attention and feed-forward layer adds.
        attention_dropout (`float`, defaults to 0.5):
            Dropout of the attention probabilities.
        positions_from (`str`, defaults to `"newest"`):
            `"newest"`: the newest item has the last of `max_history` positions, as published, which pads on the left;
            `"oldest"`: the oldest item that is read has the first one.

    > Pretraining

    Args:
        num_attributes (`int`, defaults to 0):
            A, attributes of items; without any, the two tasks that predict them are left out.
        aap_weight (`float`, defaults to 0.2), mip_weight (`float`, defaults to 1.0), map_weight (`float`, defaults to
            1.0), sp_weight (`float`, defaults to 0.5):
            Weights of the losses: associated attributes of items, masked items, attributes of masked items, segments.
        mip_on_logits (`bool`, defaults to `False`):
            Masked items and segments are told from negatives by the difference of their scores. Published: of the
            sigmoids of their scores, which bounds each term between 0.31 and 1.31.

    > Fine-tuning

    Args:
        loss_type (`str`, defaults to `"bce"`):
            `"bce"`: binary cross-entropy of the target and of one negative; `"softmax"`: over all items.

    Example:

    ```python
    >>> from hf_genrec.methods.s3rec.modeling_s3rec import S3RecConfig, S3RecForNextItem

    >>> model = S3RecForNextItem(S3RecConfig(num_items=12101))
    ```
    """

    model_type = "s3rec"
    settings_of_processor = ("max_history", "num_items")  # equal in both, or the folder is refused
    keys_to_ignore_at_inference = ["losses"]  # noqa: RUF012

    num_items: int = 1
    max_history: int = 50
    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    hidden_dropout: float = 0.5
    attention_dropout: float = 0.5
    positions_from: str = "newest"
    num_attributes: int = 0
    aap_weight: float = 0.2
    mip_weight: float = 1.0
    map_weight: float = 1.0
    sp_weight: float = 0.5
    mip_on_logits: bool = False
    loss_type: str = "bce"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:  # save_pretrained writes the entry of the class it saves only
            self.auto_map = {
                "AutoConfig": "configuration_s3rec.S3RecConfig",
                "AutoModel": "modeling_s3rec.S3RecModel",
                "AutoModelForSequenceClassification": "modeling_s3rec.S3RecForNextItem",
                "AutoProcessor": "processing_rows.ItemProcessor",
            }
        for name, choices in (("positions_from", POSITIONS), ("loss_type", LOSSES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(choices)}.")
        for name in COUNTS:
            require_number(name, getattr(self, name), 1)
        require_number("num_attributes", self.num_attributes, 0)
        for name in ("hidden_dropout", "attention_dropout"):
            require_number(name, getattr(self, name), 0, 1, whole=False)
        for name in WEIGHTS:
            require_number(name, getattr(self, name), 0, sys.float_info.max, whole=False)
        require_layer_settings(self.hidden_size, self.num_attention_heads, self.hidden_act)

    @property
    def num_labels(self) -> int:
        """One class per catalogue row; `id2label` would be N strings in the file, and the processor knows the ids."""
        return self.num_items

    @num_labels.setter
    def num_labels(self, num_labels: int):
        if num_labels != self.num_items:
            raise ValueError(f"num_labels={num_labels}, but there is one class per item: num_items={self.num_items}.")

    @classmethod
    def from_published(cls, settings: dict) -> "S3RecConfig":
        """
        Configuration of a model trained with the published code.

        Args:
            settings: that code's own, by its names.

        Raises:
            ValueError: for a mask id that is not the last row of the item table.
        """
        if settings["mask_id"] != settings["item_size"] - 1:
            raise ValueError(
                f"mask_id={settings['mask_id']}: the last of item_size={settings['item_size']} rows is it."
            )
        same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "initializer_range")
        return cls(
            num_items=settings["item_size"] - 2,
            num_attributes=settings["attribute_size"],
            max_history=settings["max_seq_length"],
            intermediate_size=4 * settings["hidden_size"],
            hidden_dropout=settings["hidden_dropout_prob"],
            attention_dropout=settings["attention_probs_dropout_prob"],
            **{name: settings[name] for name in (*same, *(f"{name}_weight" for name in TERMS))},
        )


S3RecConfig.register_for_auto_class()

__all__ = ["S3RecConfig"]
