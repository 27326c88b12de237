"""Memory and time of a training, counted before it is started."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import exit_code, run_command
from torch import nn

from hf_genrec.training.config import parse_config
from hf_genrec.training.plan import GPUS, _memory, make_plan
from hf_genrec.training.step_counts import StepCounts, count_step, measured_costs


def test_a_layer_by_hand():
    layer, inputs = nn.Linear(6, 4, bias=False), torch.rand(8, 6)
    counts = count_step(layer, lambda: layer(inputs).square().sum(), 8)
    # A product forward, and backward the one of the weight's gradient: the inputs need none.
    assert counts.flops == 2 * 8 * 6 * 4 * 2
    assert dict(counts.products) == {(8, 6, 4): 384.0, (4, 8, 6): 384.0}
    assert layer.weight.grad is not None
    assert counts.kept == 8 * 4 * 4 + 4  # the outputs and the loss, without the weight
    assert counts.activations >= 2 * 8 * 4 * 4  # and the outputs' gradient


def test_memory_of_a_large_model_follows_from_one_row_and_two(config, monkeypatch):
    """Even where its largest gradient is more than a row or two leave behind."""
    options = ["--packing", "false", "--hidden_size", "128", "--intermediate_size", "4096", "--num_hidden_layers", "1"]
    found = []
    for limit in (float("inf"), 0.0):
        monkeypatch.setattr("hf_genrec.training.plan.LARGE", limit)
        plan = make_plan(parse_config(str(config[1]), [*map(str, config[2:]), *options]), 1, GPUS["a100"])
        found.append(plan.memory["DDP"]["activations"])
    assert found[1] == pytest.approx(found[0], rel=0.3)


def test_activations_without_gradients():
    layers = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(6)))
    inputs = torch.rand(512, 64)
    counts = count_step(layers, lambda: layers(inputs).sum(), 512)
    kept = 512 * 64 * 4
    assert 5 * kept <= counts.activations <= 9 * kept  # and not the weights, of 16 KiB each


def test_what_two_steps_cost():
    few = StepCounts(operations=[(1e5, 1e5)] * 4)
    more = StepCounts(operations=[(2e5, 4e5)] * 4)

    def seconds(counts):
        return counts.seconds(1e9, 5e9, 1e-5, overlap=False)

    per_byte, start = measured_costs((few, seconds(few)), (more, seconds(more)), 1e9)
    assert (per_byte, start) == pytest.approx((2e-10, 1e-5))
    assert more.seconds(1e9, 5e9, 1e-5, overlap=True) == pytest.approx(4 * (1e-5 + 2e-4))


def test_what_is_shared():
    found = _memory(400.0, 400.0, 800.0, 50.0, 4)
    assert {way: sum(parts.values()) for way, parts in found.items()} == {
        "DDP": 400 + 2 * 400 + 800 + 50, "ZeRO-2": 400 + 100 + 200 + 50, "ZeRO-3": 100 + 100 + 200 + 50,
    }  # fmt: skip


@pytest.fixture(scope="module")
def config(own_data):
    for command in ("prepare", "tokenize"):
        assert exit_code(command, "--config", own_data / "mine.yaml", "--output_dir", own_data / "planned") == 0
    return ["--config", own_data / "mine.yaml", "--output_dir", own_data / "planned"]


def test_the_command(config, monkeypatch, capsys, own_data):
    printed = run_command(monkeypatch, capsys, "plan", *config, "--gpus", 8, "--gpu", "h100")
    assert "on 8 x h100" in printed
    assert all(way in printed for way in ("DDP", "ZeRO-2", "ZeRO-3", "gradients between devices"))
    assert "Assumed: 50% of the data sheet's operations" in printed
    assert "one process or DDP" in run_command(monkeypatch, capsys, "plan", *config)
    assert {path.name for path in (own_data / "planned").iterdir()} <= {"data", "semantic_ids", "checkpoints"}


def test_more_devices_take_fewer_steps(config):
    plans = [make_plan(parse_config(str(config[1]), list(map(str, config[2:]))), of, GPUS["a100"]) for of in (1, 2)]
    assert plans[0].steps == -(-plans[0].rows // 16)
    assert plans[1].steps == -(-plans[0].rows // 32)
    assert plans[0].flops_per_step == plans[1].flops_per_step > 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--gpu", "b5"], "--gpu b5: it is none of a10, a100"),
        (["--flops", "100"], "name one by --gpu"),
        (["--gpu", "t4", "--memory", "-1"], "--memory -1.0: give a number above 0"),
        (["--output_dir", "not-there"], "run `hf-genrec prepare` first"),
    ],
)
def test_mistakes_are_one_line(config, options, line, capsys):
    assert exit_code("plan", *config, *options) == 2
    assert line in capsys.readouterr().err


MEASURED = """
import json, resource, sys, time, torch
from transformers import TrainerCallback
from hf_genrec.method import load_method
from hf_genrec.training.config import parse_config
torch.set_num_threads(1)
config = parse_config(sys.argv[1], sys.argv[2:])
trainer = load_method(config.model.method).build_trainer(config)
marks = []
class Mark(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        marks.append(time.process_time())
trainer.add_callback(Mark())
trainer.train()
found = [(marks[-1] - marks[9]) / (len(marks) - 10), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]
print("measured", json.dumps(found))
"""
PLANNED = """
import json, sys, torch
from hf_genrec.training.config import parse_config
from hf_genrec.training.plan import make_plan
torch.set_num_threads(1)
plan = make_plan(parse_config(sys.argv[1], sys.argv[2:]), 1)
print("measured", json.dumps([sum(plan.step_seconds.values()), plan.peak("one process or DDP")]))
"""


@pytest.mark.slow  # loads torch twice
@pytest.mark.parametrize("sizes", [("64", "128"), ("256", "512")])
def test_a_training_takes_what_was_planned(config, sizes):
    options = ["--hidden_size", sizes[0], "--intermediate_size", sizes[1], "--eval_strategy", "no", "--report_to"]
    options += ["none", "--save_strategy", "no", "--load_best_model_at_end", "false", "--max_steps", "40"]
    options += ["--num_train_epochs", "40", "--disable_tqdm", "true"]
    found = []
    for program in (PLANNED, MEASURED):
        command = [sys.executable, "-c", program, *map(str, config[1:]), *options]
        finished = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        line = next(line for line in finished.stdout.splitlines() if line.startswith("measured"))
        found.append(json.loads(line.removeprefix("measured")))
    (planned_seconds, planned_bytes), (seconds, peak) = found
    assert planned_seconds == pytest.approx(seconds, rel=0.25)
    assert planned_bytes == pytest.approx(peak, rel=0.25)
