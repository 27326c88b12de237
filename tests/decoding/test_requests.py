"""Requests right and wrong: each ends in a right answer or in one clear line, alike for every method."""

import copy
import io
import tracemalloc
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from conftest import make_model, make_processor
from random_requests import failures, make_models
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

from hf_genrec.catalogue.request_checks import shown
from hf_genrec.methods.reg4rec.set_policy import sample_paths
from hf_genrec.post_training.trie_policy import sample_items


@pytest.fixture(scope="module")
def models():
    return make_models()


@pytest.mark.parametrize("seed", range(5))
def test_random_requests(models, seed):
    """A hundred each; `python tests/random_requests.py 10000` prints what goes wrong."""
    assert failures(models, 100, seed) == {}


@pytest.mark.slow
def test_ten_thousand_random_requests(models):
    assert failures(models, 10_000, seed=100) == {}


@pytest.fixture(scope="module", params=["trie", "scores", "sets"])
def model(request, models):
    return models[request.param]


def first(model, count: int) -> list[str]:
    return model.processor.item_ids[:count]


@pytest.mark.parametrize(
    "histories",
    [
        lambda ids: tuple(ids),
        lambda ids: np.array(ids),
        lambda ids: np.array(ids, dtype=object),
        lambda ids: pandas.Series(ids, index=[7, 8, 9]),
        lambda ids: pandas.Series(ids, dtype="category"),
        lambda ids: pyarrow.array(ids),
        lambda ids: pyarrow.chunked_array([ids]),
        lambda ids: iter(ids),
    ],
)
def test_lists_of_other_libraries_are_lists(model, histories):
    ids = first(model, 3)
    expected = model.recommend(ids, k=4)
    assert model.recommend(histories(ids), k=4) == expected
    batch = model.recommend([histories(ids), histories(ids)], k=4)
    assert batch == ([expected[0]] * 2, [pytest.approx(expected[1], abs=1e-5)] * 2)
    assert model.recommend(ids, k=2, candidates=histories(ids)) == model.recommend(ids, k=2, candidates=ids)
    assert torch.equal(model.score_items(ids, histories(ids)), model.score_items(ids, ids))


def test_a_table_of_histories_is_a_batch(model):
    ids = first(model, 6)
    expected = model.recommend([ids[:3], ids[3:]], k=2)
    assert model.recommend(np.array(ids).reshape(2, 3), k=2) == expected
    assert model.recommend(pandas.Series([ids[:3], ids[3:]]), k=2) == expected
    assert model.recommend(pyarrow.array([ids[:3], ids[3:]]), k=2) == expected
    assert model.recommend((history for history in (ids[:3], iter(ids[3:]))), k=2) == expected


def test_nothing_is_one_empty_history_and_a_batch_of_nothing_has_a_line(model):
    ids, scores = model.recommend([], k=3)
    assert len(ids) == len(scores) == 3
    for empty in ((), np.array([]), pyarrow.array([])):
        assert model.recommend(empty, k=3) == (ids, scores)
    for one in ([[]], [()], np.empty((1, 0)), [np.array([])]):
        assert model.recommend(one, k=3) == ([ids], [scores])
    assert model.score_items([], []).shape == (0,)
    assert model.score_items([[], []], []).shape == (2, 0)


@pytest.mark.parametrize(
    ("histories", "line"),
    [
        ("12", r"histories: '12' is no list of item ids: give a list, \[\['12'\]\]"),
        (b"12", r"histories: b'12' is no list of item ids"),
        (7, r"histories: 7 is no list"),
        (None, r"histories: None is no list"),
        ({"a": 1}, r"histories: a dict is no list"),
        ({"a"}, r"histories: a set has no order"),
        ([["{0}"], {"{0}"}], r"history 2: a set has no order"),
        ([["{0}"], "{0}"], r"histories: entry 2 is '.*' and entry 1 is a list: give lists"),
        (["{0}", ["{0}"]], r"histories: entry 2 is a list and entry 1 is '"),
        ([["{0}"], None], r"histories: entry 2 is None"),
        (["{0}", 5], r"Item 5 in the history \(position 2, from 1\) is not a string: item ids are strings"),
        ([["{0}"], ["{0}", "{1}", None]], r"Item None in history 2 \(position 3, from 1\)"),
        ([["{0}"], [float("nan")]], r"Item nan in history 2 \(position 1"),
        ([["{0}", ["{1}"]]], r"Item a list in history 1 \(position 2"),
        ([["{0}", {"a": 1}]], r"Item a dict in history 1 \(position 2"),
        ([["{0}", b"12"]], r"Item b'12' in history 1 \(position 2"),
        (torch.tensor([[1, 2]]), r"Item 1 in history 1 \(position 1"),
        ([["{0}"], ["{1}", "nobody"]], r"Item 'nobody' in history 2 is not in the catalogue \(position 2, from 1\)"),
        (pandas.DataFrame({"a": ["x"]}), r"histories: a DataFrame is no list"),
        (b"", r"histories: b'' is no list"),
        (memoryview(b""), r"histories: a memoryview is no list"),
        ({}, r"histories: a dict is no list"),
        (set(), r"histories: a set has no order"),
        (io.StringIO(), r"histories: a StringIO is no list"),
        (io.BytesIO(b"1"), r"histories: a BytesIO is no list"),
        (iter(()), r"histories: a tuple_iterator gave nothing, as one that was read before: give a list"),
        (map(str, ()), r"histories: a map gave nothing"),
        ([["{0}"], iter(())], r"history 2: a tuple_iterator gave nothing"),
        (list, r"histories: a type is no list"),
    ],
)
def test_wrong_histories_are_named_with_their_place(model, histories, line):
    def filled(value):
        if isinstance(value, list | set):
            return type(value)(map(filled, value))
        return value.format(*first(model, 2)) if isinstance(value, str) else value

    histories = filled(histories) if isinstance(histories, list | set) else histories
    for ask in (model.recommend, model.score_items, lambda histories: model.processor(histories=histories)):
        with pytest.raises(ValueError, match=rf"^{line}|^Call the processor with histories"):
            ask(histories)
    if "nobody" not in line:  # "skip" is for ids that are not known
        with pytest.raises(ValueError, match=rf"^{line}"):
            model.recommend(histories, unknown="skip")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"candidates": "12"}, r"candidates: '12' is no list of item ids: give a list, \['12'\]"),
        ({"candidates": []}, "candidates is empty: give at least 1 item"),
        ({"candidates": [5]}, "Item 5 in candidates"),
        ({"candidates": ["nobody"]}, "Item 'nobody' in candidates is not in the catalogue .*; leave it out"),
        ({"k": True}, "k=True: give a whole number, at least 1"),
        ({"k": 2.0}, "k=2.0: give a whole number"),
        ({"k": "5"}, "k='5': give"),
        ({"k": 0}, "k=0: give"),
        ({"k": -(10**5000)}, "k=an int of 16610 bits: give"),
        ({"batch_size": 0}, "batch_size=0: give"),
        ({"exclude_seen": "no"}, "exclude_seen='no': use True or False"),
        ({"unknown": "drop"}, "unknown='drop': use 'raise' or 'skip'"),
    ],
)
def test_wrong_arguments(model, arguments, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        model.recommend([], **arguments)


def test_options_that_a_model_does_not_have(model):
    with pytest.raises(
        TypeError, match=r"^This model has no search option 'beams' here: leave it out, its options are"
    ):
        model.recommend([], beams=3)
    with pytest.raises(TypeError, match=r"^This model has no search option 'batch_size' here"):
        model.score_items([], batch_size=3)


def test_options_of_some_models(models):
    for name in ("trie", "sets"):
        for wrong, line in (
            (3, "num_beams=3 for k=5 items: num_beams must be at least k"),
            ("3", "num_beams='3': give"),
        ):
            with pytest.raises(ValueError, match=f"^{line}"):
                models[name].recommend([], k=5, num_beams=wrong)
    with pytest.raises(ValueError, match=r"^user_cache=5: give one that model.user_cache"):
        models["trie"].recommend([], user_cache=5)
    with pytest.raises(ValueError, match=r"^return_rollbacks: .* call recommend_rows"):
        models["sets"].recommend([], return_rollbacks=True)
    with pytest.raises(ValueError, match=r"^reflection_threshold=nan: give a number, 0 or more"):
        models["sets"].recommend([], reflection_threshold=float("nan"))


@pytest.mark.parametrize(
    ("histories", "line"),
    [
        ([[0, 24]], r"Row 24 in history 1 \(position 2, from 1\) is not in the catalogue: its rows are 0 to"),
        ([[0], [-1]], r"Row -1 in history 2 \(position 1, from 1\)"),
        ([3, 4], "history 1: 3 is no list of catalogue rows"),
        ([["item-1"]], "history 1: a list is no list of catalogue rows"),
        ([[0.5]], "history 1: a list is no list of catalogue rows"),
        (5, "histories: 5 is no batch of catalogue rows"),
    ],
)
def test_rows_outside_the_catalogue(models, histories, line):
    for name in ("trie", "sets"):
        model = models[name]
        with pytest.raises(ValueError, match=f"^{line}"):
            model.recommend_rows(histories)
        with pytest.raises(ValueError, match=f"^{line}"):
            model.score_rows(histories, np.array([0]))
    assert len(models["scores"].processor.item_ids) == 30
    if "24" not in line:
        with pytest.raises(ValueError, match=f"^{line}"):
            models["scores"].recommend_rows(histories)


def test_rows_to_choose_from(model):
    num_items = len(model.processor.item_ids)
    for rows in ([num_items], [-1]):
        with pytest.raises(ValueError, match=r"in candidates \(position 1, from 1\) is not in the catalogue"):
            model.recommend_rows([np.array([0])], candidates=rows)
        with pytest.raises(ValueError, match=r"in rows \(position 1, from 1\) is not in the catalogue"):
            model.score_rows([np.array([0])], rows)
    found, _ = model.recommend_rows([[0, 1], (2,), np.array([])], 2, candidates=[3, 3, 4, 4, 4])
    assert np.sort(found).tolist() == [[3, 4]] * 3
    rows, scores = model.recommend_rows([], 4)
    assert rows.shape == scores.shape == (0, 4)
    with torch.no_grad():
        assert model.score_rows([], np.array([0, 1])).shape == (0, 2)


def test_a_k_of_a_billion_takes_no_memory(model):
    """k and the beams are at most what there is; 8 bytes for each of a billion would be 8 GB."""
    ids = first(model, 4)
    everything = model.recommend(ids, k=len(model.processor.item_ids))
    beams = {} if not model.can_generate() else {"num_beams": 10**9}
    assert model.recommend(ids, k=10**9, **beams) == everything
    assert len(model.recommend(ids, k=10**30, candidates=ids[:3] * 5, **beams)[0]) == 3
    rows = [model.processor.rows(ids)] * 3
    found, scores = model.recommend_rows(rows, 10**9, batch_size=10**30, **beams)
    assert found.shape == scores.shape == (3, len(model.processor.item_ids))
    assert [model.processor.item_ids[row] for row in found[0]] == everything[0]
    assert model.recommend_rows(rows, 10**9, candidates=[4, 5, 4], **beams)[0].shape == (3, 2)


def test_ten_million_beams_are_no_more_than_can_be_alive(writer):
    """transformers repeats the prompts for each: 10 million rows of them, and of what they are decoded to."""
    inputs = writer.processor(histories=LISTS, return_tensors="pt")
    searches = [{"logits_processor": [legal(writer)]}]
    if hasattr(writer.processor, "trie"):
        searches.append({"custom_generate": writer.processor.constrained_beam_search()})
    for search in searches:
        few = writer.generate(**inputs, **search, num_beams=200, num_return_sequences=2)
        tracemalloc.start()
        many = writer.generate(**inputs, **search, num_beams=10**7, num_return_sequences=2)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()
        assert torch.equal(few, many)
        config = type(writer.generation_config)(**writer.generation_config.to_diff_dict() | {"num_beams": 10**7})
        written = writer.generate(**inputs, **search, generation_config=config)
        assert torch.equal(written, few[::2])
        assert config.num_beams == 10**7


@pytest.mark.parametrize(
    "value", [0, -1, True, "1", Decimal(1), float("nan"), np.float32("inf"), 10**5000, 1j], ids=shown
)
def test_temperatures_that_make_no_sense(writer, value):
    inputs = writer.processor(histories=LISTS, return_tensors="pt")
    with pytest.raises(ValueError, match=r"^temperature=.*: give a number above 0"):
        writer.generate(**inputs, do_sample=True, temperature=value, logits_processor=[legal(writer)])
    policy = sample_items if hasattr(writer.processor, "trie") else sample_paths
    items = getattr(writer.processor, "trie", None) or writer.processor.item_sets
    with pytest.raises(ValueError, match=r"^temperature=.*: give a number above 0"):
        policy(writer, inputs, items, 2, value)


def test_numbers_of_other_kinds(models):
    """Right ones are taken for what they are; `10 ** 5000` is above every divergence."""
    model = models["sets"]
    ids = first(model, 3)
    never = model.recommend(ids, reflection_threshold=float("inf"))
    for value in (10**30, 10**5000, Fraction(10), np.float16(9)):
        assert model.recommend(ids, reflection_threshold=value) == never
    half = model.recommend(ids, reflection_threshold=0.5, num_beams=10**30)
    assert model.recommend(ids, reflection_threshold=Fraction(1, 2), num_beams=np.int16(200)) == half
    for value in (Decimal("0.5"), True, np.bool_(True), "1", float("nan"), -(10**5000)):
        with pytest.raises(ValueError, match=r"^reflection_threshold=.*: give a number, 0 or more"):
            model.recommend(ids, reflection_threshold=value)


def test_a_history_of_a_million_items_is_cut_first(model):
    ids = first(model, 20) * 50_000
    assert model.recommend(ids, k=3) == model.recommend(ids[-20:], k=3)
    found, _ = model.recommend(ids, k=30, exclude_seen=True)
    assert set(found) == set(model.processor.item_ids[20:])


def test_titles_of_items_that_are_not_there(model):
    with pytest.raises(ValueError, match="'nobody' in title is not in the catalogue"):
        model.processor.title("nobody")


def test_values_are_shown_in_one_short_line():
    for value in ("x" * 10**6, "a\nb", 10**6000, np.arange(9), {"a": "\n"}, None, 2.5):
        assert len(shown(value)) <= 60
        assert "\n" not in shown(value)


# ---- generate ----

LISTS = [["item-3", "item-9"], [], ["item-5"]]


@pytest.fixture(scope="module", params=["trie", "sets", "sets in order"])
def writer(request, models):
    return models[request.param]


def legal(model, candidates=None):
    processor = model.processor
    if hasattr(processor, "trie"):
        return processor.trie_logits_processor(candidates)
    return processor.set_logits_processor(candidates, model.config.code_order)


@pytest.mark.parametrize("candidates", [None, ["item-1"], ["item-1", "item-2", "item-7"]])
@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize(("num_beams", "wanted"), [(1, 1), (3, 3), (8, 3), (8, 8), (30, 20), (30, 30), (40, 24)])
def test_generate_gives_items_or_says_that_there_are_too_few(writer, candidates, sample, num_beams, wanted):
    processor = writer.processor
    inputs = processor(histories=LISTS, return_tensors="pt")
    count = 24 if candidates is None else len(candidates)
    options = {"num_beams": num_beams, "num_return_sequences": wanted, "do_sample": sample}
    torch.manual_seed(0)
    asked = num_beams if sample else wanted
    if num_beams > 1 and asked > count:
        with pytest.raises(ValueError, match=f"^num_.*={asked}, and only {count} different answers are legal: ask for"):
            writer.generate(**inputs, **options, logits_processor=[legal(writer, candidates)])
        return
    output = writer.generate(**inputs, **options, logits_processor=[legal(writer, candidates)])
    items = processor.batch_decode_items(output)
    assert len(items) == len(LISTS) * wanted
    assert set(items) <= set(candidates or processor.item_ids)
    lists = processor.batch_decode_items(output, num_return_sequences=wanted)
    in_any_order = writer.config.model_type == "reg4rec" and writer.config.code_order == "confidence"
    for row, found in enumerate(lists):
        assert found == list(dict.fromkeys(items[row * wanted : (row + 1) * wanted]))
        assert in_any_order or len(found) == wanted  # codes in another order are another path to the same item


def test_samples_may_repeat_and_can_be_told_apart(writer):
    processor = writer.processor
    inputs = processor(histories=LISTS, return_tensors="pt")
    options = {"do_sample": True, "num_return_sequences": 40, "logits_processor": [legal(writer)]}
    output = writer.generate(**inputs, **options)
    assert None not in processor.batch_decode_items(output)
    for found in processor.batch_decode_items(output, num_return_sequences=40):
        assert len(set(found)) == len(found) <= 24


def test_the_settings_may_come_in_a_configuration(models):
    model = models["trie"]
    inputs = model.processor(histories=LISTS, return_tensors="pt")
    config = type(model.generation_config)(num_beams=30, num_return_sequences=30, max_new_tokens=3, pad_token_id=0)
    with pytest.raises(ValueError, match="only 24 different answers"):
        model.generate(**inputs, generation_config=config, logits_processor=[legal(model)])
    config.num_return_sequences = 24
    output = model.generate(**inputs, generation_config=config, logits_processor=[legal(model)])
    assert len(set(model.processor.batch_decode_items(output)[:24])) == 24


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("tokens", [50, 10**9])
def test_an_answer_has_the_codes_of_an_item(writer, tokens, beams):
    inputs = writer.processor(histories=LISTS, return_tensors="pt")
    options = {"num_beams": beams, "num_return_sequences": beams, "logits_processor": [legal(writer)]}
    expected = writer.generate(**inputs, **options)
    assert torch.equal(writer.generate(**inputs, **options, max_new_tokens=tokens), expected)
    config = copy.deepcopy(writer.generation_config)
    config.update(max_new_tokens=tokens, num_beams=beams, num_return_sequences=beams)
    options = {"logits_processor": [legal(writer)], "generation_config": config}
    assert torch.equal(writer.generate(**inputs, **options), expected)
    assert config.max_new_tokens == tokens


@pytest.mark.parametrize("value", [1e308, float("nan"), float("inf"), -21, 10**400, "1"])
@pytest.mark.parametrize("name", ["length_penalty", "top_p"])
def test_numbers_that_transformers_takes_and_cannot_compute_with(writer, name, value):
    inputs = writer.processor(histories=LISTS, return_tensors="pt")
    with pytest.raises(ValueError, match=rf"^{name}=.*: give a number from"):
        writer.generate(**inputs, logits_processor=[legal(writer)], num_beams=2, **{name: value})


def test_settings_that_are_not_finite(writer):
    inputs = writer.processor(histories=LISTS, return_tensors="pt")
    for name in ("repetition_penalty", "typical_p", "epsilon_cutoff", "eta_cutoff", "min_p", "diversity_penalty"):
        for value in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"^{name}={value}: give a finite number"):
                writer.generate(**inputs, logits_processor=[legal(writer)], do_sample=True, **{name: value})


def test_surplus_rows_of_the_fast_search_are_no_items(models):
    model = models["trie"]
    inputs = model.processor(histories=LISTS, return_tensors="pt")
    search = model.processor.constrained_beam_search(["item-1", "item-2"])
    output = model.generate(**inputs, num_beams=4, num_return_sequences=4, custom_generate=search)
    items = model.processor.batch_decode_items(output)
    assert [items[row : row + 4].count(None) for row in (0, 4, 8)] == [2, 2, 2]
    lists = model.processor.batch_decode_items(output, num_return_sequences=4)
    assert [sorted(line) for line in lists] == [["item-1", "item-2"]] * 3
    with pytest.raises(ValueError, match="does not sample: leave do_sample out"):
        model.generate(**inputs, num_beams=4, do_sample=True, custom_generate=search)
    with pytest.raises(ValueError, match=r"^A prompt does not end with the answer token \(10\): make prompts"):
        model.generate(inputs["input_ids"][:, :-1], num_beams=4, custom_generate=search)


@pytest.mark.parametrize(
    "sequences",
    ["abc", None, [1, 2, 3], [[0.5]], [[1], [1, 2]], torch.zeros(2, 3), torch.empty(2, 0).long(), {"a": 1}, 5],
)
def test_what_are_no_sequences_of_token_ids(writer, sequences):
    with pytest.raises(ValueError, match=r"^sequences: .* is no \(n, S\) tensor of token ids: give what generate"):
        writer.processor.batch_decode_items(sequences)


def test_sequences_of_any_numbers_are_items_or_none(writer):
    rng = np.random.default_rng(0)
    for width in (1, 2, 4, 7):
        items = writer.processor.batch_decode_items(rng.integers(-20, 20, (50, width)))
        assert set(items) <= {*writer.processor.item_ids, None}
        assert writer.processor.batch_decode_items(np.zeros((0, width), dtype=int)) == []
    with pytest.raises(ValueError, match=r"^3 sequences are no 2 for each history"):
        writer.processor.batch_decode_items([[1, 2]] * 3, num_return_sequences=2)


@pytest.mark.parametrize("candidates", ["item-1", [5], [], ["nobody"], 7])
def test_wrong_candidates_of_a_logits_processor(writer, candidates):
    with pytest.raises(ValueError, match=r"candidates"):
        legal(writer, candidates)


def test_an_output_may_be_a_tuple():
    for model in (make_model(make_processor()), make_reg4rec(make_set_processor()), tiny_rearec()):
        inputs = model.processor(histories=[first(model, 3)], return_tensors="pt")
        for part in (model, model.base_model):
            output = part(**inputs)
            as_tuple = part(**inputs, return_dict=False)
            assert isinstance(as_tuple, tuple)
            assert torch.equal(as_tuple[0], output.to_tuple()[0])
            assert type(part(**inputs, return_dict=True)) is type(output)
    model = make_model(make_processor())
    expected = model.recommend([], k=3)
    model.config.return_dict = False
    assert model.recommend([], k=3) == expected
