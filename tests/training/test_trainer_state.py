"""What a checkpoint says of its training is checked before a training goes on from it."""

import json

import pytest
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from hf_genrec.training.trainer_state import read_state


class Kept(TrainerCallback, ExportableState):
    def state(self):
        return {"args": {"a": 1}, "attributes": {}}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    lines = [{"step": 10, "epoch": 1.0, "loss": 2.0, "cpu_seconds": 1.0}, {"step": 20, "eval_ndcg@10": 0.5}]
    state = TrainerState(2.0, 20, 20, log_history=lines, best_metric=0.5, best_global_step=20, train_batch_size=8)
    state.stateful_callbacks = {"Kept": [Kept().state(), Kept().state()], "Other": Kept().state()}
    state.save_to_json(str(folder / "trainer_state.json"))
    return folder


def refusal(checkpoint, change):
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"train anew") as error:
        read_state(checkpoint)
    assert str(error.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sound_state_is_read_as_it_is(checkpoint):
    assert read_state(checkpoint) == json.loads((checkpoint / "trainer_state.json").read_text())
    named = checkpoint.rename(checkpoint.with_name("best"))  # a folder of another name tells no step
    assert read_state(named)["global_step"] == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("global_step", value) for value in ("x", -5, 10**12, None, True, 20.0, [])),
        *(("epoch", value) for value in (None, "x", float("nan"), 10**400)),
        *(("log_history", value) for value in (5, None, {}, [5], [{"cpu_seconds": "x"}], [{"eval_ndcg@10": None}])),
        *(("best_metric", value) for value in ("x", [], True, float("inf"))),
        *(("best_global_step", value) for value in ("q", -1, 21, 1.5)),
        ("best_model_checkpoint", 5),
        *(("stateful_callbacks", value) for value in (5, None, {"Kept": 5}, {"Kept": [{"args": {}}]})),
        ("train_batch_size", "8"),
        ("max_steps", None),
        ("is_world_process_zero", 1),
        ("total_flos", "many"),
        ("surplus", 1),
    ],
)
def test_a_value_of_another_kind_is_named(checkpoint, name, value):
    assert name in refusal(checkpoint, lambda state: state.update({name: value}))


@pytest.mark.parametrize(
    "name",
    ["global_step", "epoch", "max_steps", "log_history", "best_metric", "best_global_step", "stateful_callbacks"],
)
def test_what_is_missing_is_named(checkpoint, name):
    assert f"it has no {name!r}" in refusal(checkpoint, lambda state: state.pop(name))
