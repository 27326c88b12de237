"""New items of the text backbones: they enter by their embeddings, at the catalogue's end, without training."""

import numpy as np
import pytest
import torch
from tiny_rearec import ITEMS, tiny_rearec

SIZE = 6
HISTORIES = [["i3", "i9", "i1"], [], ["i5"]]


def text_model(backbone="unisrec", **fields):
    model = tiny_rearec(backbone=backbone, item_vector_size=SIZE, **fields)
    model.set_item_vectors(np.random.default_rng(0).normal(size=(ITEMS, SIZE)))
    return model


def new_vectors(count=2, seed=1):
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


@pytest.mark.parametrize("backbone", ["unisrec", "morec"])
@pytest.mark.parametrize("fields", [{}, {"reasoning": "erl"}, {"depth_rule": "kl", "depth_threshold": 1e-3}])
def test_new_items_are_recommended_and_nothing_else_moves(backbone, fields):
    model = text_model(backbone, **fields)
    before = model.score_items(HISTORIES)
    assert model.add_items(["n0", "n1"], new_vectors()) is model
    assert model.config.num_items == len(model.processor.item_ids) == ITEMS + 2
    after = model.score_items(HISTORIES)
    # An empty history reads PAD, whose row has moved behind the new items
    torch.testing.assert_close(after[:, :ITEMS], before, rtol=1e-5, atol=1e-5)
    lists, scores = model.recommend(HISTORIES, k=ITEMS + 2)
    assert all({"n0", "n1"} < set(items) for items in lists)
    assert scores[0][lists[0].index("n1")] == pytest.approx(after[0, ITEMS + 1].item(), rel=1e-5)
    # An item with another's embedding has its score, in the lists and in the histories
    model.add_items(["twin"], model.base_model.items.vectors[3:4])
    scores = model.score_items([["i3", "i9"], ["twin", "i9"]])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores[:, 3], scores[:, -1], rtol=1e-5, atol=1e-5)
    # Those that go take their vectors with them, of however many are there afterwards
    assert model.remove_items(["n0", "twin"]) is model
    assert model.processor.item_ids[-1] == "n1"
    assert model.config.num_items == len(model.processor.item_ids) == ITEMS + 1
    expected = after[:, [*range(ITEMS), ITEMS + 1]]
    torch.testing.assert_close(model.score_items(HISTORIES), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="'n0' in item_ids is not in the catalogue"):
        model.remove_items(["n1", "n0"])
    assert len(model.base_model.items.vectors) == ITEMS + 1


def test_saved_and_loaded_and_trained_on(tmp_path):
    model = text_model().add_items(["n0", "n1"], new_vectors(), ["A", "B"])
    assert model.processor.title("n1") == "B"
    assert model.processor.title("i3") == "i3"  # there were no titles
    assert model.processor.popularity[-2:].tolist() == [0, 0]
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.num_items == ITEMS + 2
    assert loaded.processor.item_ids == model.processor.item_ids
    assert loaded.recommend(HISTORIES, k=9) == model.recommend(HISTORIES, k=9)
    output = loaded.train()(torch.tensor([[1, ITEMS + 1]]), labels=torch.tensor([ITEMS]))
    assert output.loss.isfinite()


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_backbones_that_learn_a_vector_per_item_refuse(backbone):
    model = tiny_rearec(backbone=backbone)
    with pytest.raises(
        ValueError, match=f"backbone='{backbone}' reads no text: it learns a vector per item.*train again"
    ):
        model.add_items(["n0"], new_vectors(1))
    assert len(model.processor.item_ids) == model.config.num_items == ITEMS


@pytest.mark.parametrize(
    ("item_ids", "vectors", "titles", "message"),
    [
        (["i3"], new_vectors(1), None, "Item 'i3' stands twice"),
        (["n0", "n0"], new_vectors(2), None, "Item 'n0' stands twice"),
        (["n0"], new_vectors(2), None, r"shape \(2, 6\), expected \(1, 6\)"),
        (["n0"], new_vectors(1)[:, :5], None, r"shape \(1, 5\), expected \(1, 6\)"),
        (["n0"], np.full((1, SIZE), np.nan), None, "row 0 holds NaN or infinity"),
        (["n0"], new_vectors(1), ["A", "B"], f"{ITEMS + 2} titles for {ITEMS + 1} items"),
    ],
)
def test_what_does_not_fit_changes_nothing(item_ids, vectors, titles, message):
    model = text_model()
    with pytest.raises(ValueError, match=message):
        model.add_items(item_ids, vectors, titles)
    assert len(model.processor.item_ids) == model.config.num_items == len(model.base_model.items.vectors) == ITEMS
    model.processor = None
    with pytest.raises(ValueError, match="no processor"):
        model.add_items(["n0"], new_vectors(1))


def test_items_of_the_processor_alone_are_refused():
    model = text_model()
    model.processor.add_items(["n0"])
    for use in (model.recommend, model.score_items):
        with pytest.raises(
            ValueError, match=f"has {ITEMS + 1} items, the model {ITEMS}: new items enter by the model's"
        ):
            use(HISTORIES)
