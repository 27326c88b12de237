"""Encoded histories of encoder-decoders, kept between requests: the same answers, and nothing encoded twice."""

import numpy as np
import pytest
import torch
from conftest import check_hard_gates, make_model, make_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codetree import make_codetree
from tiny_liger import make_liger
from tiny_s2gr import make_s2gr
from tiny_stream import make_stream
from tiny_tiger import make_tiger

from hf_genrec import load
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.decoding.user_cache import UserCache
from hf_genrec.decoding.whole_history_cache import WholeHistoryCache
from hf_genrec.training.code_t5_training import start_history_pools

pytestmark = pytest.mark.libraries

HISTORY = ["item-3", "item-9", "item-1", "item-3"]
POOL = {"shared_kv_pool_size": 16, "shared_kv_user_dim": 3}
MODELS = {
    "tiger": lambda: make_tiger(make_processor()),
    "tiger, pool": lambda: make_tiger(make_processor(), **POOL),
    "tiger, no thin part": lambda: make_tiger(make_processor(), shared_kv_pool_size=16, shared_kv_user_dim=0),
    "tiger, separators": lambda: make_tiger(make_processor(), item_separators=True, num_user_bins=4),
    "s2gr, pool": lambda: make_s2gr(make_processor(), **POOL),
    "stream, pool": lambda: make_stream(make_processor(), **POOL),
    "liger": lambda: make_liger(cold=[5, 8]),
    "codetree": lambda: make_codetree(make_processor()),
}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def model(request):
    return MODELS[request.param]()


def assert_same(found, expected):
    assert found[0] == expected[0]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours == pytest.approx(theirs, abs=5e-5)  # padded otherwise: sums in another order


def encoded_histories(model) -> list[int]:
    """Counts the histories that are encoded."""
    counts = []
    encode = model.encode_histories
    model.encode_histories = lambda **inputs: counts.append(len(inputs["input_ids"])) or encode(**inputs)
    return counts


def test_requests_give_what_they_give_without_a_cache(model):
    """Users of different lengths who come back with nothing or something more, past the history limit of 8."""
    cache, counts = model.user_cache(), encoded_histories(model)
    users = [HISTORY, [], ["item-5"], [f"item-{row}" for row in range(7)]]
    for more in ([], ["item-7"], [], ["item-2", "item-8"], []):
        users = [[*history, *more] for history in users]
        assert_same(model.recommend(users, k=5, user_cache=cache), model.recommend(users, k=5))
    assert counts == [4, 4, 4]
    assert (len(cache), cache.hits, cache.misses) == (12, 8, 12)


ITEMS = st.sampled_from(make_processor().item_ids)
SOME = MODELS["tiger, pool"](), MODELS["codetree"]()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(ITEMS, max_size=12), min_size=1, max_size=6), st.sampled_from([2**30, 300, 0]))
def test_known_and_unknown_histories_of_a_batch(users, max_bytes):
    for model in SOME:
        cache = model.user_cache(max_bytes)
        for asked in (users[:2], users, users[::-1]):
            assert_same(model.recommend(asked, k=5, user_cache=cache), model.recommend(asked, k=5))
            assert cache.num_bytes <= max_bytes
        assert cache.num_bytes == sum(entry.nbytes for entry in cache._entries.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiger", 13 * 16 * 4),  # the encoder's states of 4 items' codes and the answer token, float32
        ("tiger, separators", 17 * 16 * 4),
        ("tiger, pool", 13 * 2 * 2 * (3 * 2 + 2)),  # a layer's key and value: three float16 and a row's number
        ("tiger, no thin part", 13 * 2 * 2 * 2),
        ("codetree", 16 * 4),
    ],
)
def test_bytes_of_a_history(name, expected):
    model = MODELS[name]()
    cache = model.user_cache()
    model.recommend(HISTORY, k=5, user_cache=cache)
    assert cache.num_bytes == expected


def test_the_least_recently_used_history_goes_first():
    model = MODELS["codetree"]()
    cache = model.user_cache(max_bytes=2 * 64)
    for item in ("item-1", "item-2", "item-1", "item-3"):
        model.recommend([item], k=2, user_cache=cache)
    prompts = model.processor.prompts([model.processor.rows([f"item-{number}"]) for number in (1, 2, 3)])
    assert cache.known(**prompts, num_levels=3) == [4, 0, 4]


def test_other_weights_and_another_catalogue_are_seen(model):
    cache, counts = model.user_cache(), encoded_histories(model)
    model.recommend(HISTORY, k=5, user_cache=cache)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    assert_same(model.recommend(HISTORY, k=5, user_cache=cache), model.recommend(HISTORY, k=5))
    given = [np.ones((1, 6))] if hasattr(model, "set_item_vectors") else []
    model.add_items(["new"], [[0, 0, 0]], *given) if hasattr(model, "add_items") else model.processor.add_items(
        ["new"], [[0, 0, 0]]
    )
    assert_same(model.recommend(HISTORY, k=5, user_cache=cache), model.recommend(HISTORY, k=5))
    assert (counts, cache.hits) == ([1, 1, 1], 0)


def test_what_else_the_encoder_reads_is_a_part_of_the_history():
    model = MODELS["tiger, separators"]()
    cache, processor = model.user_cache(), model.processor
    prompts = processor.prompts([processor.rows(HISTORY)] * 2)
    for bins in ([0, 1], [1, 0], [2, -1]):
        inputs = prompts | {"user_bins": torch.tensor(bins)}
        found = beam_search(model, inputs, processor.trie, 6, user_cache=cache)
        torch.testing.assert_close(found, beam_search(model, inputs, processor.trie, 6), atol=1e-5, rtol=0)
    assert (cache.hits, len(cache)) == (2, 4)


def test_a_cache_of_another_kind_or_model_is_refused(model):
    cache = model.user_cache()
    assert type(cache) is WholeHistoryCache
    model.recommend(HISTORY, k=3, user_cache=cache)
    for other in (UserCache(), 5, {}):
        with pytest.raises(ValueError, match=r"give one that model.user_cache\(\) has made"):
            model.recommend(HISTORY, user_cache=other)
    with pytest.raises(ValueError, match="another model"):
        make_tiger(make_processor(), seed=1).recommend(HISTORY, user_cache=cache)
    with pytest.raises(ValueError, match=r"give one that model.user_cache\(\) has made"):
        make_model(make_processor()).recommend(HISTORY, user_cache=cache)


# ---- the pool ----


def labelled(model):
    processor = model.processor
    prompts = processor.prompts([processor.rows(history) for history in (HISTORY, HISTORY[:1])])
    return prompts | {"labels": torch.from_numpy(processor.token_ids[[5, 7]])}


@pytest.mark.parametrize("make", [make_tiger, make_s2gr])
def test_gradients_reach_routers_and_pools_and_the_losses_are_added(make):
    model = make(make_processor(), dropout_rate=0.0, **POOL).double().train()
    batch = labelled(model)
    outputs = model(**batch)
    outputs.loss.backward()
    for attention in model.decoder.cross_attentions:
        for part in (attention.k, attention.v):
            assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())
    routed = 0.01 * (outputs.losses["peak"] + outputs.losses["balance"])
    model.config.shared_kv_peak_weight = model.config.shared_kv_balance_weight = 0.0
    assert (outputs.loss - model(**batch).loss).item() == pytest.approx(routed.item(), abs=1e-12)
    # of two batches with the codes of both: the terms' shares add up
    halves = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in (0, 1)]
    terms = [model(**half, num_items_in_batch=6).losses["peak"] for half in halves]
    alone = [model(**half).losses["peak"] for half in halves]
    assert sum(terms).item() == pytest.approx(sum(alone).item() / 2, abs=1e-12)


def test_padding_is_not_in_the_routers_losses():
    model = make_tiger(make_processor(), dropout_rate=0.0, **POOL).double().train()
    batch = labelled(model)
    short = {name: tensor[1:] for name, tensor in batch.items()}
    cut = short | {name: short[name][:, -4:] for name in ("input_ids", "attention_mask")}
    assert short["attention_mask"].sum() == 4 < short["attention_mask"].numel()
    for name in ("peak", "balance"):
        found = [model(**one).losses[name].item() for one in (short, cut)]
        assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_hard_gates_train_what_is_served():
    model = make_tiger(make_processor(), dropout_rate=0.0, shared_kv_pool_size=16, shared_kv_user_dim=0).double()
    check_hard_gates(model, labelled(model), least=1e-3)


def test_pools_start_where_plain_projections_do():
    """As many rows as different states: what is looked up is what a projection of T5's would give."""
    model = make_tiger(make_processor(), shared_kv_pool_size=512, shared_kv_user_dim=1)
    batch = model.processor.prompts([np.arange(start, start + 8) for start in range(0, 40, 8)])
    start_history_pools(model, [batch], seed=0)
    model.eval()
    states = model.get_encoder()(**batch).last_hidden_state.flatten(0, 1)
    for attention in model.decoder.cross_attentions:
        for part in (attention.k, attention.v):
            # linear in the states, which is true of no other look-up
            looked_up = part(states[None])[0][:, 1:].detach()
            solution = torch.linalg.lstsq(states.detach().double(), looked_up.double()).solution
            torch.testing.assert_close(states.double() @ solution, looked_up.double(), atol=1e-3, rtol=1e-3)


def test_saved_and_loaded(tmp_path):
    model = make_tiger(make_processor(), **POOL)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    cache = loaded.user_cache()
    for _ in range(2):
        assert_same(loaded.recommend(HISTORY, k=5, user_cache=cache), model.recommend(HISTORY, k=5))
    assert cache.hits == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shared_kv_pool_size": 2**16 + 1}, "give 65536 rows or less"),
        ({"shared_kv_pool_size": 4, "shared_kv_user_dim": 16}, "leaves nothing to share"),
        ({"shared_kv_balance_weight": -1.0}, "shared_kv_balance_weight"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_tiger(make_processor(), **fields)


def test_a_model_that_reads_the_states_themselves_has_no_pool():
    with pytest.raises(ValueError, match="leave shared_kv_pool_size out"):
        make_liger(fields=POOL)
