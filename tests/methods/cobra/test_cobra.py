"""The model: its rows, lists by codes and vectors, new items, files."""

import numpy as np
import pytest
import torch
from tiny_cobra import TEXT_SIZE, make_cobra, make_cobra_processor

from hf_genrec.catalogue import weights_mark
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.hub import save_model
from hf_genrec.method import load_model
from hf_genrec.methods.cobra.modeling_cobra import CobraConfig, CobraForCausalLM

pytestmark = pytest.mark.libraries

HISTORIES = [[3, 9, 1], [], [5], list(range(12))]  # the last one is longer than the model reads
ROWS = [np.array(history, dtype=np.int64) for history in HISTORIES]


@pytest.fixture(scope="module")
def model():
    return make_cobra(make_cobra_processor())


@pytest.fixture(scope="module")
def shared():
    """Items that share their codes."""
    return make_cobra(make_cobra_processor(30, (4, 4), unique=False), dense_weight=3.0)


def by_hand(model, history, row):
    """The codes' log-probability and the cosine of an item, by one forward pass of the history and the item."""
    config, processor = model.config, model.processor
    newest = np.asarray(history, dtype=np.int64)[-config.max_history :]
    tokens = [config.answer_token_id, *processor.item_tokens(newest), *processor.token_ids[row]]
    with torch.no_grad():
        states = model.model(torch.tensor([tokens])).last_hidden_state[0]
        logits = model.code_head(states)
        total, levels = 0.0, config.num_levels
        for level, size in enumerate(config.codebook_sizes):
            first = sum(config.codebook_sizes[:level])
            log_probs = logits[len(tokens) - levels - 1 + level, first : first + size].log_softmax(-1)
            total += log_probs[processor.codes[row, level]].item()
        cosine = torch.cosine_similarity(states[-1], model.model.items()[row], dim=0).item()
    return total, cosine


@pytest.mark.parametrize("name", ["model", "shared"])
def test_scores_are_those_of_whole_rows(name, request):
    model = request.getfixturevalue(name)
    rows = np.array([0, 7, 29, 7])
    parts = np.array([[by_hand(model, history, row) for row in rows] for history in ROWS])
    weight = model.config.dense_weight
    found = model.score_rows(ROWS, rows)
    assert np.allclose(found, parts[..., 0] + weight * parts[..., 1], atol=1e-4)
    assert np.allclose(model.score_rows(ROWS, rows, retrieval="sparse"), parts[..., 0], atol=1e-5)
    assert np.allclose(model.score_rows(ROWS, rows, dense_weight=0.5), parts[..., 0] + 0.5 * parts[..., 1], atol=1e-5)


@pytest.mark.parametrize("name", ["model", "shared"])
@pytest.mark.parametrize("retrieval", ["fusion", "sparse", "dense"])
def test_a_beam_as_wide_as_the_catalogue_finds_the_best_of_all(name, retrieval, request):
    model = request.getfixturevalue(name)
    num_items = len(model.processor.item_ids)
    rows, scores = model.recommend_rows(ROWS, 10, num_beams=1000, retrieval=retrieval)
    wide = {"num_beams": 1000} if retrieval == "dense" else {}
    exact = model.score_rows(ROWS, np.arange(num_items), retrieval=retrieval, **wide)
    assert np.allclose(scores, exact.topk(10).values, atol=1e-5)
    assert np.allclose(scores, exact.gather(1, torch.from_numpy(rows)), atol=1e-5)
    assert all(len(set(line)) == 10 for line in rows.tolist())


@pytest.mark.parametrize("retrieval", ["fusion", "sparse", "dense"])
def test_scores_depend_neither_on_k_nor_on_the_beams(model, retrieval):
    exact = model.score_rows(ROWS, np.arange(40), retrieval=retrieval)
    for k, num_beams in ((3, None), (20, None), (5, 5)):
        if retrieval == "dense" and num_beams:
            continue  # the likeliest codes are looked for by as many
        rows, scores = model.recommend_rows(ROWS, k, num_beams=num_beams, retrieval=retrieval, batch_size=3)
        assert np.allclose(scores, exact.gather(1, torch.from_numpy(rows)), atol=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_a_dense_weight_of_0_gives_the_lists_of_the_codes_alone(model, shared):
    for one in (model, shared):
        by_codes = one.recommend_rows(ROWS, 8, retrieval="sparse")
        fused = one.recommend_rows(ROWS, 8, dense_weight=0)
        _, scores = beam_search(one, one.processor.prompts(ROWS), one.processor.trie, 20)
        assert np.array_equal(by_codes[0], fused[0])
        assert np.array_equal(by_codes[1], fused[1])
        assert np.array_equal(by_codes[1][:, 0], scores[:, 0])
        assert torch.equal(
            one.score_rows(ROWS, np.arange(9), dense_weight=0), one.score_rows(ROWS, np.arange(9), "sparse")
        )


def test_a_large_dense_weight_ranks_all_items_by_their_vectors(shared):
    """Each along its own codes, as wide as the catalogue."""
    rows, _ = shared.recommend_rows(ROWS, 30, num_beams=1000, dense_weight=1e5)
    for history, line in zip(ROWS, rows, strict=True):
        cosines = [by_hand(shared, history, row)[1] for row in range(30)]
        found = [cosines[row] for row in line]
        assert found == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)


def test_neighbours_come_beside_the_beams(model):
    """An item whose codes no beam has is found by its vector, with its exact score."""
    few = model.recommend_rows(ROWS, 2, num_beams=2)
    exact = model.score_rows(ROWS, np.arange(40))
    best = exact.topk(2).values.numpy()
    model.config.num_neighbours = 0
    try:
        alone = model.recommend_rows(ROWS, 2, num_beams=2)
    finally:
        model.config.num_neighbours = 5
    assert (few[1] >= alone[1] - 1e-5).all()
    assert (few[1] > alone[1] + 1e-3).any()
    assert np.abs(few[1] - best).mean() < np.abs(alone[1] - best).mean()


@pytest.mark.parametrize("retrieval", ["fusion", "sparse", "dense"])
def test_seen_items_and_candidates(shared, retrieval):
    exact = shared.score_rows(ROWS, np.arange(30), retrieval=retrieval).numpy()
    rows, scores = shared.recommend_rows(ROWS, 30, exclude_seen=True, retrieval=retrieval)
    for history, line, line_scores, of_all in zip(ROWS, rows, scores, exact, strict=True):
        found = line[line >= 0]
        assert set(found) == set(range(30)) - set(history.tolist())
        assert np.allclose(line_scores[: len(found)], of_all[found], atol=1e-5)
        assert np.isneginf(line_scores[len(found) :]).all()
    candidates = np.array([2, 9, 11, 28])
    rows, scores = shared.recommend_rows(ROWS, 10, candidates=candidates, retrieval=retrieval, exclude_seen=True)
    assert rows.shape == (4, 4)
    for history, line, line_scores, of_all in zip(ROWS, rows, scores, exact, strict=True):
        found = line[line >= 0]
        assert set(found) == set(candidates) - set(history.tolist())
        assert np.allclose(line_scores[: len(found)], of_all[found], atol=1e-5)


def test_a_user_cache_changes_nothing(model):
    rng = np.random.default_rng(0)
    long = rng.integers(0, 40, 8)
    expected = [model.recommend_rows([long[:n]], 5) for n in range(9)]
    cache = model.user_cache()
    for n in range(9):
        rows, scores = model.recommend_rows([long[:n]], 5, user_cache=cache)
        assert np.array_equal(rows, expected[n][0])
        assert np.allclose(scores, expected[n][1], atol=1e-4)
    assert cache.hits == 7  # all but the empty history and the first item
    both = model.recommend_rows([long[:3], rng.integers(0, 40, 4)], 5, user_cache=cache, retrieval="sparse")
    assert np.isfinite(both[1]).all()


@pytest.mark.parametrize("user_dim", [0, 2])
def test_with_a_pool_a_user_is_a_record(user_dim):
    model = make_cobra(make_cobra_processor(), shared_kv_pool_size=16, shared_kv_user_dim=user_dim)
    long, cache = np.random.default_rng(0).integers(0, 40, 8), model.user_cache()
    for n in range(9):
        expected, scores = model.recommend_rows([long[:n]], 5)
        rows, found = model.recommend_rows([long[:n]], 5, user_cache=cache)
        assert np.array_equal(rows, expected)
        assert np.allclose(found, scores, atol=2e-4)  # a bit of float16 may fall on the other side
    assert cache.hits == 7
    # The longest history has replaced what it went on from: answer token, codes and vectors, but for the last vector.
    tokens, layers = 1 + 8 * 4 - 1, model.config.num_hidden_layers
    assert cache.num_bytes == tokens * layers * 2 * (2 * user_dim + 2)
    assert not any("attention.key" in name for name in model.state_dict())


def test_an_item_that_comes_back_with_another_text_is_read_anew(monkeypatch):
    """Its vectors may have the address of those before, and of a large model few numbers are compared."""
    monkeypatch.setattr(weights_mark, "WHOLE", 0)
    monkeypatch.setattr(weights_mark, "SAMPLE", 1)
    model, rng = make_cobra(make_cobra_processor()), np.random.default_rng(0)
    cache = model.user_cache()
    for _ in range(8):
        model.add_items(["new"], [[1, 2, 3]], rng.normal(size=(1, TEXT_SIZE)))
        for _ in range(2):
            answers = [model.recommend([["new", "item-1"]], k=5, **cached) for cached in ({"user_cache": cache}, {})]
            assert answers[0][0] == answers[1][0]
            assert np.allclose(answers[0][1], answers[1][1], atol=1e-5)
        model.remove_items(["new"])
    assert cache.hits == 8


def test_padding_is_not_read(model):
    together = model.score_rows(ROWS, np.arange(10))
    for line, history in zip(together, ROWS, strict=True):
        assert torch.allclose(line, model.score_rows([history], np.arange(10))[0], atol=1e-5)
    with torch.no_grad():
        inputs = model.processor.prompts(ROWS)
        alone = model.processor.prompts(ROWS[2:3])
        assert torch.allclose(model(**inputs).logits[2, -1], model(**alone).logits[0, -1], atol=1e-5)


def test_the_state_behind_the_codes_knows_nothing_of_the_items_vector(model):
    """Neither codes nor vector of a target are predicted from its own text, or from later items."""
    prompt = torch.tensor([[model.config.answer_token_id, *model.processor.item_tokens(np.array([4, 6]))]])
    with torch.no_grad():
        before = model.model(prompt).last_hidden_state
        model.model.items.text[6] += 1
        after = model.model(prompt).last_hidden_state
        model.model.items.text[6] -= 1
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_generate_writes_items(model):
    processor = model.processor
    inputs = processor([[f"item-{row}" for row in history] for history in HISTORIES], return_tensors="pt")
    found = model.generate(
        **inputs, num_beams=40, num_return_sequences=5, logits_processor=[processor.trie_logits_processor()]
    )
    rows, _ = model.recommend_rows(ROWS, 5, num_beams=40, retrieval="sparse")
    expected = [[f"item-{row}" for row in line] for line in rows]
    assert processor.batch_decode_items(found, 5) == expected
    fast = model.generate(
        **inputs, num_beams=40, num_return_sequences=5, custom_generate=processor.constrained_beam_search()
    )
    assert processor.batch_decode_items(fast, 5) == expected


@pytest.mark.parametrize("own", [False, True])
def test_new_items_enter_by_codes_and_text(own):
    model = make_cobra(make_cobra_processor(), item_embeddings=own)
    if own:
        torch.nn.init.normal_(model.model.items.own.weight)
    before = model.score_rows(ROWS, np.arange(40))
    text = model.model.items.text[[3]].numpy()
    codes = model.processor.codes[[3]]
    assert model.add_items(["new"], codes, text, ["New"]) is model
    assert model.processor.title("new") == "New"
    after = model.score_rows(ROWS, np.arange(41))
    assert torch.allclose(after[:, :40], before, atol=1e-5)
    # It is what its twin is, as far as that has nothing of its own.
    assert torch.allclose(after[:, 40], after[:, 3], atol=1e-5) == (not own)
    assert model.recommend(["new"], k=41, num_beams=41)[0].count("new") == 1
    assert model.similar_items("new", k=40)[0][0] == "item-3" or own


def test_new_items_are_refused_whole(model):
    codes, text = model.processor.codes[[3]], np.zeros((1, TEXT_SIZE))
    for arguments, message in (
        ((["item-3"], codes, text), "stands twice"),
        ((["n"], codes, text[:, :-1]), r"shape \(1, 5\), expected \(1, 6\)"),
        ((["n"], codes, text + np.nan), "NaN"),
        ((["n"], codes + 100, text), "outside its codebook"),
    ):
        with pytest.raises(ValueError, match=message):
            model.add_items(*arguments)
    assert model.config.num_items == len(model.processor.item_ids) == len(model.model.items.text) == 40
    model.processor.item_ids.append("odd")
    try:
        with pytest.raises(ValueError, match="new items enter by the model's add_items"):
            model.recommend_rows(ROWS, 3)
    finally:
        model.processor.item_ids.pop()


def test_similar_items_are_compared_by_their_vectors(model):
    items, scores = model.similar_items("item-4", k=39)
    vectors = torch.nn.functional.normalize(model.model.items(), dim=-1).detach()
    expected = {f"item-{row}": float(vectors[4] @ vectors[row]) for row in range(40) if row != 4}
    assert dict(zip(items, scores, strict=True)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_saved_and_opened(own, tmp_path):
    model = make_cobra(make_cobra_processor(), item_embeddings=own)
    if own:
        torch.nn.init.normal_(model.model.items.own.weight)
    model.add_items(["new"], model.processor.codes[[3]] * 0, np.ones((1, TEXT_SIZE)))
    histories = [[f"item-{row}" for row in history] for history in HISTORIES]
    expected = model.recommend(histories, k=6)
    save_model(model, tmp_path / "model", None)
    assert load_model(tmp_path / "model").recommend(histories, k=6) == expected


def test_a_model_without_texts_says_so():
    processor = make_cobra_processor()
    model = CobraForCausalLM(CobraConfig(codebook_sizes=processor.codebook_sizes, num_items=40, max_history=8)).eval()
    model.processor = processor
    with pytest.raises(ValueError, match="no text embeddings: call set_item_vectors"):
        model.recommend(["item-1"])
    with pytest.raises(ValueError, match=r"shape \(3, 4\), expected \(40, 384\)"):
        model.set_item_vectors(np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"retrieval": "both"}, "retrieval='both': use one of fusion, sparse, dense"),
        ({"negatives": "few"}, "negatives='few': use one of catalogue, batch, other_users"),
        ({"dense_temperature": 0}, "dense_temperature=0: give a number above 0"),
        ({"num_neighbours": -1}, "num_neighbours=-1: give at least 0"),
        ({"codebook_sizes": []}, "codebook_sizes is empty"),
        ({"vocab_size": 5}, "vocab_size=5: codebook_sizes"),
        ({"hidden_size": 6}, "does not divide into 4 heads"),
        ({"hidden_act": "no"}, "name an activation"),
    ],
)
def test_settings_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CobraConfig(**fields)


def test_requests_that_are_refused(model):
    for search, message in (
        ({"retrieval": "both"}, "retrieval='both': use 'fusion', 'sparse' or 'dense'"),
        ({"dense_weight": -1}, "dense_weight=-1: give a number, 0 or more"),
        ({"num_beams": 3}, "num_beams=3 for k=10"),
    ):
        with pytest.raises(ValueError, match=message):
            model.recommend(["item-1"], **search)
    with pytest.raises(ValueError, match="cut histories to the newest max_history=8"):
        model.model(torch.zeros(1, 60, dtype=torch.long))
