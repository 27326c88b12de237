"""What a command imports before it answers: nothing that takes seconds and is not needed."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_model, make_processor, outcomes
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

from hf_genrec.data.prepared import PreparedData
from hf_genrec.post_training.grpo_keys import GRPO_KINDS
from hf_genrec.training.config import TRAINING_ARGUMENTS
from hf_genrec.training.known_keys import DeclaredArguments

pytestmark = pytest.mark.libraries


def test_recommending_imports_no_trainer_and_no_data_tools(tmp_path):
    models = {
        "one": (make_model(make_processor()), "item-3"),
        "two": (tiny_rearec(), "i3"),
        "three": (make_reg4rec(make_set_processor()), "item-3"),
    }
    for name, (model, _) in models.items():
        model.save_pretrained(tmp_path / name / "model")
    found, errors = outcomes(
        ["recommend", tmp_path / name, "--history", item, "-k", 3] for name, (_, item) in models.items()
    )
    assert not errors
    assert [code for code, _ in found] == [0, 0, 0]
    needless = {"datasets", "trl", "peft", "sklearn", "matplotlib", "sentence_transformers", "pandas", "typer.testing"}
    needless |= {"transformers.trainer", "transformers.training_args", "hf_genrec.training.config"}
    assert not needless & set(found[-1][1])


def test_mistakes_are_said_before_torch_is_imported(tmp_path, own_data):
    (tmp_path / "damaged.yaml").write_text("source: [tabular\n")
    (tmp_path / "unknown.yaml").write_text("hiden_size: 3\n")
    nothing, mine = tmp_path / "nothing", own_data / "mine.yaml"
    cases = [
        (["recommend", nothing, "--user", "u00"], "holds no trained model: run `hf-genrec train` first"),
        (["evaluate", nothing], "holds no trained model"),
        (["push", nothing, "a/b"], "holds no trained model"),
        (["push-data", nothing, "a/b"], "run `hf-genrec prepare` first"),
        (["evaluate", nothing, "--revision", "next"], "--revision needs --data"),
        (["analyze", nothing], "holds no trained model"),
        (["calibrate-depth", nothing], "holds no trained model"),
        (["refresh", nothing], "holds no saved model (config.json)"),
        (["compare", nothing], "one run alone cannot be compared"),
        (["compare", nothing, tmp_path], "holds no trained model"),
        (["grpo", "--pretrained", nothing, "--output_dir", tmp_path], "holds no trained model"),
        (["grpo", "--lora_rank", "3"], "unknown option --lora_rank"),
        (["train", "--config", tmp_path / "none.yaml"], "there is no file and no shipped configuration"),
        (["train", "--config", tmp_path / "damaged.yaml"], "damaged.yaml is not YAML"),
        (["train", "--config", tmp_path / "unknown.yaml"], "unknown key 'hiden_size', did you mean 'hidden_size'?"),
        (["train", "--config", mine, "--backbone", "sasrec"], "belongs to method: rearec"),
        (["tokenize", "--config", mine, "--learning_rat", "1"], "unknown option --learning_rat, did you mean"),
        (["train", "--config", mine, "--output_dir", nothing], "run `hf-genrec prepare` first"),
        (["tokenize", "--config", mine, "--output_dir", nothing], "run `hf-genrec prepare` first"),
        (["sweep", "--key", "a", "--values", "1", "--config", nothing], "there is no file and no shipped"),
        (["prepare", "--config", mine, "--source_path", nothing], "is not a file: correct source_path"),
        (["prepare", "--config", mine, "--item_path", nothing], "is not a file: correct item_path"),
        (["prepare", "--source_path", nothing], "does not exist: correct source_path, or leave it out"),
        (["prepare", "--source", "sequence_files", "--source_path", tmp_path], "sequences.txt is not a file"),
        (["nonsense"], None),
    ]
    found, errors = outcomes(command for command, _ in cases)
    assert [code for code, _ in found] == [2] * len(cases)
    messages = [message for _, message in cases if message is not None]
    assert len(errors) == len(messages)
    for error, message in zip(errors, messages, strict=True):
        assert message in error
    assert not {"torch", "transformers", "trl", "datasets"} & set(found[-1][1])


def test_a_user_who_is_not_there_is_said_before_torch_is_imported(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    items = pa.table({"item_id": ["a", "b"]})
    counts = np.array([0])
    PreparedData(["u"], ["a", "b"], items, [np.array([0, 1])], counts, counts, {}).save(tmp_path / "data")
    ((code, modules),), errors = outcomes([["recommend", tmp_path, "--user", "nobody"]])
    assert code == 2
    assert "user 'nobody' is not in" in errors[0]
    assert not {"torch", "transformers", "pandas"} & set(modules)


@pytest.mark.parametrize("declared", [TRAINING_ARGUMENTS, *GRPO_KINDS["grpo"].classes], ids=lambda cls: cls.place)
def test_keys_read_from_files_are_those_of_the_class(declared):
    expected = {field.name for field in fields(declared.load()) if field.init}
    assert declared.keys() == expected
    # where a file has moved, the class tells
    moved = DeclaredArguments(declared.place, "transformers.nowhere.Arguments")
    assert moved.keys() == expected
