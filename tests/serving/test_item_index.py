"""Lists by a faiss index: exact scores, the share of the best items that was asked for, and what is refused."""

import json

import numpy as np
import pytest
from conftest import make_model, make_processor, run_command
from tiny_rearec import tiny_rearec

from hf_genrec.serving.item_index import ItemIndex
from hf_genrec.serving.served_model import Question, ServedModel
from hf_genrec.trainers import prepare_data, train
from hf_genrec.training.config import parse_config
from hf_genrec.training.run_folder import RunFolder

pytest.importorskip("faiss", reason="the extra `index` is not installed")

ITEMS = 400
HISTORIES = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.arange(8), np.array([7])] * 5


@pytest.fixture(scope="module")
def model():
    return tiny_rearec(num_items=ITEMS)


def test_all_lists_find_what_a_comparison_with_all_items_finds(model):
    index = ItemIndex.build(model, num_lists=9)
    index.facts["num_probes"] = 9
    for exclude_seen in (False, True):
        expected = model.recommend_rows(HISTORIES, 10, exclude_seen)
        try:
            index.attach(model)
            found = model.recommend_rows(HISTORIES, 10, exclude_seen)
        finally:
            model.item_index = None
        assert np.array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_one_list_finds_fewer_with_exact_scores_and_full_length(model):
    index = ItemIndex.build(model, num_lists=100)
    exact = model.score_rows(HISTORIES, np.arange(ITEMS)).detach().numpy()
    try:
        index.attach(model)
        rows, scores = model.recommend_rows(HISTORIES, 10, exclude_seen=True)
    finally:
        model.item_index = None
    assert (rows >= 0).all()  # a list holds four items on average: what it cannot fill is made from all
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), rtol=1e-5)
    assert not any(np.isin(line, history).any() for line, history in zip(rows, HISTORIES, strict=True))


def test_the_fewest_lists_that_find_enough(model):
    index = ItemIndex.build(model, num_lists=20)
    index.measure(model, HISTORIES, recall=1.0)
    enough, found = index.facts["num_probes"], index.facts["recall@10"]
    assert found == 1.0
    assert model.item_index is None
    index.measure(model, HISTORIES, recall=0.0)
    assert index.facts["num_probes"] == 1 <= enough
    assert 0 < index.facts["recall@10"] <= 1


def test_candidates_are_compared_one_by_one(model):
    wanted = np.array([5, 17, 200])
    index = ItemIndex.build(model, num_lists=9)
    try:
        index.attach(model)
        rows, _ = model.recommend_rows(HISTORIES, 10, candidates=wanted)
    finally:
        model.item_index = None
    assert all(set(line) == set(wanted) for line in rows)


def test_an_index_of_other_weights_is_refused(model):
    index = ItemIndex.build(model, num_lists=9)
    other = tiny_rearec(num_items=ITEMS, seed=1)
    with pytest.raises(ValueError, match="of other item vectors than the model's"):
        index.attach(other)


@pytest.fixture(scope="module")
def run(rearec_config, tmp_path_factory):
    """A run folder with data and a model."""
    folder = tmp_path_factory.mktemp("index") / "run"
    config = parse_config(str(rearec_config), ["--output_dir", str(folder), "--num_train_epochs", "1"])
    prepare_data.main(config)
    train.main(config)
    return folder


def test_from_the_command_to_a_server_and_all_users(run, monkeypatch, capsys, tmp_path):
    line = run_command(monkeypatch, capsys, "index", run, "--num-lists", "1", "--recall", "1.0")
    assert "items in 1 lists" in line
    assert "1.0000 of the best ten items" in line
    served, plain = ServedModel(run, index=True), ServedModel(run)
    assert served.model.item_index.num_items == served.num_trained
    question = Question([np.array([1, 2]), np.array([3])], 5)
    assert served.answer([question])[0][0] == plain.answer([question])[0][0]
    run_command(monkeypatch, capsys, "recommend", run, "--all-users", "--index", "--output", tmp_path / "out")
    manifest = json.loads((tmp_path / "out/_recommendations.json").read_text())
    assert manifest["settings"]["index"]["num_lists"] == 1, manifest


def test_what_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no index: build one by `hf-genrec index"):
        ItemIndex.load(RunFolder(tmp_path))
    index = ItemIndex.build(ServedModel(run).model, 3)
    folder = index.save(RunFolder(tmp_path))
    (folder / "index.faiss").write_bytes(b"not an index")
    with pytest.raises(ValueError, match="is damaged: build it again"):
        ItemIndex.load(RunFolder(tmp_path))
    with pytest.raises(ValueError, match="give from 1 to as many as there are items"):
        ItemIndex.build(ServedModel(run).model, 10**6)


def test_a_model_of_codes_needs_none():
    with pytest.raises(ValueError, match="writes codes"):
        ItemIndex.build(make_model(make_processor()))
