"""Item tokenizers that are trained: as they start from the items, and what is left to do after their training."""

from typing import Any

import numpy as np
import torch

from hf_genrec.item_tokenizers.configuration_coba import CobaConfig
from hf_genrec.item_tokenizers.configuration_letter import LetterConfig
from hf_genrec.item_tokenizers.configuration_mpq import MpqConfig
from hf_genrec.item_tokenizers.configuration_rq_vae import RqVaeConfig
from hf_genrec.item_tokenizers.learned_item_tokenizer import LearnedItemTokenizer
from hf_genrec.item_tokenizers.modeling_coba import CobaTokenizer
from hf_genrec.item_tokenizers.modeling_letter import LetterTokenizer
from hf_genrec.item_tokenizers.modeling_mpq import MpqTokenizer
from hf_genrec.item_tokenizers.modeling_rq_vae import RqVaeTokenizer

from .arguments import TokenizerArguments
from .balanced import balanced_centroids, balanced_labels
from .codebooks import fill_unused, fit_codebooks, plain_centroids, sample_rows
from .parts import fit_parts, part_fields, principal_components

# Length of an expert's projections other than the principal directions that it starts with, whose length is 1. Not 0:
# equation (3) scales every one to length 1.
START_NOISE = 0.03

# LETTER's clusters of a level's codes, from which its diversity loss draws: their number, and their sizes
CODE_CLUSTERS = 10
SMALLEST_CLUSTER, LARGEST_CLUSTER = 10, 60


def build_learned_tokenizer(parts: dict[str, np.ndarray], arguments: TokenizerArguments) -> LearnedItemTokenizer:
    """An item tokenizer, ready to be trained.

    Mean and scale of the parts are those of the items, the networks random by torch's generator (an MPQ's experts start
    from principal directions of the items), the codebooks k-means centroids of the latents that these networks make
    (a LETTER's of clusters of bounded sizes).

    Args:
        parts: by name, (N, D_part) each; rows are items.

    Raises:
        ValueError: as `fit_residual_kmeans`.
    """
    fields: dict[str, Any] = {
        "codebook_sizes": list(arguments.codebook_sizes),
        "latent_dim": arguments.latent_dim,
        "text_model": arguments.text_model if "text" in parts else None,
        "text_columns": arguments.text_columns,
        "image_model": arguments.image_model,
        **part_fields(parts, arguments.part_weights),
    }
    tokenizer: LearnedItemTokenizer
    if arguments.item_tokenizer == "mpq":
        tokenizer = MpqTokenizer(MpqConfig(**fields))
        fit_parts(tokenizer, parts)
        start_experts(tokenizer, parts)
    elif arguments.item_tokenizer == "letter":
        weights = {name: getattr(arguments, name) for name in ("alignment_weight", "diversity_weight")}
        epsilons = [0.0] * (len(arguments.codebook_sizes) - 1) + [arguments.sinkhorn_epsilon]
        tokenizer = LetterTokenizer(LetterConfig(sinkhorn_epsilons=epsilons, **weights, **fields))
        fit_parts(tokenizer, parts)
    elif arguments.item_tokenizer == "coba":
        tokenizer = CobaTokenizer(CobaConfig(uniformity_weight=arguments.uniformity_weight, **fields))
        fit_parts(tokenizer, parts)
    else:
        tokenizer = RqVaeTokenizer(RqVaeConfig(**fields))
        fit_parts(tokenizer, parts)
    rows = sample_rows(len(next(iter(parts.values()))), arguments.tokenizer_seed)
    fit_codebooks(
        tokenizer,
        tokenizer.join(**{name: part[rows] for name, part in parts.items()}).numpy(),
        arguments.tokenizer_seed,
        balanced=isinstance(tokenizer, LetterTokenizer),
    )
    return tokenizer


@torch.no_grad()
def start_experts(tokenizer: MpqTokenizer, parts: dict[str, np.ndarray]) -> None:
    """Let the experts look at different things: expert r starts with every M-th principal direction of the items, each
    in a coordinate of its own of the latent space.

    From a random start they stay alike: q is a sum, so the decoder's error gives all of them the same gradient, and
    equation (3) is too weak to part them.
    """
    latent_dim, experts = tokenizer.config.latent_dim, tokenizer.num_experts
    directions = min(max(latent_dim, experts), tokenizer.config.vector_dim)
    components = torch.from_numpy(principal_components(tokenizer, parts, directions))
    weight = tokenizer.experts.projection.weight.view(experts, latent_dim, -1)
    weight *= START_NOISE / weight.norm(dim=2, keepdim=True)
    for number, component in enumerate(components.T):
        weight[number % experts, number % latent_dim] += component


def cluster_codes(tokenizer: LetterTokenizer, seed: int) -> None:
    """Tell the tokenizer the clusters of its codewords as they are now: ten a level, or as many as have two codes."""
    labels = []
    for codebook in tokenizer.codebooks:
        words = codebook.cpu().numpy()
        clusters = min(CODE_CLUSTERS, len(words) // 2)
        bounds = max(2, min(len(words) // 20, SMALLEST_CLUSTER)), max(LARGEST_CLUSTER, -(-3 * len(words) // 20))
        centroids = balanced_centroids(words, plain_centroids(words, clusters, seed), *bounds)
        labels.append(balanced_labels(words, centroids, *bounds))
    tokenizer.set_code_clusters(labels)


def finish_learned_tokenizer(tokenizer: LearnedItemTokenizer, vectors: np.ndarray, seed: int) -> int:
    """What training leaves to do: codes that no item uses are put to use, and an MPQ's mean gate is kept.

    Returns:
        How many codes no item used.
    """
    tokenizer.eval()
    filled = fill_unused(tokenizer, vectors[sample_rows(len(vectors), seed)])
    if isinstance(tokenizer, MpqTokenizer):
        tokenizer.set_mean_gate(vectors)
    return filled
