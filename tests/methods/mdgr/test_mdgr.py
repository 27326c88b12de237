"""MDGR's search against exact scores, and these against slower ways to compute the same."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_mdgr import best_in_any_order, make_code_set_processor, make_mdgr, path_score
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoProcessor

from hf_genrec.methods.mdgr.explain_mdgr import explain, written_steps
from hf_genrec.methods.mdgr.mdgr_search import SlotSearch, step_sizes
from hf_genrec.methods.mdgr.modeling_mdgr import MdgrConfig, MdgrForMaskedLM

pytestmark = pytest.mark.libraries

HISTORIES = [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(6)]]
STEPS = [(0, 1), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (4, 1), (0, 4), (3, 3)]  # W and m of four codebooks


@pytest.fixture(scope="module")
def model():
    return make_mdgr(make_code_set_processor(40, (4, 3, 5, 3)))


@pytest.fixture
def rows(model):
    return [model.processor.rows(history) for history in HISTORIES]


# ---- the model ----


def test_step_sizes():
    assert step_sizes(4, 1, 3) == [1, 3]
    assert step_sizes(8, 2, 3) == [1, 1, 3, 3]
    assert step_sizes(8, 1, 3) == [1, 3, 3, 1]
    assert step_sizes(3, 3, 2) == [1, 1, 1]
    assert step_sizes(4, 0, 4) == [4]
    assert [MdgrConfig(codebook_sizes=[2] * count).warmup_codes for count in (1, 4, 8)] == [1, 1, 2]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.integers(0, 29), max_size=6), min_size=1, max_size=4))
def test_padding_does_not_matter(histories):
    model = make_mdgr()
    batch = model.processor.prompts([np.array(history, dtype=int) for history in histories])
    together = model(**batch).logits
    for line, history in enumerate(histories):
        alone = model.processor.prompts([np.array(history, dtype=int)])
        torch.testing.assert_close(model(**alone).logits[0], together[line], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(input_ids=batch["input_ids"]).logits, together)
    # Padding on the right is read alike: places are counted from the oldest item.
    right = {name: tensor.clone() for name, tensor in batch.items()}
    for line, history in enumerate(histories):
        shift = batch["input_ids"].shape[1] - 3 * max(len(history), 1)
        right = {
            name: tensor.index_put((torch.tensor(line),), tensor[line].roll(-shift)) for name, tensor in right.items()
        }
    full = torch.tensor([bool(history) for history in histories])
    torch.testing.assert_close(model(**right).logits[full], together[full], rtol=1e-4, atol=1e-5)


def test_rows_of_one_history_share_its_encoding(model, rows):
    inputs = model.processor.prompts(rows)
    ids = torch.from_numpy(model.processor.token_ids[:8]).clone()  # two to each history
    ids[:, 1] = model.config.mask_token_id
    repeated = {name: tensor.repeat_interleave(2, 0) for name, tensor in inputs.items()}
    together, apart = (model(**some, decoder_input_ids=ids).logits for some in (inputs, repeated))
    torch.testing.assert_close(together, apart)
    with pytest.raises(ValueError, match=r"shape \(7, 4\) for 4 histories: give as many rows of 4 codes"):
        model(**inputs, decoder_input_ids=ids[:7])
    with pytest.raises(ValueError, match=r"shape \(4, 3\) for 4 histories"):
        model(**inputs, decoder_input_ids=ids[:4, :3])
    with pytest.raises(ValueError, match="leave decoder_input_ids out"):
        model(**inputs, labels=ids[:4], decoder_input_ids=ids[:4])
    with pytest.raises(ValueError, match="7 tokens wide: give 1 to max_history=6 items of 4 codes"):
        model(input_ids=torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="Give histories as input_ids"):
        model()


def test_loss_by_hand_and_in_parts(model, rows):
    """The mean over the masked slots of all views; parts of a batch with as many each add up to it."""
    inputs, labels = model.processor.prompts(rows), torch.from_numpy(model.processor.token_ids[[0, 7, 11, 29]])
    masked = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]]).bool().expand(4, 2, 4).clone()
    output = model(**inputs, labels=labels, masked=masked)
    starts, expected = np.cumsum([0, 4, 3, 5, 3]), []
    for line, view in itertools.product(range(4), range(2)):
        ids = labels[line].masked_fill(masked[line, view], model.config.mask_token_id)[None]
        one = {name: tensor[line : line + 1] for name, tensor in inputs.items()}
        logits = model(**one, decoder_input_ids=ids).logits[0]
        for slot in masked[line, view].nonzero().flatten().tolist():
            log_probs = logits[starts[slot] : starts[slot + 1]].log_softmax(-1)
            right = log_probs[labels[line, slot] - starts[slot]]
            expected.append((-0.9 * right - 0.1 * log_probs.mean()).item())
    assert len(expected) == 16
    assert output.loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    parts = []
    for part in (slice(0, 1), slice(1, 4)):
        cut = {name: tensor[part] for name, tensor in inputs.items()}
        parts.append(model(**cut, labels=labels[part], masked=masked[part], num_items_in_batch=4).loss)
    torch.testing.assert_close(sum(parts), output.loss)
    everything = torch.ones(4, 1, 4, dtype=torch.bool)
    torch.testing.assert_close(
        model(**inputs, labels=labels).loss, model(**inputs, labels=labels, masked=everything).loss
    )


def test_every_parameter_is_taught(model, rows):
    inputs, labels = model.processor.prompts(rows), torch.from_numpy(model.processor.token_ids[[0, 7, 11, 29]])
    masked = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool().expand(4, 3, 4)
    model(**inputs, labels=labels, masked=masked).loss.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum()] == []
    model.zero_grad()


# ---- scores ----


@pytest.mark.parametrize(("warmup", "width"), STEPS)
def test_scores_are_those_of_the_models_path(model, rows, warmup, width):
    sizes = step_sizes(4, warmup, width)
    scores = model.score_items(HISTORIES, ["item-0", "item-17"], warmup_codes=warmup, parallel_width=width)
    for line, history in enumerate(rows):
        expected = [path_score(model, history, model.processor.token_ids[item].tolist(), sizes) for item in (0, 17)]
        assert scores[line].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("warmup", "width"), STEPS)
def test_scores_are_a_distribution_over_all_sets_of_codes(warmup, width):
    sizes = (2, 3, 2, 2)
    model = make_mdgr(make_code_set_processor(24, sizes))  # every set of codes is an item
    scores = model.score_items([*HISTORIES[:2], ["item-5"]], warmup_codes=warmup, parallel_width=width)
    assert scores.double().exp().sum(1).tolist() == pytest.approx([1] * 3, abs=1e-5)


@pytest.mark.parametrize(("warmup", "width"), STEPS)
@pytest.mark.parametrize("order", ["guided", "any"])
def test_with_as_many_beams_as_items_the_search_is_exact(model, warmup, width, order):
    options = {"warmup_codes": warmup, "parallel_width": width}
    scores = model.score_items(HISTORIES, **options)
    for exclude_seen, candidates in ((False, None), (True, None), (True, [f"item-{row}" for row in range(2, 25)])):
        found, listed = model.recommend(
            HISTORIES, k=40, exclude_seen=exclude_seen, candidates=candidates, order=order, **options
        )
        for line, history in enumerate(HISTORIES):
            allowed = set(candidates or model.processor.item_ids) - set(history if exclude_seen else [])
            assert set(found[line]) == allowed
            assert len(found[line]) == len(allowed)
            expected = scores[line, model.processor.rows(found[line])].tolist()
            assert listed[line] == pytest.approx(expected, abs=1e-4)
            assert listed[line] == sorted(listed[line], reverse=True)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_lists_are_legal_and_scored_exactly(data):
    """Whatever is asked: as many different allowed items as there are, and the scores of `score_items`."""
    processor = make_code_set_processor(data.draw(st.integers(1, 25)), (3, 2, 4, 3), unique=data.draw(st.booleans()))
    model = make_mdgr(processor, seed=data.draw(st.integers(0, 3)))
    items = st.sampled_from(processor.item_ids)
    histories = data.draw(st.lists(st.lists(items, max_size=7), min_size=1, max_size=3))
    candidates = data.draw(st.none() | st.lists(items, min_size=1, unique=True))
    exclude_seen, k = data.draw(st.booleans()), data.draw(st.integers(1, 8))
    warmup = data.draw(st.integers(0, 4))
    options = {"warmup_codes": warmup, "parallel_width": data.draw(st.integers(1, 4))}
    order = data.draw(st.sampled_from(["guided", "any"]))
    found, listed = model.recommend(histories, k, exclude_seen, candidates, num_beams=k, order=order, **options)
    scores = model.score_items(histories, **options)
    for line, history in enumerate(histories):
        allowed = set(candidates or processor.item_ids) - set(history if exclude_seen else [])
        assert len(set(found[line])) == len(found[line]) == min(k, len(allowed))
        assert set(found[line]) <= allowed
        assert listed[line] == pytest.approx(scores[line, processor.rows(found[line])].tolist(), abs=1e-4)


@pytest.mark.parametrize("order", ["guided", "any"])
def test_users_with_fewer_items_than_others(model, order):
    """Of items without the first code of a codebook, one user has seen all but two."""
    items = [item for item, codes in zip(model.processor.item_ids, model.processor.codes, strict=True) if all(codes)]
    found, _ = model.recommend([items[2:], []], len(items), True, items, order=order, warmup_codes=2, parallel_width=1)
    assert set(found[0]) == set(items[:2])
    assert set(found[1]) == set(items)


@pytest.mark.parametrize(("warmup", "width"), [(4, 1), (2, 2), (2, 1), (1, 3), (3, 1)])
def test_paths_in_any_order_are_the_best_of_all_orders(warmup, width):
    """Brute force over all orders: with beams for every set of codes, none of the best sums is missed."""
    model = make_mdgr(make_code_set_processor(14, (3, 2, 3, 2)))
    sets, sizes, history = model.processor.item_sets, step_sizes(4, warmup, width), np.array([3, 9, 1])
    encoding = model.get_encoder()(**model.processor.prompts([history]))
    leaves, sums = SlotSearch(model, encoding, sets, 10_000, sizes, warmup, order="any").run()
    tokens, cache = sets.leaf_tokens.tolist(), {}
    expected = {leaf: best_in_any_order(model, history, tokens[leaf], sizes, warmup, cache) for leaf in range(14)}
    assert dict(zip(leaves[0].tolist(), sums[0].tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)
    if warmup > 1:  # the order of the model's path is one of them, and seldom the best
        guided, _ = SlotSearch(model, encoding, sets, 10_000, sizes, warmup).run()
        assert set(guided[0].tolist()) == set(expected)
        assert sum(expected.values()) > float(model.score_items([["item-3", "item-9", "item-1"]], **{
            "warmup_codes": warmup, "parallel_width": width
        }).sum()) + 1e-3  # fmt: skip


def test_paths_with_the_same_codes_are_merged(model, rows):
    """Two steps in any order: no two paths hold the same codes, and all beams are of use."""
    sets, encoding = model.processor.item_sets, model.get_encoder()(**model.processor.prompts(rows))
    search = SlotSearch(model, encoding, sets, 12, [1, 1, 2], 2, order="any")
    seen = []

    def watched(step, log_probs, choose=search._choose_code):
        choose(step, log_probs)
        seen.append([{tuple(path) for path in paths} for paths in search.ids.tolist()])

    search._choose_code = watched
    search.run()
    assert [[len(paths) for paths in step] for step in seen] == [[12] * 4, [12] * 4]


@pytest.mark.parametrize(("warmup", "width"), STEPS)
def test_decoder_passes(model, rows, warmup, width):
    """W + ceil((L - W) / m); twice as many where the items found are scored anew."""
    passes = []
    hook = model.model.decoder.register_forward_hook(lambda *call: passes.append(1))
    for order, times in (("guided", 1), ("any", 2)):
        passes.clear()
        model.recommend_rows(rows, 5, warmup_codes=warmup, parallel_width=width, order=order)
        assert len(passes) == times * (warmup + -(-(4 - warmup) // width))
    hook.remove()


def test_the_batch_changes_nothing(model):
    (found, scores), (alone, alone_scores) = (model.recommend(HISTORIES, k=5, batch_size=size) for size in (64, 1))
    assert found == alone
    assert np.array(scores) == pytest.approx(np.array(alone_scores), abs=1e-5)


def test_dropout_is_off_and_the_mode_is_kept():
    model = make_mdgr(dropout=0.5).train()
    assert model.recommend(["item-3"]) == model.recommend(["item-3"])
    assert torch.equal(model.score_items(["item-3"]), model.score_items(["item-3"]))
    assert model.training


def test_items_that_share_codes_stand_in_order_of_popularity():
    processor = make_code_set_processor(30, (4, 4), unique=False)
    found, scores = make_mdgr(processor).recommend(["item-1"], k=30)
    assert sorted(found) == sorted(processor.item_ids)
    popularity = dict(zip(processor.item_ids, processor.popularity, strict=True))
    ties = [(a, b) for (a, s), (b, t) in itertools.pairwise(zip(found, scores, strict=True)) if s == t]
    assert ties
    assert all(popularity[a] >= popularity[b] for a, b in ties)


def test_new_items_are_recommended_without_training():
    model = make_mdgr()
    processor = model.processor
    used = set(map(tuple, processor.codes.tolist()))
    free = next(codes for codes in itertools.product(range(4), range(5), range(3)) if codes not in used)
    before = dict(zip(*model.recommend(["item-1"], k=30), strict=True))
    processor.add_items(["new"], [free], ["Brand new"])
    after = dict(zip(*model.recommend(["item-1"], k=31), strict=True))
    assert after.pop("new") == pytest.approx(model.score_items(["item-1"], ["new"]).item(), abs=1e-5)
    assert after == pytest.approx(before, abs=1e-5)
    processor.remove_items(["new", "item-5"])
    del before["item-5"]
    assert dict(zip(*model.recommend(["item-1"], k=31), strict=True)) == pytest.approx(before, abs=1e-5)


def test_arguments_that_make_no_sense(model):
    for options, message in (
        ({"warmup_codes": 5}, "warmup_codes=5: an item has 4 codes"),
        ({"warmup_codes": -1}, "warmup_codes=-1: give a whole number, at least 0"),
        ({"parallel_width": 0}, "parallel_width=0: give a whole number, at least 1"),
        ({"order": "best"}, "order='best': use 'guided' or 'any'"),
        ({"k": 10, "num_beams": 5}, "num_beams must be at least k"),
    ):
        with pytest.raises(ValueError, match=message):
            model.recommend(["item-1"], **options)
    for fields, message in (
        ({"codebook_sizes": []}, "codebook_sizes is empty"),
        ({"warmup_codes": 5}, "warmup_codes=5: give at least 0 and at most 4"),
        ({"parallel_width": 0}, "parallel_width=0"),
        ({"norm_type": "batch"}, "norm_type='batch': use one of layernorm, rmsnorm"),
        ({"hidden_size": 10}, "does not divide into 4 heads"),
        ({"pad_token_id": 0}, "make it 1025, leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            MdgrConfig(**fields)


# ---- files, explanations ----


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".py", ".safetensors"}
    again = MdgrForMaskedLM.from_pretrained(tmp_path)
    assert again.recommend(HISTORIES, k=7) == model.recommend(HISTORIES, k=7)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    loaded = [
        AutoConfig.from_pretrained(tmp_path),
        AutoModel.from_pretrained(tmp_path),
        AutoModelForMaskedLM.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True),
    ]
    assert [type(thing).__name__ for thing in loaded] == [
        "MdgrConfig",
        "MdgrModel",
        "MdgrForMaskedLM",
        "CodeSetProcessor",
    ]
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(loaded[1].state_dict()[name], tensor), name


def test_an_explanation_is_the_path_of_the_score(model, rows):
    for history, name in zip(rows, HISTORIES, strict=True):
        steps = written_steps(model, history, 17)
        assert [len(step) for step in steps] == [1, 3]
        assert sorted(slot for step in steps for slot, _, _ in step) == [0, 1, 2, 3]
        score = float(model.score_items(name, ["item-17"]))
        assert sum(own for step in steps for _, own, _ in step) == pytest.approx(score, abs=1e-5)
        assert all(own <= best for step in steps for _, own, best in step)
        (explanation,) = explain(model, history, 17)
        assert "in 2 steps" in explanation.about
