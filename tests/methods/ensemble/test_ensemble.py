"""An ensemble's lists and scores against those of its members."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from tiny_ensemble import scoring, tiny_ensemble
from tiny_reg4rec import make_reg4rec, make_set_processor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import hf_genrec
from hf_genrec.evaluation.metrics import ndcg_at_k
from hf_genrec.method import load_method
from hf_genrec.methods.ensemble.choose_weights import choose_weights
from hf_genrec.methods.ensemble.join_models import build_ensemble
from hf_genrec.methods.ensemble.modeling_ensemble import EnsembleForNextItem

KINDS = {
    "codes and scores": {},
    "shared codes": {"unique": False},
    "two of scores": {"searching": 0, "weights": (1.0, 0.5)},
    "two of codes and one of scores": {"searching": 2, "weights": (1.0, 0.25, 3.0)},
}


def by_hand(model, histories, weights) -> torch.Tensor:
    """(B, N) sums of what the members say of all items."""
    total = 0
    for member, searches, weight in zip(model.members, model.searches, weights, strict=True):
        scores = member.score_items(histories)
        total = total + weight * (scores if searches else scores.log_softmax(-1))
    return total


def best_of(model, scores, k, allowed=None) -> list[list[str]]:
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    order = scores.sort(dim=-1, descending=True, stable=True)
    return [
        [model.processor.item_ids[row] for row, value in zip(rows, values, strict=True) if value > -torch.inf]
        for rows, values in zip(order.indices[:, :k].tolist(), order.values[:, :k].tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_all_items_sorted_where_all_are_candidates(kind, histories):
    model = tiny_ensemble(**KINDS[kind])
    expected = by_hand(model, histories, model.config.weights)
    torch.testing.assert_close(model.score_items(histories), expected, rtol=0, atol=1e-5)
    items, scores = model.recommend(histories, k=10)
    assert items == best_of(model, expected, 10)
    values = expected.sort(dim=-1, descending=True).values[:, :10]
    torch.testing.assert_close(torch.tensor(scores), values, rtol=0, atol=1e-5)
    # All items at once are the items one by one.
    alone = [model.score_items(histories, [item])[:, 0] for item in model.processor.item_ids[:3]]
    torch.testing.assert_close(torch.stack(alone, 1), expected[:, :3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_seen_items_and_candidates(kind, histories):
    model = tiny_ensemble(**KINDS[kind])
    expected = by_hand(model, histories, model.config.weights)
    allowed = torch.ones(len(histories), 30, dtype=torch.bool)
    for line, history in enumerate(histories):
        allowed[line, model.processor.rows(history)] = False
    assert model.recommend(histories, k=30, exclude_seen=True)[0] == best_of(model, expected, 30, allowed)
    few = ["item-9", "item-3", "item-20"]
    allowed &= torch.isin(torch.arange(30), torch.tensor([9, 3, 20]))
    items, scores = model.recommend(histories, k=10, exclude_seen=True, candidates=few)
    assert items == best_of(model, expected, 3, allowed)
    assert [len(line) for line in items] == allowed.sum(1).tolist()
    for line, values in zip(items, scores, strict=True):
        row = model.processor.rows(line)
        torch.testing.assert_close(torch.tensor(values), expected[len(values) and items.index(line), row])


@pytest.mark.parametrize("unique", [True, False])
def test_weight_0_is_codes_alone(unique, histories):
    model = tiny_ensemble((1.0, 0.0), num_candidates=20, unique=unique)
    items, scores = model.recommend(histories, k=10)
    assert (items, scores) == model.members[0].recommend(histories, k=10, num_beams=20)
    assert torch.equal(model.score_items(histories), model.members[0].score_items(histories))


def test_an_item_is_a_candidate_if_either_finds_it(histories):
    model = tiny_ensemble(num_candidates=3)
    codes, scores = (
        member.recommend(histories, k=3, **more)[0]
        for member, more in zip(model.members, ({"num_beams": 3}, {}), strict=True)
    )
    expected = by_hand(model, histories, model.config.weights)
    allowed = torch.zeros(len(histories), 30, dtype=torch.bool)
    for line, (first, second) in enumerate(zip(codes, scores, strict=True)):
        assert set(first) != set(second)
        allowed[line, model.processor.rows([*first, *second])] = True
    assert model.recommend(histories, k=3)[0] == best_of(model, expected, 3, allowed)
    # As many as are asked for, whatever the configuration says.
    assert [len(line) for line in model.recommend(histories, k=30)[0]] == [30] * 4


@pytest.mark.parametrize("unique", [True, False])
def test_lists_of_items_are_scored_as_all_items_are(unique, histories):
    processor = make_processor(30, unique=unique)
    model = make_model(processor)
    rows, _ = processor.batch_rows(histories)
    lists = np.array([[3, -1, 29, 0], [-1, -1, -1, -1], [7, 8, 9, 10], [-1, 5, -1, -1]])
    with torch.no_grad():
        all_scores = model.score_rows(rows, np.arange(30))
        found = model.score_row_lists(rows, lists)
        one_by_one = super(type(model).__mro__[1], model).score_row_lists(rows, lists)
    expected = all_scores.gather(1, torch.from_numpy(lists).clamp(min=0))
    expected = expected.masked_fill(torch.from_numpy(lists) < 0, -torch.inf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(one_by_one, expected, rtol=0, atol=1e-5)


def test_a_member_that_writes_sets_of_codes(histories):
    sets = make_set_processor(30, (5, 6, 7))
    model = build_ensemble([make_reg4rec(sets), scoring(sets)], num_candidates=30)
    assert model.searches == [True, False]
    expected = by_hand(model, histories, [1.0, 1.0])
    assert model.recommend(histories, k=10)[0] == best_of(model, expected, 10)
    with pytest.raises(ValueError, match="user_cache"):
        model.recommend(histories, user_cache=make_model(make_processor()).user_cache())
    assert model.user_cache() is None


def test_a_user_cache_is_the_first_members(histories):
    model = tiny_ensemble(num_candidates=5)
    cache = model.user_cache()
    expected = model.recommend(histories, k=5)
    assert model.recommend(histories, k=5, user_cache=cache)[0] == expected[0]
    assert model.recommend(histories, k=5, user_cache=cache)[0] == expected[0]
    assert cache.hits == 3  # the empty history has nothing to be kept
    without = tiny_ensemble(searching=0)
    assert without.user_cache() is None
    for option in ({"user_cache": cache}, {"num_beams": 20}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}: .* leave it out"):
            without.recommend(histories, **option)


def test_ensembles_are_taken_apart(histories):
    processor = make_processor(30)
    two = build_ensemble([scoring(processor), scoring(processor, 1)])
    three = build_ensemble([make_model(processor), two])
    assert three.config.member_types == ["care", "rearec", "rearec"]
    assert three.members[1] is two.members[0]
    with pytest.raises(ValueError, match="name two runs or more"):
        build_ensemble([make_model(processor)])
    with pytest.raises(ValueError, match="different catalogues"):
        build_ensemble([make_model(processor), make_model(make_processor(29))])


def test_three_members_are_given_better_weights_one_after_the_other():
    from tiny_rearec import tiny_split

    model, split = tiny_ensemble((1.0, 0.0, 0.0), searching=1), tiny_split(users=30)
    for exclude_seen in (False, True):
        tried = [line for line in choose_weights(model, split, exclude_seen) if line["exclude_seen"] == exclude_seen]
        assert tried[0]["weights"] == [1.0, 0.0, 0.0]
        best = max(line["ndcg@10"] for line in tried)
        assert next(line["weights"] for line in tried if line["ndcg@10"] == best) == model.config.weights
        assert best > tried[0]["ndcg@10"]
        rows, _ = model.recommend_rows(split.histories, 10, exclude_seen=exclude_seen)
        assert ndcg_at_k(rows, split.targets, 10).mean() == pytest.approx(best)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_opened(kind, histories, tmp_path):
    model = tiny_ensemble(**KINDS[kind])
    model.save_pretrained(tmp_path)
    expected = model.recommend(histories, k=5)
    again = hf_genrec.load(tmp_path)
    assert type(again) is EnsembleForNextItem
    assert again.recommend(histories, k=5) == expected
    assert json.loads((tmp_path / "config.json").read_text())["weights"] == model.config.weights
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert opened.recommend(histories, k=5) == expected
    opened.save_pretrained(tmp_path / "again")
    assert hf_genrec.load(tmp_path / "again").recommend(histories, k=5) == expected
    # Each member is a saved model that opens by itself.
    member = hf_genrec.load(tmp_path / "member_1")
    assert member.recommend(histories, k=5) == model.members[0].recommend(histories, k=5)


def test_logits_are_the_scores_of_all_items(histories, tmp_path):
    model = tiny_ensemble()
    model.save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
    with torch.no_grad():
        logits = opened(**opened.processor(histories=histories, return_tensors="pt")).logits
    torch.testing.assert_close(logits, model.score_items(histories), rtol=0, atol=1e-5)


def test_folders_that_are_not_of_one_save_are_refused(tmp_path):
    tiny_ensemble().save_pretrained(tmp_path / "one")
    make_model(make_processor(29)).save_pretrained(tmp_path / "other")
    config = tmp_path / "one/config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"weights": [1.0, 3.0]}))
    with pytest.raises(ValueError, match=r"config.json is damaged \(weights"):
        hf_genrec.load(tmp_path / "one")
    config.write_text(json.dumps(content | {"members": ["member_1", "../other"]}))
    with pytest.raises(ValueError, match="no name of a folder"):
        hf_genrec.load(tmp_path / "one")
    config.write_text(json.dumps(content | {"member_types": ["care", "care"]}))
    with pytest.raises(ValueError, match=r"member_2/config.json is damaged .*'care' is expected"):
        hf_genrec.load(tmp_path / "one")
    config.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "one/member_1")
    with pytest.raises(OSError, match="member_1"):
        hf_genrec.load(tmp_path / "one")
    shutil.copytree(tmp_path / "other", tmp_path / "one/member_1")
    (tmp_path / "one/member_1/catalogue.json").rename(tmp_path / "away")
    with pytest.raises(OSError, match=r"member_1 holds no catalogue.json"):
        hf_genrec.load(tmp_path / "one")
    (tmp_path / "away").rename(tmp_path / "one/member_1/catalogue.json")
    with pytest.raises(ValueError, match="member_1 is of another catalogue"):
        hf_genrec.load(tmp_path / "one")


def test_an_answer_is_explained_by_the_members_in_use():
    model, history = tiny_ensemble(), np.array([3, 9, 1])
    explain = load_method("ensemble").explain
    parts = [load_method(name).explain for name in ("care", "rearec")]
    titles = [[part.title for part in of(model.members[n], history, 5, True)] for n, of in enumerate(parts)]
    assert all(titles)
    assert [part.title for part in explain(model, history, 5, True)] == titles[0] + titles[1]
    model.set_weights([0.0, 1.0])
    assert [part.title for part in explain(model, history, 5, True)] == titles[1]


def test_similar_items_are_those_of_the_members():
    model = tiny_ensemble((1.0, 1.0))
    cosines = []
    for member in model.members:
        vectors = torch.nn.functional.normalize(member.similarity_vectors().detach().float(), dim=-1)
        cosines.append(vectors[4] @ vectors.T)
    expected = (sum(cosines) / 2).sort(descending=True)
    items, scores = model.similar_items("item-4", k=3)
    assert items == [model.processor.item_ids[row] for row in expected.indices[1:4]]
    assert scores == pytest.approx(expected.values[1:4].tolist(), abs=1e-5)
