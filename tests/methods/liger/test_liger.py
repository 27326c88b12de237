"""The model: candidates by codes, ranks by vectors, new items, losses, files."""

import numpy as np
import pytest
import torch
from tiny_liger import TEXT_SIZE, make_liger

from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.hub import save_model
from hf_genrec.method import load_model
from hf_genrec.methods.liger.configuration_liger import LigerConfig

pytestmark = pytest.mark.libraries

HISTORIES = [[3, 9, 1], [], [5], list(range(12))]  # the last one is longer than the model reads
ROWS = [np.array(history, dtype=np.int64) for history in HISTORIES]
COLD = [4, 17]


@pytest.fixture(scope="module")
def model():
    return make_liger(cold=COLD)


@pytest.fixture(scope="module")
def shared():
    """Items that share their codes."""
    return make_liger(30, (4, 4), unique=False, cold=COLD)


def cosines(model):
    """(B, N), each history encoded alone."""
    found = []
    with torch.no_grad():
        for history in ROWS:
            encoding = model.encoder(**model.processor.prompts([history]))
            user = encoding.last_hidden_state[0, -1]  # no padding: the answer token's
            found.append(torch.cosine_similarity(user, model.encoder.items(), dim=-1))
    return torch.stack(found)


@pytest.mark.parametrize("name", ["model", "shared"])
def test_scores_are_cosines_and_a_beam_as_wide_as_the_catalogue_ranks_all_by_them(name, request):
    model = request.getfixturevalue(name)
    num_items = len(model.processor.item_ids)
    exact = cosines(model)
    assert np.allclose(model.score_rows(ROWS, np.arange(num_items)), exact, atol=1e-5)
    for search in ({"num_beams": 1000}, {"retrieval": "dense"}):
        rows, scores = model.recommend_rows(ROWS, 10, **search)
        assert np.allclose(scores, exact.topk(10).values, atol=1e-5)
        assert np.allclose(scores, exact.gather(1, torch.from_numpy(rows)), atol=1e-5)


def test_candidates_are_the_beams_and_what_nobody_has_had(model):
    rows, scores = model.recommend_rows(ROWS, 40, num_beams=40, exclude_seen=True)
    found, found_scores = model.recommend_rows(ROWS, 5, num_beams=5)
    prompts = model.processor.prompts(ROWS)
    leaves, _ = beam_search(model, prompts, model.processor.trie, 5)
    exact = cosines(model)
    for line, line_scores, of_user, of_all in zip(found, found_scores, leaves, exact, strict=True):
        candidates = sorted({*model.processor.trie.items[of_user].tolist(), *COLD})
        best = sorted(candidates, key=lambda row: -of_all[row].item())[:5]
        assert line.tolist() == best
        assert np.allclose(line_scores, of_all[best], atol=1e-5)
    for history, line, line_scores in zip(ROWS, rows, scores, strict=True):
        assert set(line[line >= 0]) == set(range(40)) - set(history.tolist())
        assert np.isneginf(line_scores[line < 0]).all()


def test_by_codes_alone_it_is_what_its_t5_writes(model):
    rows, scores = model.recommend_rows(ROWS, 5, retrieval="sparse", num_beams=40)
    exact = model.score_rows(ROWS, np.arange(40), retrieval="sparse")
    assert np.allclose(scores, exact.topk(5).values, atol=1e-4)
    inputs = model.processor([[f"item-{row}" for row in history] for history in HISTORIES], return_tensors="pt")
    written = model.generate(
        **inputs, num_beams=40, num_return_sequences=5, logits_processor=[model.processor.trie_logits_processor()]
    )
    assert model.processor.batch_decode_items(written, 5) == [[f"item-{row}" for row in line] for line in rows]


def test_seen_items_and_candidates(shared):
    exact = cosines(shared).numpy()
    candidates = np.array([2, 9, 11, 28])
    rows, scores = shared.recommend_rows(ROWS, 10, candidates=candidates, exclude_seen=True)
    for history, line, line_scores, of_all in zip(ROWS, rows, scores, exact, strict=True):
        found = line[line >= 0]
        assert set(found) == set(candidates) - set(history.tolist())
        assert np.allclose(line_scores[: len(found)], of_all[found], atol=1e-5)


def test_padding_is_not_read(model):
    together = model.score_rows(ROWS, np.arange(10))
    for line, history in zip(together, ROWS, strict=True):
        assert torch.allclose(line, model.score_rows([history], np.arange(10))[0], atol=1e-5)


def test_losses_by_hand(model):
    """Items that nobody has had are no negatives, and no gradient reaches them."""
    prompts, targets = model.processor.prompts(ROWS), torch.tensor([7, 8, 9, 10])
    labels = torch.from_numpy(model.processor.token_ids[targets.numpy()])
    output = model(**prompts, labels=labels, target_rows=targets)
    logits = cosines(model) / model.config.dense_temperature
    logits[:, COLD] = -100
    dense = -logits.log_softmax(-1)[torch.arange(4), targets].mean()
    sparse = -model.score_rows(ROWS, targets.numpy(), retrieval="sparse").diagonal().mean() / 3
    assert output.losses["dense"].item() == pytest.approx(dense.item(), rel=1e-4)
    assert output.losses["sparse"].item() == pytest.approx(sparse.item(), rel=1e-4)
    assert output.loss.item() == pytest.approx(dense.item() + sparse.item(), rel=1e-4)
    half = model(**prompts, labels=labels, target_rows=targets, num_items_in_batch=24)
    assert half.loss.item() == pytest.approx(output.loss.item() / 2, rel=1e-5)


def test_a_new_item_is_a_candidate_of_everybody():
    model = make_liger()
    codes, text = model.processor.codes[[3]], np.random.default_rng(1).normal(size=(1, TEXT_SIZE))
    before = model.score_rows(ROWS, np.arange(40))
    assert model.add_items(["new"], codes, text, ["New"]) is model
    after = model.score_rows(ROWS, np.arange(41))
    assert torch.allclose(after[:, :40], before, atol=1e-5)
    best = model.recommend_rows(ROWS, 1, num_beams=1)[0][:, 0]
    for line, row in zip(after, best, strict=True):
        assert line[row] >= line[40] - 1e-6
    with pytest.raises(ValueError, match="NaN"):
        model.add_items(["more"], codes, text + np.nan)
    assert len(model.processor.item_ids) == model.config.num_items == 41


def test_saved_and_opened(model, tmp_path):
    histories = [[f"item-{row}" for row in history] for history in HISTORIES]
    expected = model.recommend(histories, k=6)
    save_model(model, tmp_path / "model", None)
    assert load_model(tmp_path / "model").recommend(histories, k=6) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"retrieval": "both"}, "retrieval='both': use one of hybrid, sparse, dense"),
        ({"dense_temperature": 0}, "dense_temperature=0: give a number above 0"),
        ({"item_separators": True}, "leave item_separators and num_user_bins out"),
        ({"projector_sizes": [0]}, "give at least 1"),
    ],
)
def test_settings_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LigerConfig(vocab_size=800, **fields)
