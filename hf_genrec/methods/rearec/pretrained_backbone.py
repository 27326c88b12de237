"""Backbones that start from the weights of a pretraining."""

import logging
from pathlib import Path

import torch

from hf_genrec.catalogue.published_weights import require_same_weights
from hf_genrec.catalogue.saved_files import load_tensors
from hf_genrec.files import restore_folder
from hf_genrec.method import read_config
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.training.lineage import require_trained_on

logger = logging.getLogger(__name__)

SIZES = ("num_items", "max_history", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SAME = (*SIZES, "hidden_act", "layer_norm_eps")
# Of the backbone, what a pretraining does not know.
OWN = ("reasoning_embeddings.", "adapter.")


def start_from_pretraining(model: ReaRecForNextItem, run_folder: str, data: str) -> None:
    """
    Give a model's backbone the weights of a pretraining: item vectors, positions, norms and layers. What makes it
    reason, and the position of padding, stay as they are.

    Args:
        run_folder: a run whose `pretrained/` holds them.
        data: the fingerprint of the prepared data.

    Raises:
        FileNotFoundError: if there is no pretraining.
        ValueError: for one of other data or sizes, or whose positions are not counted from the oldest item.
    """
    folder = Path(run_folder) / "pretrained"
    restore_folder(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"pretrained_backbone_run: {folder} holds no pretraining: train a run with method: s3rec on the same data"
        )
    require_trained_on(folder, data, "name a run of the same data as pretrained_backbone_run")
    theirs, config = read_config(folder), model.config
    differ = [
        f"{name} {theirs.get(name)}, here {getattr(config, name)}"
        for name in SAME
        if theirs.get(name) != getattr(config, name)
    ]
    if theirs.get("positions_from") != "oldest":
        differ.append(f"positions_from {theirs.get('positions_from')}, here oldest")
    if differ:
        raise ValueError(f"pretrained_backbone_run: {folder} does not fit ({'; '.join(differ)}): make them equal")

    tensors, _ = load_tensors(str(folder / "model.safetensors"))
    found = {name.removeprefix("model."): weight for name, weight in tensors.items() if name.startswith("model.")}
    backbone = model.model
    own = backbone.state_dict()
    items, places = "item_embeddings.weight", "position_embeddings.weight"
    if items in found:
        found[items] = found[items][: config.num_items + 1]  # without MASK
    if places in found:
        found[places] = torch.cat([found[places], own[places][-1:].cpu()])
    wanted = [name for name in own if not any(part in name for part in OWN)]
    weights = {name: found.pop(pretrained_name(name), None) for name in wanted} | found  # nothing is dropped silently
    require_same_weights({name: own[name] for name in wanted}, weights)
    backbone.load_state_dict(weights, strict=False)
    logger.info("the backbone starts from the pretraining in %s, whose cost is not counted here", folder)


def pretrained_name(name: str) -> str:
    """What a pretraining calls a weight of the backbone."""
    return "item_embeddings.weight" if name == "items.embeddings.weight" else name
