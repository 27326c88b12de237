"""Configuration of the RQ-VAE item tokenizer."""

from dataclasses import field

from .configuration_item_tokenizer import LearnedItemTokenizerConfig


class RqVaeConfig(LearnedItemTokenizerConfig):
    """Configuration of a [`RqVaeTokenizer`]: `codebook_sizes` has one number per level, first level first."""

    model_type = "rq_vae"
    auto_classes = {  # noqa: RUF012  (a ClassVar of the base class)
        "AutoConfig": "configuration_rq_vae.RqVaeConfig",
        "AutoModel": "modeling_rq_vae.RqVaeTokenizer",
    }

    codebook_sizes: list[int] = field(default_factory=lambda: [256, 256, 256, 256])


RqVaeConfig.register_for_auto_class()
