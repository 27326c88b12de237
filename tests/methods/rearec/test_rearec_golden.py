"""Values of the published ReaRec code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_genrec.decoding.recommend_by_scores import best_columns
from hf_genrec.evaluation.metrics import mrr_at_k, ndcg_at_k, recall_at_k
from hf_genrec.methods.rearec.configuration_rearec import ReaRecConfig
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem, published_name
from hf_genrec.methods.rearec.rearec_losses import temperatures

pytestmark = pytest.mark.libraries

GOLDEN = Path(__file__).parents[2] / "golden/rearec"
CASES = sorted(path.parent for path in GOLDEN.glob("*/state_dict.safetensors"))
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
TERMS = {
    "ce_final": ("ce", 1),
    "ce_ensemble": ("ce", 1),
    "kl_mean": ("kl", -1),  # published with the other sign, and subtracted
    "pl_mean": ("progressive", 1),
    "rcl_mean": ("contrastive", 1),
}


class Case:
    def __init__(self, folder: Path, dtype: torch.dtype):
        self.facts = json.loads((folder / "case.json").read_text())
        self.name, self.dtype = {torch.float64: "f64", torch.float32: "f32"}[dtype], dtype
        config = ReaRecConfig.from_published(self.facts)
        self.model = ReaRecForNextItem.from_published(load_file(folder / "state_dict.safetensors"), config)
        self.model.to(dtype).eval()
        inputs = load_file(folder / "inputs.safetensors")
        self.ids, self.targets = inputs["history_id"], inputs["item_id"]
        self.noise = inputs["noise_unit"].to(dtype) if "noise_unit" in inputs else None
        self.outputs = load_file(folder / "outputs.safetensors")
        self.gradients = load_file(folder / "grads_f64.safetensors")

    def __call__(self, **kwargs):
        return self.model(self.ids, labels=self.targets, noise=self.noise, **kwargs)

    def expect(self, actual, name):
        expected = self.outputs[f"{self.name}/{name}"]
        torch.testing.assert_close(actual, expected, rtol=TOLERANCE[self.dtype], atol=TOLERANCE[self.dtype])


@pytest.fixture(params=[(path, dtype) for path in CASES for dtype in TOLERANCE], ids=lambda p: f"{p[0].name}-{p[1]}")
def case(request):
    return Case(*request.param)


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def exact_case(request):
    return Case(request.param, torch.float64)


def test_there_are_cases():
    assert len(CASES) == 6


def test_states_and_logits(case):
    output = case()
    case.expect(output.reasoning_states, "states")
    prediction = case.outputs[f"{case.name}/prediction"][:, :-1]
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(output.logits, prediction, rtol=tolerance, atol=tolerance)
    without_labels = case.model(case.ids)
    torch.testing.assert_close(without_labels.logits, prediction, rtol=tolerance, atol=tolerance)
    table = case.model.item_vectors()
    case.expect(output.reasoning_states @ table.T / case.model.config.temperature, "logits_per_state_over_tau")


def test_noised_states(case):
    if case.noise is not None:
        case.expect(case.model.model(case.ids, noise=case.noise).noised_states, "noised_states")


def test_hidden_states_of_all_positions(case):
    positions = torch.arange(case.ids.shape[1]).expand_as(case.ids)
    hidden = case.model.model(case.ids, num_steps=0, positions=positions).reasoning_states[:, :, 0]
    real = case.ids != case.facts["pad_id"]
    case.expect(hidden * real.unsqueeze(-1), "encoder_hidden_all_positions")


def test_right_padding_gives_the_same_states(exact_case):
    lengths = (exact_case.ids != exact_case.facts["pad_id"]).sum(-1).tolist()
    right = torch.stack([row.roll(length) for row, length in zip(exact_case.ids, lengths, strict=True)])
    exact_case.expect(exact_case.model(right).reasoning_states, "states")


def test_keys_and_values_at_the_end(case):
    real = torch.nn.functional.pad(case.ids != case.facts["pad_id"], (0, case.model.config.steps), value=True)
    for index, cache in enumerate(case.model.model(case.ids).caches):
        for name in ("key", "value"):
            states = getattr(cache, f"{name}s")
            if case.model.config.steps:
                states = torch.cat([states, *getattr(cache, f"step_{name}s")], 2)
            expected = case.outputs[f"f32/final_cache/layer{index}/{name}"]
            states = states.transpose(1, 2).flatten(2) * real.unsqueeze(-1)
            torch.testing.assert_close(states.float(), expected, rtol=1e-5, atol=1e-5)


def test_every_loss_term(case):
    output, expected = case(), case.facts[f"loss_{case.name}"]
    tolerance = TOLERANCE[case.dtype]
    named = [name for name in expected if name in TERMS]
    assert sorted(TERMS[name][0] for name in named) == sorted(output.losses)
    for name in named:
        ours, sign = TERMS[name]
        assert sign * output.losses[ours].item() == pytest.approx(expected[name], rel=tolerance, abs=tolerance), name
    assert output.loss.item() == pytest.approx(expected["total"], rel=tolerance)


def test_temperatures(exact_case):
    if exact_case.facts["method"] == "prl":
        config = exact_case.model.config
        found = temperatures(config, torch.zeros(1, config.steps + 1, 1, dtype=torch.float64))
        assert found.tolist() == exact_case.outputs["f64/taus"].tolist()


def test_gradients(case):
    case().loss.backward()
    compared = set()
    for name, parameter in case.model.named_parameters():
        expected = case.gradients[f"grad/{published_name(name)}"]
        tolerance = 1e-9 if case.dtype == torch.float64 else 2e-5
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=tolerance, atol=tolerance)
        compared.add(f"grad/{published_name(name)}")
    assert compared == case.gradients.keys()


def test_three_adam_steps(exact_case):
    optimizer = torch.optim.Adam(exact_case.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = exact_case().loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == pytest.approx(exact_case.facts["adam_lr1e-3_losses_f64"], rel=1e-9)


def test_top_ten_and_rank(case):
    logits = case.model(case.ids).logits
    assert torch.equal(best_columns(logits, 10)[1], case.outputs[f"{case.name}/infer_top10"])
    ranked = best_columns(logits, case.facts["n_items"])[1]
    rank = (ranked == case.targets.unsqueeze(-1)).int().argmax(-1)
    assert torch.equal(rank, case.outputs[f"{case.name}/infer_rank0"])


def test_weights_that_do_not_fit_are_named():
    weights = load_file(CASES[-1] / "state_dict.safetensors")
    config = ReaRecConfig.from_published(json.loads((CASES[-1] / "case.json").read_text()))
    weights["left.over"] = weights.pop("model.reason_pos_emb.weight")
    with pytest.raises(ValueError, match=r"'left\.over', 'model\.reason_pos_emb\.weight'"):
        ReaRecForNextItem.from_published(weights, config)


def test_published_settings_that_are_not_known_are_named():
    facts = json.loads((CASES[0] / "case.json").read_text())
    with pytest.raises(ValueError, match=r"unknown settings \['window'\]"):
        ReaRecConfig.from_published(facts | {"config": facts["config"] | {"window": 3}})
    with pytest.raises(ValueError, match="method='oracle'"):
        ReaRecConfig.from_published(facts | {"method": "oracle"})
    assert ReaRecConfig.from_published(facts | {"attention": "prefix (bidirectional items)"}).backbone == "bert4rec"


def test_metrics():
    facts = json.loads((GOLDEN / "metrics/case.json").read_text())
    gaps = metric_gaps(GOLDEN / "metrics", facts)
    assert len(gaps) == 12
    assert max(gaps.values()) < 1e-7


def golden_gaps(folder, facts):
    """For `golden_cases.py`: the largest difference of each output, in float64 and float32."""
    if "pad_column" in facts:
        return metric_gaps(folder, facts)
    if "reason_steps" not in facts:
        return None
    gaps = {}
    for dtype in TOLERANCE:
        case = Case(folder, dtype)
        output = case()
        output.loss.backward()
        expected = {name: case.outputs[f"{case.name}/{name}"] for name in ("states", "prediction")}
        terms = facts[f"loss_{case.name}"]
        named = {name: TERMS[name] for name in terms if name in TERMS}
        found = {
            "states": (output.reasoning_states - expected["states"]).abs().max(),
            "logits": (output.logits - expected["prediction"][:, :-1]).abs().max(),
            "loss": abs(output.loss.item() - terms["total"]),
            "terms of the loss": max(
                (abs(sign * output.losses[ours].item() - terms[name]) for name, (ours, sign) in named.items()),
                default=0.0,
            ),
            "gradients": max(
                (parameter.grad.double() - case.gradients[f"grad/{published_name(name)}"]).abs().max().item()
                for name, parameter in case.model.named_parameters()
            ),
            "top ten that differ": (best_columns(output.logits, 10)[1] != case.outputs[f"{case.name}/infer_top10"])
            .any(-1)
            .sum(),
        }
        gaps |= {f"{name}, {case.name}": torch.as_tensor(gap).item() for name, gap in found.items()}
    return gaps


def metric_gaps(folder, facts):
    inputs = load_file(folder / "inputs.safetensors")
    ranked = best_columns(inputs["prediction"][:, : facts["pad_column"]], facts["pad_column"])[1].numpy()
    targets = [np.array([target]) for target in inputs["target"].tolist()]
    return {
        f"{name}@{k}": float(abs(metric(ranked, targets, k).mean() - facts["values"][f"{name}@{k}"]))
        for name, metric in (("HR", recall_at_k), ("NDCG", ndcg_at_k), ("MRR", mrr_at_k))
        for k in facts["topk"]
    }
