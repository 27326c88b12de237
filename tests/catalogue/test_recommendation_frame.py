"""`recommend(..., as_frame=True)` of every method."""

import sys

import pandas
import pytest
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from transformers.dynamic_module_utils import get_class_from_dynamic_module


@pytest.fixture(params=range(3), ids=["trie", "sets", "scores"])
def model(request):
    return [make_model(make_processor()), make_reg4rec(make_set_processor()), tiny_rearec()][request.param]


def test_a_row_per_item_of_the_lists(model):
    ids = model.processor.item_ids
    histories = [ids[:3], [], ids[4:5]]
    lists, scores = model.recommend(histories, k=4)
    frame = model.recommend(histories, k=4, as_frame=True)
    assert list(frame.columns) == ["user", "item", "rank", "score", "title"]
    assert frame["user"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 3
    assert frame["item"].tolist() == [item for line in lists for item in line]
    assert frame["score"].tolist() == [score for line in scores for score in line]
    assert frame["title"].tolist() == [model.processor.title(item) for item in frame["item"]]


def test_one_history_is_user_zero(model):
    frame = model.recommend(model.processor.item_ids[:2], k=3, as_frame=True)
    assert frame["user"].tolist() == [0, 0, 0]
    assert frame["item"].tolist() == model.recommend(model.processor.item_ids[:2], k=3)[0]


def test_short_lists_have_no_rows_of_nothing(model):
    ids = model.processor.item_ids
    frame = model.recommend([ids[:2], ids[5:6]], k=9, candidates=ids[:3], exclude_seen=True, as_frame=True)
    assert frame.groupby("user").size().tolist() == [1, 3]
    assert not frame.isna().to_numpy().any()
    nothing = model.recommend([ids[:3]], k=9, candidates=ids[:3], exclude_seen=True, as_frame=True)
    assert nothing.empty
    assert list(nothing.columns) == ["user", "item", "rank", "score", "title"]
    assert (nothing["rank"].dtype, nothing["score"].dtype) == ("int64", "float64")


def test_it_is_true_or_false(model):
    with pytest.raises(ValueError, match="as_frame='yes': use True or False"):
        model.recommend([], as_frame="yes")


def test_without_pandas_it_says_so_and_all_else_works(tmp_path, monkeypatch):
    model = make_model(make_processor())
    model.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    opened = get_class_from_dynamic_module("modeling_care.CareForCausalLM", tmp_path).from_pretrained(tmp_path)
    assert opened.recommend(["item-1"], k=3) == model.recommend(["item-1"], k=3)
    with pytest.raises(ImportError, match=r"as_frame needs pandas .*: pip install pandas"):
        opened.recommend(["item-1"], k=3, as_frame=True)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert len(opened.recommend(["item-1"], k=3, as_frame=True)) == 3
