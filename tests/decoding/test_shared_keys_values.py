"""Keys and values from a pool: the paper's formulas, the same answers from a user's record and plain models as ever."""

import copy

import numpy as np
import pytest
import torch
from conftest import check_hard_gates, make_model, make_processor
from tiny_stream import make_stream
from tiny_tiger import make_tiger
from torch import nn

from hf_genrec import load
from hf_genrec.decoding.shared_keys_values import SharedKeysValues, SharedProjection, route_losses, shared_losses
from hf_genrec.decoding.user_cache import UserCache
from hf_genrec.methods.care.earlier_care import from_earlier
from hf_genrec.post_training.build_grpo import load_policy
from hf_genrec.training.code_t5_training import start_history_pools
from hf_genrec.training.shared_pools import start_pools

PROCESSOR = make_processor()
HISTORY = ["item-3", "item-9", "item-1", "item-3"]
POOL = {"shared_kv_pool_size": 16, "shared_kv_user_dim": 2}


def by_hand() -> SharedProjection:
    """Scores of state (1, 2): 1, -2 and 3; thin part 5."""
    part = SharedProjection(2, 3, user_dim=1, pool_size=3).double()
    with torch.no_grad():
        part.user.weight.copy_(torch.tensor([[1.0, 2.0]]))
        part.user.bias.zero_()
        part.router.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]))
        part.router.bias.zero_()
        part.pool.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    return part


STATES = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]], dtype=torch.float64)  # the second: scores 0, 1, -1, thin part -2
VALID = torch.ones(1, 2, dtype=torch.bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_gates_and_look_ups_by_hand():
    part = by_hand()
    gates = sigmoid(3), sigmoid(1)
    soft = [[5.0, 5 * gates[0], 6 * gates[0]], [-2.0, 3 * gates[1], 4 * gates[1]]]
    torch.testing.assert_close(part(STATES, VALID)[0], torch.tensor(soft).double(), atol=1e-9, rtol=0)
    hard = torch.tensor([[5.0, 5, 6], [-2, 3, 4]]).double()
    part.hardness = 1.0
    torch.testing.assert_close(part(STATES, VALID)[0], hard, atol=1e-9, rtol=0)
    assert torch.equal(part.look_up(part.record(STATES))[0], hard)
    assert part.record(STATES).nbytes == 2 * (2 + 2)  # per position a float16 and a row's number


def test_losses_by_hand():
    part = by_hand().train()
    with shared_losses(part, wanted=True) as losses:
        part(STATES, VALID)
    rows = np.array([[1.0, -2, 3], [0, 1, -1]])
    mean = (np.exp(rows) / np.exp(rows).sum(1, keepdims=True)).mean(0)
    peak, balance = losses["peak"].item(), losses["balance"].item()
    assert peak == pytest.approx(-(np.log(sigmoid(3)) + np.log(sigmoid(1))) / 2, abs=1e-9)
    assert balance == pytest.approx((mean * np.log(3 * mean)).sum(), abs=1e-9)


def test_losses_do_not_see_padding():
    part = by_hand()
    with shared_losses(part, wanted=True) as expected:
        part(STATES, VALID)
    padded = torch.cat([STATES, 100 * torch.ones(1, 3, 2).double()], 1)
    with shared_losses(part, wanted=True) as losses:
        part(padded, torch.tensor([[True, True, False, False, False]]))
    torch.testing.assert_close(losses, expected, atol=1e-9, rtol=0)
    nothing = route_losses(torch.randn(1, 2, 3), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert [term.item() for term in nothing] == [0, 0]


def test_rows_up_to_the_last_of_16_bits_are_found():
    part = SharedProjection(1, 1, user_dim=0, pool_size=2**16)
    nn.init.zeros_(part.router.weight)
    for row in (0, 2**15 - 1, 2**15, 2**16 - 1):
        nn.init.zeros_(part.router.bias)
        part.router.bias.data[row] = 1
        assert torch.equal(part.look_up(part.record(torch.ones(1, 1, 1))), part.pool.weight[row].view(1, 1, 1))


def prompts(histories):
    return PROCESSOR.prompts([PROCESSOR.rows(history, where="histories") for history in histories])


def labelled(model):
    inputs = prompts([HISTORY, HISTORY[:1]])
    codes = torch.from_numpy(PROCESSOR.token_ids[[5, 7]])
    ids = torch.cat([inputs["input_ids"], codes], 1)
    mask = nn.functional.pad(inputs["attention_mask"], (0, codes.shape[1]), value=1)
    labels = torch.full_like(ids, -100)
    labels[:, -codes.shape[1] :] = codes
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_gradients_reach_routers_and_pools_and_the_losses_are_added():
    model = make_model(PROCESSOR, **POOL).train()
    batch = labelled(model)
    model(**batch).loss.backward()
    for layer in model.model.layers:
        for part in (layer.self_attn.shared.key, layer.self_attn.shared.value):
            assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())
    bare = copy.deepcopy(model)
    bare.config.shared_kv_peak_weight = bare.config.shared_kv_balance_weight = 0.0
    with shared_losses(model, wanted=True) as terms:
        outputs = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert outputs.last_hidden_state.isfinite().all()
    gap = model(**batch).loss - bare(**batch).loss
    assert gap.item() == pytest.approx(0.01 * (terms["peak"] + terms["balance"]).item(), abs=1e-5)


DEPRECATED = "ignore:.gradient_checkpointing_enable:FutureWarning"  # the newer name is not in the oldest release


def of_codes(model):
    """What an encoder-decoder is trained on."""
    return prompts([HISTORY, HISTORY[:1]]) | {"labels": torch.from_numpy(PROCESSOR.token_ids[[5, 7]])}


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize(
    ("make", "labelled"), [(make_model, labelled), (make_tiger, of_codes), (make_stream, of_codes)]
)
def test_nothing_of_a_training_forward_is_left(make, labelled):
    """Neither what a checkpoint computes again in the backward pass, nor what nobody asked for."""
    model = make(PROCESSOR, **POOL)
    batch = labelled(model)
    expected = model(**batch).loss
    model.train()
    model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**batch).loss.backward()
    copy.deepcopy(model)
    model.eval()
    assert model(**batch).loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize(("make", "labelled"), [(make_model, labelled), (make_tiger, of_codes)])
def test_checkpoints_that_drop_the_gradient_of_the_losses_are_refused(make, labelled):
    model = make(PROCESSOR, **POOL).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant: false"):
        model(**labelled(model))


def test_a_policy_has_the_gates_that_its_samples_are_drawn_with(tmp_path):
    make_model(PROCESSOR, shared_kv_pool_size=16, shared_kv_user_dim=0).save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    batch = labelled(policy)
    with torch.no_grad():
        expected = policy(**batch).logits
        torch.testing.assert_close(policy.train()(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_earlier_model_keeps_its_pool(tmp_path):
    model = make_model(PROCESSOR, **POOL)
    model.save_pretrained(tmp_path)
    names = ("codebook_sizes", "answer_token_id", "pad_token_id", "num_queries", "max_history")
    fields = {name: getattr(model.config, name) for name in names}
    same = from_earlier(str(tmp_path), 8, **fields, **POOL).eval()
    batch = labelled(model)
    torch.testing.assert_close(same(**batch).logits, model(**batch).logits)
    for other in ({}, POOL | {"shared_kv_pool_size": 32}, POOL | {"shared_kv_user_dim": 3}):
        with pytest.raises(
            ValueError, match=r"has shared_kv_\w+ \d+, this run \d+: its keys and values are of its pool"
        ):
            from_earlier(str(tmp_path), 8, **fields, **other)


def test_pools_start_from_equal_histories_and_not_from_none():
    nothing = PROCESSOR.prompts([np.array([], dtype=np.int64)] * 2)
    model = make_model(PROCESSOR, **POOL)
    attention = model.model.layers[0].self_attn
    with pytest.raises(ValueError, match="hold no history that a shared pool could start from"):
        start_pools(model, [nothing], {attention.shared: (attention.k_proj, attention.v_proj)}, seed=0)
    model = make_tiger(PROCESSOR, **POOL)
    start_history_pools(model, [nothing], seed=0)  # an encoder has the state of the answer token, the same for all
    assert model.train()(**of_codes(model)).loss < 100


def test_hard_gates_train_what_is_served():
    model = make_model(PROCESSOR, shared_kv_pool_size=16, shared_kv_user_dim=0, query_diversity_weight=0.0).double()
    check_hard_gates(model, labelled(model), least=1e-3)


@pytest.mark.parametrize("fields", [{}, {"shared_kv_user_dim": 0}, {"qk_norm": True}])
def test_second_requests_find_what_first_ones_do(fields):
    model, cache = make_model(PROCESSOR, **(POOL | fields)), UserCache()
    users = [HISTORY, [], ["item-5"]]
    for more in ([], ["item-7"], [], ["item-2", "item-8"]):
        users = [[*history, *more] for history in users]
        expected = model.recommend(users, k=5)
        found = model.recommend(users, k=5, user_cache=cache)
        assert found[0] == expected[0]
        np.testing.assert_allclose(np.concatenate(found[1]), np.concatenate(expected[1]), atol=5e-5)
    assert cache.hits == 2 * 3 + 2  # an empty history is nobody's until it has an item


def test_a_record_is_small():
    model, plain = make_model(PROCESSOR, **POOL), make_model(PROCESSOR)
    caches = UserCache(), UserCache()
    for one, cache in zip((model, plain), caches, strict=True):
        one.recommend(HISTORY, k=5, user_cache=cache)
    tokens, layers = 3 * len(HISTORY), 2
    assert caches[0].num_bytes == tokens * layers * 2 * (2 * 2 + 2)
    assert caches[1].num_bytes == tokens * layers * 2 * 2 * 8 * 4  # two heads of 8 float32


def test_without_a_pool_the_model_is_todays():
    torch.manual_seed(3)
    plain, given = make_model(PROCESSOR), make_model(PROCESSOR, shared_kv_pool_size=0, shared_kv_user_dim=5)
    assert plain.state_dict().keys() == given.state_dict().keys()
    assert not any("shared" in name for name in plain.state_dict())
    batch = labelled(plain)
    assert torch.equal(plain(**batch).logits, given(**batch).logits)


def test_saved_and_loaded(tmp_path):
    model = make_model(PROCESSOR, **POOL)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "shared_keys_values.py").is_file()
    loaded = load(tmp_path)
    cache = loaded.user_cache()
    expected = model.recommend(HISTORY, k=5)
    for _ in range(2):
        found = loaded.recommend(HISTORY, k=5, user_cache=cache)
        assert found[0] == expected[0]
    assert cache.hits == 1


def test_pools_start_where_keys_are():
    """As many rows as different states: what is looked up is what the projections give."""
    model = make_model(PROCESSOR, shared_kv_pool_size=64, shared_kv_user_dim=1)
    attention = model.model.layers[0].self_attn
    batch = prompts([[f"item-{row}" for row in range(start, start + 8)] for start in range(0, 40, 8)])
    start_pools(model, [batch], {attention.shared: (attention.k_proj, attention.v_proj)}, seed=0)
    states = model.model.layers[0].input_layernorm(model.model.embed_tokens(batch["input_ids"][:, :-1]))
    valid = torch.ones(states.shape[:2], dtype=torch.bool)
    keys, values, _ = attention.shared(states, valid)
    torch.testing.assert_close(keys, attention.k_proj(states), atol=2e-3, rtol=2e-3)  # the thin part is float16
    torch.testing.assert_close(values, attention.v_proj(states), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shared_kv_pool_size": 2**16 + 1}, "give 65536 rows or less"),
        ({"shared_kv_pool_size": 4, "shared_kv_user_dim": 16}, "leaves nothing to share"),
        ({"shared_kv_pool_size": -1}, "shared_kv_pool_size"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_model(PROCESSOR, **fields)


def test_keys_and_values_have_pools_of_their_own():
    shared = SharedKeysValues(4, 6, 1, 8).eval()
    keys, values, record = shared(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    assert keys.shape == values.shape == (2, 3, 6)
    assert record.shape == (2, 3, 2 * 2)
    assert all(torch.equal(a, b) for a, b in zip(shared.look_up(record), (keys, values), strict=True))
