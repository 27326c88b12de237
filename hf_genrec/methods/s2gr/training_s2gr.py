"""Prepared, tokenized data and arguments -> S2GR's model with the clusters of the codebooks, and its trainer."""

from collections.abc import Sequence
from typing import Any

import torch

from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.methods.s2gr.arguments import S2grArguments
from hf_genrec.methods.s2gr.modeling_s2gr import S2grForConditionalGeneration
from hf_genrec.methods.s2gr.s2gr_trainer import S2grTrainer
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.training.code_t5_training import build_code_t5_trainer
from hf_genrec.training.config import RunConfig


def build_trainer(config: RunConfig) -> S2grTrainer:
    """
    The trainer of a run whose data are prepared and tokenized, with its model and examples.

    Raises:
        ValueError: if `thinking` has neither one entry nor one per code, or the codes have no codebooks to learn from.
    """
    arguments: S2grArguments = config.model
    sizes = SemanticIds.load(config.run.semantic_ids).codebook_sizes
    thinking = list(arguments.thinking)
    if len(thinking) == 1:
        thinking = thinking * len(sizes)
    if len(thinking) != len(sizes):
        raise ValueError(f"thinking has {len(thinking)} entries for items of {len(sizes)} codes: give one, or one each")
    codebooks: Sequence[torch.Tensor] = []
    if any(thinking) and arguments.num_clusters and arguments.cluster_weight:
        codebooks = codebooks_of(config)
    # A level that the item tokenizer does not have, the extra code of colliding items, has no clusters.
    counts = [min(arguments.num_clusters, len(codebook)) for codebook in codebooks]
    counts += [0] * (len(sizes) - len(counts))
    trainer: Any = build_code_t5_trainer(
        config,
        S2grForConditionalGeneration,
        S2grTrainer,
        thinking=thinking,
        num_clusters=counts,
        code_dim=codebooks[0].shape[1] if codebooks else 1,
        **arguments.loss_fields(),
    )
    for level, codebook in enumerate(codebooks):
        centres, clusters = codebook_clusters(codebook, counts[level], config.training.seed)
        trainer.model.set_clusters(level, centres, clusters)
    return trainer


def codebooks_of(config: RunConfig) -> Sequence[torch.Tensor]:
    """
    (K_l, D) per level, of the run's item tokenizer.

    Raises:
        ValueError: if there is none.
    """
    folder = config.run.semantic_ids / "item_tokenizer"
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not there, and thinking vectors are taught the clusters of its codebooks: tokenize, or set "
            f"num_clusters: 0"
        )
    return load_item_tokenizer(folder).codebooks


def codebook_clusters(codebook: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """k-means of a codebook (K, D): centres (count, D) and the cluster of each code (K,)."""
    from sklearn.cluster import KMeans

    kmeans = KMeans(count, n_init=10, random_state=seed).fit(codebook.cpu().numpy())
    centres = torch.from_numpy(kmeans.cluster_centers_).to(codebook.dtype)
    return centres, torch.from_numpy(kmeans.labels_).long()
