"""Several threads with one model, user cache or logits processor: the answers of one request after the other."""

import sys
import threading

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from tiny_tiger import make_tiger

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.decoding.user_cache import UserCache

THREADS = 8


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(work) -> None:
    """`work(number)` in all of them at once; the first error is raised."""
    errors, gate = [], threading.Barrier(THREADS)

    def run(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def requests(model, count: int) -> list[list[list[str]]]:
    """For each thread histories of a few users, who come back with more items."""
    rng, ids = np.random.default_rng(0), model.processor.item_ids
    users = [[ids[row] for row in rng.integers(0, len(ids), 14)] for _ in range(6)]
    return [[users[rng.integers(6)][: rng.integers(0, 15)] for _ in range(count)] for _ in range(THREADS)]


def held(cache: UserCache) -> int:
    return sum(entry.nbytes for entry in cache._entries.values())


# dropout would show
CACHED = {
    "prefixes": lambda: make_model(make_processor(), attention_dropout=0.5).train(),
    "whole": lambda: make_tiger(make_processor(), dropout_rate=0.5, shared_kv_pool_size=16).train(),
}


def check_a_shared_cache(kind: str, max_bytes: int, count: int) -> None:
    model = CACHED[kind]()
    asked = requests(model, count)
    expected = {tuple(h): model.recommend(h, k=4) for line in asked for h in line}
    cache = model.user_cache(max_bytes)

    def work(number: int) -> None:
        for place, history in enumerate(asked[number]):
            if place % 7 == number % 7:
                with pytest.raises(ValueError, match="'nobody'"):
                    model.recommend([*history, "nobody"], user_cache=cache)
            item_ids, scores = model.recommend(history, k=4, user_cache=cache)
            assert item_ids == expected[tuple(history)][0]
            # What is known is not encoded again: the same sums in another order.
            assert scores == pytest.approx(expected[tuple(history)][1], abs=5e-5)
            assert cache.num_bytes <= max_bytes

    in_threads(work)
    assert cache.num_bytes == held(cache)
    assert cache.hits + cache.misses == THREADS * count
    assert model.training
    assert model.recommend(asked[0][0], k=4, user_cache=cache)[0] == expected[tuple(asked[0][0])][0]


@pytest.mark.parametrize("kind", CACHED)
@pytest.mark.parametrize("max_bytes", [0, 9000, 2**30])
def test_a_user_cache_may_be_shared(kind, max_bytes):
    check_a_shared_cache(kind, max_bytes, 12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CACHED)
@pytest.mark.parametrize("max_bytes", [0, 9000, 30_000, 2**30])
def test_a_user_cache_may_be_shared_by_many_requests(kind, max_bytes):
    check_a_shared_cache(kind, max_bytes, 200)


@pytest.mark.parametrize("kind", ["trie", "scores", "sets"])
def test_a_model_in_training_may_be_shared(kind):
    """Nobody's exit puts it back into training mode while another computes."""
    if kind == "trie":
        model = make_model(make_processor(), attention_dropout=0.5)
    else:
        model = tiny_rearec(hidden_dropout=0.5) if kind == "scores" else make_reg4rec(make_set_processor(), dropout=0.5)
    model.train()
    asked = requests(model, 6)
    expected = {tuple(h): (model.recommend(h, k=4), model.score_items(h)) for line in asked for h in line}

    def work(number: int) -> None:
        for history in asked[number]:
            lists, scores = expected[tuple(history)]
            assert model.recommend(history, k=4) == lists
            assert torch.equal(model.score_items(history), scores)

    in_threads(work)
    assert model.training


def test_each_module_is_given_its_mode_back():
    """A part that was frozen in evaluation mode stays there; so does one that alone was in training mode."""
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1)))
    for modes in ([True, True, False, False, True], [False, False, True, True, False], [False] * 5, [True] * 5):
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        with evaluation_mode(model), evaluation_mode(model):
            assert not any(module.training for module in model.modules())
        assert [module.training for module in model.modules()] == modes
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert model.training
    with evaluation_mode(model):
        model.train()  # somebody else
        with evaluation_mode(model):
            assert not model.training
        assert not model.training
    assert model.training


def test_threads_with_models_of_their_own_share_a_processor():
    """Its trie is looked at lazily; logits processors hold it."""
    processor = make_processor()
    models = [make_model(processor, seed=seed) for seed in range(2)]
    ids = processor.item_ids
    inputs = processor(histories=[ids[:3], ids[5:6]], return_tensors="pt")

    def answers(model, legal):
        output = model.generate(**inputs, num_beams=3, num_return_sequences=3, logits_processor=[legal])
        return model.recommend(ids[:3], k=5, normalize="level"), processor.batch_decode_items(output)

    expected = [answers(model, processor.trie_logits_processor()) for model in models]
    processor.trie._level_tokens.clear()
    shared = processor.trie_logits_processor()

    def work(number: int) -> None:
        for _ in range(3):
            assert answers(models[number % 2], shared) == expected[number % 2]

    in_threads(work)


def test_a_cache_of_another_model_is_refused_in_the_thread_that_asks():
    processor = make_processor()
    models = [make_model(processor, seed=seed) for seed in range(2)]
    cache = UserCache()
    models[0].recommend(processor.item_ids[:3], user_cache=cache)
    expected = models[0].recommend(processor.item_ids[:3], k=4, user_cache=cache)

    def work(number: int) -> None:
        for _ in range(4):
            if number % 2:
                with pytest.raises(ValueError, match="another model"):
                    models[1].recommend(processor.item_ids[:3], user_cache=cache)
            else:
                assert models[0].recommend(processor.item_ids[:3], k=4, user_cache=cache) == expected

    in_threads(work)
    assert (len(cache), cache.num_bytes) == (1, held(cache))
