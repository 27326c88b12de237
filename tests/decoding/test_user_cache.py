"""Histories kept between requests: the same answers, and only what is new is encoded."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.catalogue import weights_mark
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.decoding.user_cache import UserCache

pytestmark = pytest.mark.libraries

HISTORY = ["item-3", "item-9", "item-1", "item-3"]


def assert_same(found, expected):
    assert found[0] == expected[0]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours == pytest.approx(theirs, abs=5e-5)  # float32 sums of logarithms, added in another order


PROCESSOR = make_processor()
ITEMS = st.sampled_from(PROCESSOR.item_ids)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(ITEMS, max_size=12), min_size=1, max_size=3),
    st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=3),
    st.sampled_from([2**30, 9000, 0]),
    st.sampled_from([[1, 2, 1], [0, 0, 0], [0, 1, 2]]),
)
def test_requests_give_what_they_give_without_a_cache(users, rounds, max_bytes, num_queries):
    """Users of different lengths who come back with 0..3 items more, past the history limit of 8."""
    model, cache = make_model(PROCESSOR, num_queries=num_queries), UserCache(max_bytes)
    rng = np.random.default_rng(0)
    for more in [[0, 0, 0], *rounds]:
        users = [h + [f"item-{row}" for row in rng.integers(0, 40, n)] for h, n in zip(users, more, strict=False)]
        expected = model.recommend(users, k=5)
        assert_same(model.recommend(users, k=5, user_cache=cache), expected)
        assert cache.num_bytes <= max_bytes


def encoded_tokens(model):
    """Counts what the backbone is given to encode."""
    counts = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return counts


def test_only_new_items_are_encoded(model):
    counts, cache = encoded_tokens(model), UserCache()
    for history in (HISTORY, [*HISTORY, "item-7"], [*HISTORY, "item-7"], [*HISTORY, "item-7", "item-2", "item-5"]):
        model.recommend(history, k=5, user_cache=cache)
    assert counts == [4 * 3 + 1, 3 + 1, 1, 2 * 3 + 1]
    assert (cache.hits, cache.misses) == (3, 1)


def test_known_and_unknown_histories_of_a_batch_are_encoded_apart(model):
    counts, cache = encoded_tokens(model), UserCache()
    model.recommend(HISTORY, k=5, user_cache=cache)
    counts.clear()
    batch = [["item-8", "item-7", "item-6", "item-5", "item-4"], [*HISTORY, "item-7"]]
    expected = model.recommend(batch, k=5)
    counts.clear()
    assert_same(model.recommend(batch, k=5, user_cache=cache), expected)
    assert counts == [3 + 1, 5 * 3 + 1]


def test_a_longer_history_takes_the_place_of_the_shorter(model):
    cache = UserCache()
    model.recommend(HISTORY, k=5, user_cache=cache)
    layers, kept, heads, dim = 2, 2, 2, 8  # keys and values
    assert (len(cache), cache.num_bytes) == (1, 4 * 3 * layers * kept * heads * dim * 4)
    model.recommend([*HISTORY, "item-7"], k=5, user_cache=cache)
    assert (len(cache), cache.num_bytes) == (1, 5 * 3 * layers * kept * heads * dim * 4)


def test_the_least_recently_used_history_goes_first(model):
    one = 2 * 3 * 2 * 2 * 2 * 8 * 4
    cache = UserCache(max_bytes=2 * one)
    a, b, c = (["item-1", "item-2"], ["item-3", "item-4"], ["item-5", "item-6"])
    for history in (a, b, a, c):
        model.recommend(history, k=5, user_cache=cache)
    assert (len(cache), cache.num_bytes) == (2, 2 * one)
    prompts = model.processor.prompts([model.processor.rows(history) for history in (a, b, c)])
    assert cache.known(**prompts, num_levels=3) == [6, 0, 6]
    cache.clear()
    assert (len(cache), cache.num_bytes, cache.hits, cache.misses) == (0, 0, 0, 0)


def test_another_models_histories_are_refused(processor, model):
    cache = model.user_cache()
    model.recommend(HISTORY, user_cache=cache)
    with pytest.raises(ValueError, match="another model"):
        make_model(processor, seed=1).recommend(HISTORY, user_cache=cache)


def test_stock_decoders_have_it_too(processor):
    from test_beam_search import stock_decoder

    model, cache = stock_decoder("gpt2", len(processor.tokenizer)), UserCache()
    rows = [processor.rows(HISTORY), processor.rows(["item-8"])]
    for extra in ([], [5], [7, 2]):
        rows = [np.concatenate([history, extra]).astype(int) for history in rows]
        prompts = processor.prompts(rows)
        found = beam_search(model, prompts, processor.trie, 6, user_cache=cache)
        expected = beam_search(model, prompts, processor.trie, 6)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=0)
    assert cache.hits == 4


def multiplied(model) -> None:
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)


def stepped(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**model.processor(histories=[HISTORY], return_tensors="pt")).logits.sum().backward()
    optimizer.step()


def merged(model) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    assert adapted.merge_and_unload() is model


def merged_in_place(model) -> None:
    """As adapters are merged: `data` is written to, and no version is counted."""
    model.model.layers[1].self_attn.q_proj.weight.data += 0.5


def one_embedding_written_to(model) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[model.processor.token_ids[3, 0], 0] += 5


def one_number_through_data(model) -> None:
    """Past what torch counts, in a place that no sample looks at."""
    model.model.embed_tokens.weight.data[int(model.processor.token_ids[3, 0]), 1] += 5


def one_number_through_numpy(model) -> None:
    model.model.embed_tokens.weight.detach().numpy()[model.processor.token_ids[3, 0], 3] -= 5


def two_numbers_exchanged(model) -> None:
    """Their sum is the same."""
    weight = model.model.layers[0].self_attn.v_proj.weight.data
    weight.view(-1)[[1, 2]] = weight.view(-1)[[2, 1]] * 1.0


@pytest.mark.parametrize(
    "change",
    [
        multiplied,
        one_number_through_data,
        one_number_through_numpy,
        two_numbers_exchanged,
        stepped,
        merged,
        merged_in_place,
        one_embedding_written_to,
        lambda model: model.load_state_dict(make_model(PROCESSOR, seed=7).state_dict()),
        lambda model: model.double(),
        lambda model: setattr(model.model.layers[0].mlp, "up_proj", torch.nn.Linear(32, 48, bias=False)),
    ],
)
def test_other_weights_are_seen_and_everything_is_encoded_anew(change):
    model, cache = make_model(PROCESSOR), UserCache()
    model.recommend([HISTORY, ["item-8"]], k=5, user_cache=cache)
    before = model.recommend(HISTORY, k=5, user_cache=cache)
    assert (len(cache), cache.hits) == (2, 1)
    change(model)
    model.eval()
    expected = model.recommend(HISTORY, k=5)
    assert expected != before
    assert_same(model.recommend(HISTORY, k=5, user_cache=cache), expected)
    assert (len(cache), cache.hits) == (1, 1)
    assert_same(model.recommend(HISTORY, k=5, user_cache=cache), expected)
    assert cache.hits == 2


def test_every_change_of_one_number_is_seen():
    """Of any weight, at any place, by the least that float32 can tell apart."""
    model, cache = make_model(PROCESSOR), UserCache()
    rng = np.random.default_rng(0)
    for name, weight in model.named_parameters():
        model.recommend(HISTORY, k=2, user_cache=cache)
        misses = cache.misses
        flat = weight.data.view(-1)
        place = int(rng.integers(len(flat)))
        flat[place] = flat[place].nextafter(torch.tensor(9.0))
        model.recommend(HISTORY, k=2, user_cache=cache)
        assert cache.misses == misses + 1, name


def test_a_larger_model_is_looked_at_in_samples(monkeypatch):
    monkeypatch.setattr(weights_mark, "WHOLE", 1000)
    model, cache = make_model(PROCESSOR), UserCache()
    model.recommend(HISTORY, k=5, user_cache=cache)
    assert sum(len(numbers) for numbers in cache._weights.numbers) < sum(p.numel() for p in model.parameters())
    merged_in_place(model)
    assert_same(model.recommend(HISTORY, k=5, user_cache=cache), model.recommend(HISTORY, k=5))
    assert cache.hits == 0


@pytest.mark.parametrize("ways", [(None, torch.bfloat16), (torch.bfloat16, None), (torch.bfloat16, torch.float16)])
def test_another_autocast_is_seen(ways):
    """Keys and values of another precision: scores that differ by more than what a sum's order makes."""
    model, cache = make_model(PROCESSOR), UserCache()
    for dtype in (*ways, *ways):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            expected = model.recommend(HISTORY, k=5)
            found = model.recommend(HISTORY, k=5, user_cache=cache)
            assert found[0] == expected[0]
            assert found[1] == expected[1]
    assert (len(cache), cache.hits) == (1, 0)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        model.recommend(HISTORY, k=5, user_cache=cache)
    assert cache.hits == 1


def test_an_adapter_that_is_switched_off_is_seen():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, cache = make_model(PROCESSOR), UserCache()
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    with_it = model.recommend(HISTORY, k=5, user_cache=cache)
    adapted.base_model.disable_adapter_layers()
    without = model.recommend(HISTORY, k=5)
    assert without != with_it
    assert_same(model.recommend(HISTORY, k=5, user_cache=cache), without)


@pytest.mark.parametrize("change", ["disabled", "another", "scaled"])
def test_an_adapter_that_is_not_trained_is_seen(model, change):
    """Nothing of it asks for gradients, switched on or off."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config).requires_grad_(False)
    adapted.add_adapter("two", config)
    adapted.set_adapter("default")
    adapted.requires_grad_(False)
    model, history = adapted.base_model.model, ["item-1", "item-2"]
    cache = model.user_cache()
    before = model.recommend(history, user_cache=cache)
    if change == "disabled":
        adapted.base_model.disable_adapter_layers()
    elif change == "another":
        adapted.set_adapter("two")
        adapted.requires_grad_(False)
    else:
        for module in model.modules():
            if hasattr(module, "scale_layer"):
                module.scale_layer(9.0)
    found, scores = model.recommend(history, user_cache=cache)
    expected, exact = model.recommend(history)
    assert found == expected
    assert scores == pytest.approx(exact, abs=1e-5)
    assert scores != before[1]


def test_a_history_larger_than_the_cache_takes_nobodys_place(model):
    one = 3 * 2 * 2 * 2 * 8 * 4
    cache = UserCache(max_bytes=2 * one)
    model.recommend(["item-1", "item-2"], k=5, user_cache=cache)
    expected = model.recommend(HISTORY, k=5)
    for _ in range(2):
        assert_same(model.recommend(HISTORY, k=5, user_cache=cache), expected)
    assert (len(cache), cache.num_bytes) == (1, 2 * one)


@pytest.mark.parametrize("max_bytes", [-1, float("nan"), "1 GB", None, True])
def test_sizes_that_make_no_sense(max_bytes):
    with pytest.raises(ValueError, match=r"^max_bytes=.*: give a number, 0 or more"):
        UserCache(max_bytes)


# Prints the bytes of the entries of 4,000 users, and what the process has grown by.
GROWTH = """
import numpy as np, torch
from conftest import make_processor
from tiny_tiger import make_tiger
def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
torch.set_num_threads(1)
model = make_tiger(
    make_processor(num_items=200, sizes=(16, 16, 16, 16), max_history=20),
    shared_kv_pool_size=256, shared_kv_user_dim=1,
)
rng, cache = np.random.default_rng(0), model.user_cache()
model.recommend_rows([rng.integers(0, 200, 9) for _ in range(512)], k=1, num_beams=1)
before = size()
histories = [rng.integers(0, 200, rng.integers(6, 12)) for _ in range(4000)]
model.recommend_rows(histories, k=1, num_beams=1, user_cache=cache)
print(cache.num_bytes, size() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_grows_by_little_more_than_its_entries_take():
    """With the allocator as docs/care.md asks for it; without, the figure is only printed."""
    grown = {}
    for setting in ({}, {"MALLOC_TOP_PAD_": "0"}):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | setting
        finished = subprocess.run([sys.executable, "-c", GROWTH], env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr[-2000:]
        kept, grown[str(setting)] = map(int, finished.stdout.split())
        print(f"{setting}: entries of {kept / 1e6:.1f} MB, the process has grown by {grown[str(setting)] / 1e6:.1f} MB")
    assert grown[str(setting)] < 5 * kept
