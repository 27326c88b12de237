"""Configuration of the residual k-means item tokenizer."""

from .configuration_item_tokenizer import ItemTokenizerConfig


class ResidualKMeansConfig(ItemTokenizerConfig):
    """Configuration of a [`ResidualKMeansTokenizer`]: `codebook_sizes` has one number per level, first level first."""

    model_type = "residual_kmeans"
    auto_classes = {  # noqa: RUF012  (a ClassVar of the base class)
        "AutoConfig": "configuration_residual_kmeans.ResidualKMeansConfig",
        "AutoModel": "modeling_residual_kmeans.ResidualKMeansTokenizer",
    }


ResidualKMeansConfig.register_for_auto_class()
