"""Fitting a ResidualKMeansTokenizer: k-means on what the levels before left over."""

import numpy as np

from hf_genrec.item_tokenizers.configuration_residual_kmeans import ResidualKMeansConfig
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer

from .codebooks import fit_codebooks
from .codebooks import sample_rows as _sample_rows
from .parts import fit_parts, part_fields


def fit_residual_kmeans(
    parts: dict[str, np.ndarray],
    codebook_sizes: list[int],
    weights: dict[str, float] | None = None,
    seed: int = 0,
    projection_dim: int | None = None,
    text_model: str | None = None,
    text_columns: list[str] | None = None,
    image_model: str | None = None,
) -> ResidualKMeansTokenizer:
    """Fit the parts' mean and scale and one codebook per level. Deterministic, and no code is left unused.

    Parts may be memory maps (`np.load(path, mmap_mode="r")`): they are read in chunks, and of many items only a sample
    (`sample_rows`) is held in memory. Where several processes were started together, all have to ask: statistics of all
    items are taken in shares, and the codebooks are those that the first process finds.

    Args:
        parts: by name, (N, D_part) each; rows are items.
        weights: by part name; 1 where not given.
        projection_dim: principal components that are kept; None, or no fewer than there are columns, keeps the vectors
            whole. In hundreds of dimensions residuals are alike in every direction: the mean of many is nearer to each
            than the mean of a few, one cluster takes most items, and the finer levels say little.
        text_model, text_columns, image_model: noted in the configuration, for encoding new items.

    Raises:
        ValueError: no items, parts of different lengths, NaN or infinity in a part, a part whose vectors are all alike,
            or fewer distinct vectors than codes at some level.
    """
    arrays = {name: np.asarray(part) for name, part in parts.items()}
    config = ResidualKMeansConfig(
        codebook_sizes=list(codebook_sizes),
        text_model=text_model,
        text_columns=text_columns,
        image_model=image_model,
        **part_fields(arrays, weights, projection_dim),
    )
    tokenizer = ResidualKMeansTokenizer(config)
    fit_parts(tokenizer, arrays)
    sample = _sample_rows(len(next(iter(arrays.values()))), seed)
    fit_codebooks(tokenizer, tokenizer.join(**{name: part[sample] for name, part in arrays.items()}).numpy(), seed)
    return tokenizer.eval()
