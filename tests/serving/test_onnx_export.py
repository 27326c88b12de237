"""The ONNX graph of models that score every item, read by onnxruntime alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import exit_code, make_model, make_processor
from tiny_rearec import ITEMS, tiny_rearec

from hf_genrec.serving.onnx_export import export_onnx
from hf_genrec.serving.onnx_recommender import OnnxRecommender

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

HISTORIES = [["i1", "i2", "i3"], [], ["i7"], [f"i{row}" for row in range(20)], ["i4", "i4"]]


def saved(model, folder):
    model.save_pretrained(folder / "run/model")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "fields"),
    [
        ("sasrec", {}),
        ("sasrec", {"reasoning": "none"}),
        ("sasrec", {"reasoning": "erl", "steps": 3, "reasoning_adapter_size": 4}),
        ("bert4rec", {"reasoning": "naive"}),
        ("unisrec", {"item_vector_size": 6}),
        ("morec", {"item_vector_size": 6, "reasoning": "rpe"}),
        ("sasrec", {"max_history": 1}),
        ("sasrec", {"num_items": 1}),
    ],
)
def test_the_lists_of_the_model(backbone, fields, tmp_path):
    model = tiny_rearec(backbone=backbone, **fields)
    if model.config.reads_text:
        model.set_item_vectors(np.random.default_rng(0).normal(size=(ITEMS, 6)))
    if model.config.max_history != model.processor.max_history:
        model.processor.max_history = model.config.max_history
    run = saved(model, tmp_path)
    assert exit_code("export-onnx", run, "--output", tmp_path / "onnx") == 0
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {
        "model.onnx", "catalogue.json", "onnx_recommender.py"
    }  # fmt: skip
    recommender = OnnxRecommender(tmp_path / "onnx", threads=1)
    histories = HISTORIES if model.config.num_items > 1 else [["i0"], []]
    for options in ({}, {"exclude_seen": True}, {"k": 3}):
        expected_ids, expected_scores = model.recommend(histories, **options)
        item_ids, scores = recommender.recommend(histories, **options)
        assert item_ids == expected_ids
        for mine, theirs in zip(scores, expected_scores, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for history in histories:  # each alone: another batch, another length
        assert recommender.recommend([history])[0] == model.recommend([history])[0]


@pytest.mark.slow
def test_a_stranger_reads_the_folder_without_torch(tmp_path):
    model = tiny_rearec()
    export_onnx(saved(model, tmp_path) / "model", tmp_path / "onnx")
    code = (
        "import sys, json; sys.modules.update(torch=None, transformers=None, hf_genrec=None)\n"
        "from onnx_recommender import OnnxRecommender\n"
        f"print(json.dumps(OnnxRecommender('.', 1).recommend({HISTORIES!r}, 5)[0]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=tmp_path / "onnx", env=environment, check=True, capture_output=True, text=True)
    assert json.loads(out.stdout) == model.recommend(HISTORIES, k=5)[0]
    # Again in its place.
    export_onnx(tmp_path / "run/model", tmp_path / "onnx")


class Session:
    """In the place of onnxruntime's: the score of an item is minus its distance from the newest one."""

    def run(self, names, inputs):
        newest = inputs["input_ids"][:, -1:]
        assert ((inputs["input_ids"] < 4) == inputs["attention_mask"]).all()
        return [-np.abs(np.arange(4) - np.where(newest == 4, 2, newest)).astype(np.float32)]


def test_the_reader(tmp_path, monkeypatch):
    catalogue = {"item_ids": list("abcd"), "titles": None, "max_history": 2}
    (tmp_path / "catalogue.json").write_text(json.dumps(catalogue))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *args, **kwargs: Session())
    recommender = OnnxRecommender(tmp_path)
    assert recommender.recommend([["a"], [], ["d", "c", "b"]], k=3) == (
        [["a", "b", "c"], ["c", "b", "d"], ["b", "a", "c"]],  # equal scores in catalogue order
        [[0.0, -1.0, -2.0], [0.0, -1.0, -1.0], [0.0, -1.0, -1.0]],
    )
    assert recommender.recommend([["d", "c", "b"]], exclude_seen=True)[0] == [["a"]]
    assert recommender.recommend([]) == ([], [])
    assert recommender.recommend([["a"]] * 300 + [["d"]], k=1)[0] == [["a"]] * 300 + [["d"]]  # several batches
    with pytest.raises(ValueError, match="Item 'x' in a history is not in the catalogue"):
        recommender.recommend([["a", "x"]])
    with pytest.raises(ValueError, match="k=0: give 1 or more"):
        recommender.recommend([["a"]], k=0)


def test_what_cannot_be_exported(tmp_path, capsys):
    def error_of(run, output=tmp_path / "onnx"):
        assert exit_code("export-onnx", run, "--output", output) == 2
        assert not (tmp_path / "onnx").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "holds no trained model" in error_of(tmp_path / "nothing")
    run = saved(make_model(make_processor()), tmp_path / "other")
    assert "is a CARE model, which searches for items instead of scoring each one" in error_of(run)
    run = saved(tiny_rearec(depth_rule="kl", depth_threshold=0.1), tmp_path)
    assert "depth_rule kl: users take different numbers of reasoning steps" in error_of(run)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").write_text("dear")
    assert "is there and holds no model.onnx: name another folder" in error_of(run, tmp_path / "taken")
    assert (tmp_path / "taken/thesis.tex").read_text() == "dear"


def test_without_the_packages(tmp_path, capsys, monkeypatch):
    run = saved(tiny_rearec(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert exit_code("export-onnx", run, "--output", tmp_path / "onnx") == 2
    assert 'export-onnx needs onnxscript: pip install "hf_genrec[onnx]"' in capsys.readouterr().err
