"""Values of the published TCA4Rec code: its loss, its gradient, and how scores are summed to tokens."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.code_loss import code_loss
from hf_genrec.training.code_shares import CodeShares
from hf_genrec.training.soft_targets import SoftTargetMaker

CASES = sorted(path.parent for path in (Path(__file__).parents[1] / "golden/tca4rec").glob("*/case.json"))


def computed(folder, facts):
    """
    The loss and its gradient, the distribution of each scored step, and what was recorded of them.

    Items are token sequences of any length there: here they are padded to one, behind their end token. The published
    loss leaves out the last label of every row, which is that end.
    """
    config, inputs = facts["config"], load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "outputs.safetensors")
    token_ids = inputs["item_tokens"][1:]
    token_ids = token_ids.clamp(min=0)  # the padding of the inputs, no item's token
    codes = CodeShares(ItemTrie.from_token_ids(token_ids))
    of_targets = token_ids[inputs["target_item"] - 1]
    scores = inputs["cf_scores_f64"][:, 1:].T[codes.order] / config["beta"]
    shares = codes.shares(scores, codes.path(of_targets))
    legal_temperature = config["tau"] if config["use_msl"] else None
    maker = SoftTargetMaker(codes, of_targets, shares, config["alpha"], legal_temperature)
    rows, positions, gold = expected["steps"].T
    levels = positions - positions.new_tensor([positions[rows == row].min() for row in rows])
    made = maker(torch.arange(len(of_targets)))
    is_scored = positions < inputs["input_ids"].shape[1] - 2
    places = (rows * token_ids.shape[1] + levels)[is_scored]
    scored = {name: made[name][places] for name in made if name != "temperature"}
    scored["temperature"] = legal_temperature or 1.0

    logits = inputs["logits_f64"].clone().requires_grad_()
    labels = torch.full(logits.shape[:2], -100)
    labels[rows[is_scored], positions[is_scored]] = gold[is_scored]
    loss = code_loss(logits, labels, soft_targets=scored) / is_scored.sum()
    loss.backward()

    only = SoftTargetMaker(codes, of_targets, shares, 1.0)(torch.arange(len(of_targets)))
    distribution = torch.zeros(len(of_targets) * token_ids.shape[1], config["vocab"], dtype=torch.float64)
    distribution.scatter_add_(1, only["tokens"], only["log_weights"].exp())
    distribution = distribution[rows * token_ids.shape[1] + levels]
    return {
        "loss": (loss.detach(), torch.tensor(facts["loss_f64"], dtype=torch.float64)),
        "gradient": (logits.grad, expected["f64/grad_logits"]),
        "distribution": (distribution, expected["f64/token_distribution"]),
    }


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_loss_gradient_and_distribution(folder):
    for name, (found, expected) in computed(folder, json.loads((folder / "case.json").read_text())).items():
        assert (found - expected).abs().max() < 1e-9, name


def test_there_are_cases():
    assert len(CASES) == 4


def golden_gaps(folder, facts):
    """For `golden_cases.py`: the largest difference of each output."""
    if facts.get("method") != "tca4rec":
        return None
    return {name: (found - expected).abs().max().item() for name, (found, expected) in computed(folder, facts).items()}
