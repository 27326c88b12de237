"""Values of the published S3-Rec code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.methods.s3rec.configuration_s3rec import S3RecConfig
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecForNextItem, S3RecForPretraining, ours_first, published_name

pytestmark = pytest.mark.libraries

GOLDEN = Path(__file__).parents[2] / "golden/s3rec"
PRETRAINING = sorted(path.parent for path in GOLDEN.glob("pretrain_*/case.json"))
FINE_TUNING = sorted(path.parent for path in GOLDEN.glob("finetune_*/case.json"))
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
NAMES = {torch.float64: "f64", torch.float32: "f32"}
SEQUENCES = {
    "input_ids": "masked_item_sequence",
    "items": "pos_items",
    "negatives": "neg_items",
    "masked_segment": "masked_segment_sequence",
    "segment": "pos_segment",
    "other_segment": "neg_segment",
}


class Case:
    """A recorded case: the model with its weights, and what goes in and comes out."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        self.facts, self.dtype, self.name = json.loads((folder / "case.json").read_text()), dtype, NAMES[dtype]
        self.config = S3RecConfig.from_published(self.facts["config"])
        of_stage = {"pretrain": S3RecForPretraining, "finetune": S3RecForNextItem}[self.facts["part"]]
        weights = load_file(folder / "state_dict.safetensors")
        self.model = of_stage.from_published(weights, self.config).to(dtype).eval()
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = {
            name.removeprefix(f"{self.name}/"): value
            for name, value in load_file(folder / "outputs.safetensors").items()
            if name.startswith(self.name)
        }
        self.gradients = load_file(folder / "grads_f64.safetensors")

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Published ids (0 padding, items from 1, the mask last) as catalogue rows, PAD and MASK behind them."""
        return torch.where(ids == 0, self.config.num_items, ids - (ids <= self.config.num_items).long())

    def pretraining(self) -> dict:
        batch = {ours: self.rows(self.inputs[name]) for ours, name in SEQUENCES.items()}
        real = batch["items"] != self.config.num_items
        return batch | {"attributes": self.inputs["attributes"][real]}

    def fine_tuning(self) -> dict:
        inputs = {name: self.inputs[f"train/{name}"] for name in ("input_ids", "target_pos", "target_neg")}
        is_target = inputs["target_pos"] != 0
        return {
            "input_ids": self.rows(inputs["input_ids"]),
            "sequence_labels": torch.where(is_target, self.rows(inputs["target_pos"]), -100),
            "negatives": self.rows(inputs["target_neg"])[is_target],
        }

    def loss(self) -> torch.Tensor:
        batch = self.pretraining() if self.facts["part"] == "pretrain" else self.fine_tuning()
        return self.model(**batch).loss

    def gap(self, name: str, found: torch.Tensor, chosen=...) -> float:
        return float((found.detach() - self.outputs[name][chosen]).abs().max()) if found.numel() else 0.0


def compared(case: Case) -> dict[str, float]:
    """The largest difference of each output."""
    part = case.facts["part"]
    gaps = of_pretraining(case) if part == "pretrain" else of_fine_tuning(case)
    losses = []
    optimizer = torch.optim.Adam(case.model.parameters(), lr=1e-3)
    for step in range(4):
        loss = case.loss()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gaps["gradients"] = gradient_gap(case)
        optimizer.step()
    if case.dtype == torch.float64:
        expected = case.facts.get("adam_lr1e-3_joint_losses_f64") or case.facts["adam_lr1e-3_losses_f64"]
        gaps["losses of Adam's steps"] = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
    return gaps


def of_pretraining(case: Case) -> dict[str, float]:
    batch = case.pretraining()
    output = case.model(**batch)
    real = batch["items"] != case.config.num_items
    masked = batch["input_ids"] == case.config.num_items + 1
    read, table = output.hidden_states, case.model.model.item_embeddings.weight
    gaps = {
        "states": case.gap("masked_sequence_output", case.model.model(batch["input_ids"], causal=False)[0]),
        "states of items": case.gap("masked_sequence_output", read[real], real),
        "segment context": case.gap("segment_context", output.segment_context),
        "segment": case.gap("pos_segment", output.segment),
        "negative segment": case.gap("neg_segment", output.other_segment),
    }
    flat = real.flatten()
    for name in ("aap", "map"):
        found = case.model.attribute_logits(getattr(case.model, name), read[real]).sigmoid()
        gaps[f"{name} probabilities"] = case.gap(f"{name}_prob", found, flat)
    for name, rows in (("pos", batch["items"]), ("neg", batch["negatives"])):
        found = (case.model.mip(read[real]) * table[rows[real]]).sum(-1).sigmoid()
        gaps[f"mip probabilities, {name}"] = case.gap(f"mip_{name}_prob", found, flat)
    for name, segment in (("pos", output.segment), ("neg", output.other_segment)):
        found = (case.model.sp(output.segment_context) * segment).sum(-1).sigmoid()
        gaps[f"sp probabilities, {name}"] = case.gap(f"sp_{name}_prob", found)
    expected = case.facts[f"loss_{case.name}"]
    terms = {name: value.item() for name, value in output.losses.items()} | {"joint": output.loss.item()}
    assert terms.keys() == expected.keys()
    assert masked.any()
    return gaps | {
        f"loss, {name}": abs(value - expected[name]) / max(1.0, abs(expected[name])) for name, value in terms.items()
    }


def of_fine_tuning(case: Case) -> dict[str, float]:
    batch = case.fine_tuning()
    output = case.model(**batch)
    real = batch["input_ids"] != case.config.num_items
    gaps = {"states": case.gap("train_sequence_output", output.hidden_states[real], real)}
    table = ours_first(torch.eye(case.config.num_items + 2, dtype=case.dtype))
    for split in ("valid", "test"):
        ids = case.inputs[f"{split}/input_ids"]
        users = case.model.user_vectors(case.rows(ids), None, case.model.item_vectors())
        gaps["newest states"] = max(gaps.get("newest states", 0), case.gap(f"{split}_last_state", users))
        scores = users @ case.model.item_vectors().T @ table  # in the published order
        gaps["scores"] = max(gaps.get("scores", 0), case.gap(f"{split}_full_scores", scores))
        candidates = torch.cat([case.inputs[f"{split}/answer"], case.inputs[f"{split}/sample_negs"]], 1)
        found = scores.gather(1, candidates)
        gaps["scores of samples"] = max(gaps.get("scores of samples", 0), case.gap(f"{split}_sample_scores", found))
        # Published: what a user had before the split's target scores 0; here it is left out, or it is not.
        left_out = 2 if split == "valid" else 1
        for user in range(len(ids)):
            scores[user, case.inputs[f"user_sequence_{user}"][:-left_out]] = 0
        best = scores.topk(20).values
        expected = scores.gather(1, case.outputs[f"{split}_top20"])
        gaps["scores of the best 20"] = max(
            gaps.get("scores of the best 20", 0), float((best - expected).detach().abs().max())
        )
    return gaps | {"loss": abs(output.loss.item() - case.facts[f"loss_{case.name}"]["bce"])}


def gradient_gap(case: Case) -> float:
    gaps = []
    for name, parameter in case.model.named_parameters():
        expected = case.gradients[f"grad/{published_name(name)}"]
        expected = ours_first(expected) if name.endswith("item_embeddings.weight") else expected
        found = torch.zeros_like(expected) if parameter.grad is None else parameter.grad.double()
        gaps.append(float(((found - expected).abs() / expected.abs().clamp(min=1)).max()))
    return max(gaps)


@pytest.fixture(
    params=[(path, dtype) for path in PRETRAINING + FINE_TUNING for dtype in TOLERANCE],
    ids=lambda p: f"{p[0].name}-{p[1]}",
)
def case(request):
    return Case(*request.param)


def test_there_are_cases():
    assert (len(PRETRAINING), len(FINE_TUNING)) == (3, 2)


def test_every_output_loss_and_gradient(case):
    gaps = compared(case)
    assert {name: gap for name, gap in gaps.items() if not gap < TOLERANCE[case.dtype]} == {}


def test_all_weights_have_gradients_in_the_file():
    """No weight of ours is missing there, and of theirs only the heads are in the fine-tuning."""
    for folder in PRETRAINING + FINE_TUNING:
        found = Case(folder, torch.float64)
        names = {f"grad/{published_name(name)}" for name, _ in found.model.named_parameters()}
        more = found.gradients.keys() - names
        assert names <= found.gradients.keys()
        if found.facts["part"] == "finetune":
            assert all(not found.gradients[name].any() for name in more)
        else:
            assert not more


def test_weights_that_do_not_fit_are_named():
    weights = load_file(PRETRAINING[0] / "state_dict.safetensors")
    config = S3RecConfig.from_published(json.loads((PRETRAINING[0] / "case.json").read_text())["config"])
    weights["left.over"] = weights.pop("sp_norm.bias")
    with pytest.raises(ValueError, match=r"'left\.over', 'sp_norm\.bias'"):
        S3RecForPretraining.from_published(weights, config)
    with pytest.raises(ValueError, match=r"'left\.over'\]"):
        S3RecForNextItem.from_published(weights, config)


def golden_gaps(folder, facts):
    """For `golden_cases.py`: the largest difference of each output, in float64 and float32."""
    if facts.get("method") != "s3rec":
        return None
    return {
        f"{name}, {NAMES[dtype]}": gap for dtype in TOLERANCE for name, gap in compared(Case(folder, dtype)).items()
    }
