"""What phonism/genrec, a community's COBRA (the authors have published none), calls and computes."""

import torch

NAMES = (
    ("self_attn.out_proj", "attention.output"),
    ("norm1", "attention_norm"),
    ("norm2", "memory_norm"),
    ("norm3", "feed_forward_norm"),
    ("linear1", "feed_forward.up"),
    ("linear2", "feed_forward.down"),
)


def community_weights(state_dict: dict[str, torch.Tensor], num_layers: int, num_levels: int) -> dict[str, torch.Tensor]:
    """
    The weights of its decoder under our names. Tables keep their rows: those of codes end with one of padding.

    Raises:
        ValueError: if one is missing.
    """
    try:
        found = {
            f"model.{ours}.weight": state_dict[f"cobra_emb.{theirs}.weight"]
            for theirs, ours in (
                ("id_embed", "embed_tokens"),
                ("pos_embed", "position_embeddings"),
                ("type_embed", "type_embeddings"),
            )
        }
        for index in range(num_layers):
            theirs, ours = f"decoder.decoder.layers.{index}.", f"model.layers.{index}."
            for kind in ("weight", "bias"):
                parts = state_dict[f"{theirs}self_attn.in_proj_{kind}"].chunk(3)
                for name, part in zip(("query", "key", "value"), parts, strict=True):
                    found[f"{ours}attention.{name}.{kind}"] = part
                for their_name, name in NAMES:
                    found[f"{ours}{name}.{kind}"] = state_dict[f"{theirs}{their_name}.{kind}"]
            # Its cross-attention has nothing to read: its output is its bias.
            found[f"{ours}empty_memory"] = state_dict[f"{theirs}multihead_attn.out_proj.bias"]
        for kind in ("weight", "bias"):
            heads = [state_dict[f"sparse_head.{level}.{kind}"] for level in range(num_levels)]
            found[f"code_head.{kind}"] = torch.cat(heads)
    except KeyError as error:
        raise ValueError(f"The weights lack {error}: give those of a COBRA of phonism/genrec.") from error
    return found


def additive_fusion(
    log_probs: torch.Tensor, vectors: torch.Tensor, item_vectors: torch.Tensor, alpha: float, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Its fusion of beams: `alpha` times the softmax of their log-probabilities and 1 - `alpha` times the cosine of the
    nearest item, scaled to 0..1. Each beam brings this one item, whatever its codes; an item may come twice.

    `recommend` does not use it: what it gives to an item depends on the other beams.

    Args:
        log_probs: (B, W) of the beams.
        vectors: (B, W, d) of the beams.
        item_vectors: (N, d).

    Returns:
        items (B, k) and scores (B, k), best first.
    """
    vectors, item_vectors = (torch.nn.functional.normalize(part, dim=-1) for part in (vectors, item_vectors))
    cosines, nearest = (vectors @ item_vectors.T).max(-1)  # (B, W)
    scores, beams = (alpha * log_probs.softmax(-1) + (1 - alpha) * (cosines + 1) / 2).topk(k)
    return nearest.gather(1, beams), scores
