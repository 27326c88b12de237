"""Values of the published LETTER code.

It works with numbers of about 1 where the library has vectors of length about 1: items are divided by the root of their
length here, codewords by that of theirs, and gradients multiplied.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.item_tokenizers.configuration_letter import LetterConfig
from hf_genrec.item_tokenizers.modeling_letter import LetterTokenizer
from hf_genrec.item_tokenizers.nearest_centroid import nearest_centroid
from hf_genrec.item_tokenizers.sinkhorn import sinkhorn_codes, sinkhorn_plan
from hf_genrec.semantic_ids.balanced import balanced_centroids
from hf_genrec.semantic_ids.codebooks import plain_centroids
from hf_genrec.semantic_ids.collisions import spread

pytestmark = pytest.mark.libraries

CASES = sorted(path.parent for path in (Path(__file__).parents[1] / "golden/letter").glob("*/case.json"))
MORE_ERROR = 1.06  # than that of the published k-means, which is random


def open_tokenizer(weights, config):
    settings = {
        "codebook_sizes": config["num_emb_list"],
        "input_dim": config["in_dim"],
        "part_dims": [config["in_dim"]],
        "hidden_sizes": config["layers"],
        "latent_dim": config["e_dim"],
        "sinkhorn_epsilons": [epsilon * config.get("use_sk", True) for epsilon in config["sk_epsilons"]],
        "sinkhorn_iterations": config["sk_iters"],
        "commitment_weight": config.get("mu", 0.25),
        "quantization_weight": config.get("quant_loss_weight", 1.0),
        "alignment_weight": config.get("alpha", 0.01),
        "diversity_weight": config.get("beta", 1e-4),
    }
    tokenizer = LetterTokenizer(LetterConfig(**settings))
    with torch.no_grad():
        for ours, theirs, scale in names(tokenizer):
            tokenizer.get_parameter(ours).copy_(weights[theirs] / scale)
        tokenizer.part_mean.zero_()
        tokenizer.part_scale.fill_(1.0)
    return tokenizer.eval()


def names(tokenizer):
    """Our parameter, theirs, and how much longer theirs is."""
    for network in ("encoder", "decoder"):
        for name, _ in getattr(tokenizer, network).layers.named_parameters():
            layer, kind = name.split(".")
            yield f"{network}.layers.{name}", f"{network}.mlp_layers.{1 + int(layer) // 2 * 3}.{kind}", 1.0
    for level in range(len(tokenizer.config.codebook_sizes)):
        theirs = f"rq.vq_layers.{level}.embedding.weight"
        yield f"codebook_{level}", theirs, math.sqrt(tokenizer.config.latent_dim)


def gap(found, expected):
    return float((torch.as_tensor(found).detach() - torch.as_tensor(expected)).abs().max())


def training_gaps(folder, facts, kind):
    """Of one forward and backward pass, and of four steps of AdamW."""
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    double = kind == "f64"
    tokenizer = open_tokenizer(load_file(folder / "state_dict.safetensors"), facts["config"])
    dtype = torch.float64 if double else torch.float32
    longer, wider = math.sqrt(tokenizer.config.latent_dim), math.sqrt(facts["config"]["in_dim"])
    x = inputs["x"] / wider
    gaps = {"exported codes": float((tokenizer.encode(x) != outputs[f"{kind}/indices_export"]).sum())}
    tokenizer.to(dtype).train()
    if double:  # from the published numbers themselves, not from their rounded quotients
        weights = load_file(folder / "state_dict.safetensors")
        for ours, theirs, scale in names(tokenizer):
            tokenizer.get_parameter(ours).data = weights[theirs].double() / scale
        x = inputs["x"].double() / wider
    h = inputs["cf_embedding"].to(dtype)
    output = tokenizer(x, h, outputs["positives"])
    output.loss.backward()

    gaps["codes in training"] = float((output.codes != outputs[f"{kind}/indices"]).sum())
    gaps["reconstruction"] = gap(output.reconstruction * wider, outputs[f"{kind}/x_hat"])
    latent, quantized = tokenizer.encoder(x), tokenizer._codewords(output.codes)
    gaps["latents"] = gap(latent.detach() * longer, outputs[f"{kind}/z"])
    gaps["quantized"] = gap(sum(quantized) * longer, outputs[f"{kind}/z_q"])
    losses, levels = facts[f"loss_{kind}"], facts[f"levels_{kind}"]
    found = {name: value.item() for name, value in output.losses.items()}
    gaps["loss"] = abs(output.loss.item() - losses["total"])
    gaps["reconstruction loss"] = abs(found["reconstruction"] - losses["recon"])
    gaps["alignment loss"] = abs(found["alignment"] - losses["cf"])
    for name in ("codebook", "commitment", *(["diversity"] if double else [])):
        gaps[f"{name} loss"] = abs(found[name] - np.mean([level[name] for level in levels]))
    config = tokenizer.config
    parts = found["codebook"] + config.commitment_weight * found["commitment"]
    parts += config.diversity_weight * found["diversity"]
    gaps["quantization loss"] = abs(parts - losses["rq_and_diversity"])
    if double:
        gradients = load_file(folder / "grads_f64.safetensors")
        gaps["gradients"] = max(
            gap(tokenizer.get_parameter(ours).grad / scale, gradients[f"grad/{theirs}"])
            for ours, theirs, scale in names(tokenizer)
        )
        steps = adamw_losses(tokenizer, x, h, outputs["adamw_positives"])
        gaps["losses of AdamW"] = float(np.abs(np.array(steps) - facts["adamw_lr1e-3_wd1e-4_losses_f64"]).max())
    return gaps


def adamw_losses(tokenizer, x, h, positives):
    """The published step in our lengths: Adam's step does not shrink with its parameter, so the rate does."""
    groups = [
        {
            "params": [tokenizer.get_parameter(ours)],
            "lr": 1e-3 / scale,
            "weight_decay": 1e-4 * scale,
            "eps": 1e-8 * scale,
        }
        for ours, _, scale in names(tokenizer)
    ]
    optimizer, losses = torch.optim.AdamW(groups), []
    for drawn in positives:
        optimizer.zero_grad()
        loss = tokenizer(x, h, drawn).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sinkhorn_gaps(folder, facts):
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    gaps = {"plan": 0.0, "codes": 0.0}
    for case in sorted({name.split("/")[0] for name in inputs}):
        epsilon, iterations = inputs[f"{case}/eps_iters"].tolist()
        settings = inputs[f"{case}/distances"], epsilon, int(iterations)
        gaps["plan"] = max(gaps["plan"], gap(sinkhorn_plan(*settings), outputs[f"{case}/Q"]))
        gaps["codes"] += float((sinkhorn_codes(*settings) != outputs[f"{case}/argmax"]).sum())
    return gaps


def start_gaps(folder, facts):
    """The chain of residuals of the published centroids, and the error of ours beside theirs."""
    config, outputs = facts["config"], load_file(folder / "outputs.safetensors")
    bounds = config["size_min"], config["size_max"]
    gaps, residual = {"codes": 0.0, "residuals": 0.0, "error above the bound": 0.0}, outputs["residual_in_0"]
    for level, epsilon in enumerate(config["sk_epsilons"]):
        gaps["residuals"] = max(gaps["residuals"], gap(residual, outputs[f"residual_in_{level}"]))
        residual, centres = outputs[f"residual_in_{level}"], outputs[f"centres_{level}"]
        distances = residual.square().sum(1, keepdim=True) + centres.square().sum(1) - 2 * residual @ centres.T
        codes = torch.from_numpy(nearest_centroid(residual.numpy(), centres.numpy()))
        if epsilon:
            codes = sinkhorn_codes(distances, epsilon, config["sk_iters"])
        gaps["codes"] += float((codes != outputs[f"assigned_{level}"]).sum())
        start = plain_centroids(residual.numpy(), config["codes"], seed=0)
        ours = torch.from_numpy(balanced_centroids(residual.numpy(), start, *bounds))
        error = torch.cdist(residual.double(), ours.double()).square().amin(1).sum().item()
        over = error / facts["levels"][level]["nearest_inertia"] - MORE_ERROR
        gaps["error above the bound"] = max(gaps["error above the bound"], over)
        residual = residual - centres[codes]
    gaps["residuals"] = max(gaps["residuals"], gap(residual, outputs["residual_out"]))
    return gaps


def export_gaps(folder, facts):
    """Items with the same vector are left out of the latter: there float32's rounding parts them, and nothing here."""
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    tokenizer = open_tokenizer(load_file(folder / "state_dict.safetensors"), facts["config"])
    vectors = (inputs["x"] / math.sqrt(facts["config"]["in_dim"])).numpy()
    codes = tokenizer.encode(vectors).numpy()
    _, item, times = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    single = times[item] == 1
    assert single.sum() > len(single) / 2
    spread_codes = spread(codes, vectors, tokenizer)
    return {
        "codes": float((codes != outputs["indices_first"].numpy()).sum()),
        "codes after spreading": float((spread_codes != outputs["indices_final"].numpy())[single].sum()),
    }


def golden_gaps(folder, facts):
    """For `golden_cases.py`: the largest difference of each output; of codes, how many differ."""
    if facts.get("method") != "letter":
        return None
    if facts.get("config", {}).get("bn") or facts.get("config", {}).get("loss_type", "mse") != "mse":
        return None  # options of the published code that the library does not have
    if facts["part"] == "tokenizer":
        gaps = training_gaps(folder, facts, "f64")
        return gaps | {f"{name}, float32": value for name, value in training_gaps(folder, facts, "f32").items()}
    return {"sinkhorn": sinkhorn_gaps, "kmeans": start_gaps, "export": export_gaps}.get(
        facts["part"], lambda *case: None
    )(folder, facts)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_the_published_values(folder):
    gaps = golden_gaps(folder, json.loads((folder / "case.json").read_text()))
    assert gaps
    for name, value in gaps.items():
        assert value < (1e-5 if "float32" in name else 1e-9), name


def test_there_are_cases():
    assert len(CASES) == 6
