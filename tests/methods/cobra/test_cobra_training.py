"""What COBRA trains on, its losses, and that it learns: codes, vectors, and items that it has never seen."""

import numpy as np
import pytest
import torch
from conftest import check_accumulated_batches, check_hard_gates
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cobra import make_cobra, make_cobra_processor

from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.data.windows import ItemWindows
from hf_genrec.methods.cobra.arguments import CobraArguments
from hf_genrec.methods.cobra.cobra_collator import CascadeCollator
from hf_genrec.methods.cobra.cobra_trainer import CobraTrainer
from hf_genrec.methods.cobra.processing_cobra import CobraProcessor
from hf_genrec.methods.cobra.training_cobra import build_cobra
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.arguments import GenRecTrainingArguments

pytestmark = pytest.mark.libraries

MAX_HISTORY = 4
PROCESSOR = make_cobra_processor(12, (3, 4), MAX_HISTORY)

sequences = st.lists(st.lists(st.integers(0, 11), max_size=17), min_size=1, max_size=6).filter(any)


@settings(max_examples=60, deadline=None)
@given(sequences, st.sampled_from(["all", "last"]), st.booleans())
def test_each_target_is_trained_once_behind_what_stands_before_it(users, targets, packing):
    arrays = [np.array(user, dtype=np.int64) for user in users]
    rows = ItemWindows(arrays, targets, MAX_HISTORY, packing)
    expected = [
        (tuple(user[:place]), item)
        for user in users
        for place, item in enumerate(user)
        if targets == "all" or place == len(user) - 1
    ]
    found, batch = [], CascadeCollator(PROCESSOR)([rows[row] for row in range(len(rows))])
    width, first = PROCESSOR.tokens_per_item, PROCESSOR.vocab_size
    assert batch["input_ids"].shape[1] <= 1 + width * (MAX_HISTORY + 1)
    for row, (ids, labels) in enumerate(zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)):
        assert (ids[0], labels[0]) == (PROCESSOR.answer_token_id, -100)
        items = [token - first for token in ids[width::width] if token >= first]
        assert len(items) == rows.lengths[row]
        assert ids[1 : 1 + width * len(items)] == PROCESSOR.item_tokens(np.array(items)).tolist()
        for place, item in enumerate(items):
            of_item = slice(1 + place * width, 1 + (place + 1) * width)
            if labels[of_item.stop - 1] == -100:
                assert set(labels[of_item]) == {-100}
                continue
            assert labels[of_item] == ids[of_item]
            found.append((tuple(items[:place]), item))
        assert set(labels[1 + width * len(items) :]) <= {-100}
    assert len(found) == rows.num_targets
    assert rows.labels_per_row == pytest.approx(len(found) / len(rows))
    for (history, item), (whole, target) in zip(sorted_by_user(found, expected), expected, strict=True):
        assert item == target
        assert history == whole[len(whole) - len(history) :]
        least = MAX_HISTORY if not packing else (MAX_HISTORY + 1) // 2
        assert len(history) >= min(len(whole), least)


def sorted_by_user(found, expected):
    """Rows come user by user and in order, as the targets do."""
    assert len(found) == len(expected)
    return found


def test_no_target_is_left():
    with pytest.raises(ValueError, match="The training sequences are empty"):
        ItemWindows([np.array([], dtype=np.int64)], "all", MAX_HISTORY)


def batch_of(model, users):
    rows = ItemWindows([np.array(user, dtype=np.int64) for user in users], "all", MAX_HISTORY)
    return CascadeCollator(model.processor)([rows[row] for row in range(len(rows))])


def test_routers_and_pools_learn_and_their_losses_are_added():
    model = make_cobra(PROCESSOR, shared_kv_pool_size=8, shared_kv_user_dim=1).train()
    batch = batch_of(model, [[1, 2, 3], [4]])
    outputs = model(**batch)
    outputs.loss.backward()
    for layer in model.model.layers:
        for part in (layer.shared.key, layer.shared.value):
            assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())
    losses, config = outputs.losses, model.config
    expected = losses["sparse"] + config.dense_loss_weight * losses["dense"]
    expected += 0.01 * losses["peak"] + 0.01 * losses["balance"]
    assert outputs.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    # Padding is not seen: a row alone and the same row beside a longer one have the same routers' losses.
    alone = model(**batch_of(model, [[4]])).losses
    padded = batch_of(model, [[4], [1, 2, 3]])
    narrow = {name: padded[name][:1] for name in ("input_ids", "labels")}
    assert narrow["input_ids"].shape[1] > batch_of(model, [[4]])["input_ids"].shape[1]
    beside = model(**narrow).losses
    for name in ("peak", "balance"):
        assert beside[name].item() == pytest.approx(alone[name].item(), abs=1e-6)


def test_hard_gates_train_what_is_served():
    model = make_cobra(PROCESSOR, shared_kv_pool_size=8, shared_kv_user_dim=0).double()
    check_hard_gates(model, batch_of(model, [[1, 2, 3], [4]]), least=1e-4)


@pytest.mark.parametrize("negatives", ["catalogue", "batch", "other_users"])
def test_losses_are_those_of_each_target_alone(negatives):
    """By the scores of single items: the codes' log-probability, and a softmax over cosines."""
    model = make_cobra(PROCESSOR, negatives=negatives, dense_loss_weight=0.5)
    users = [[3, 4, 3], [4], [5, 9]]
    output = model(**batch_of(model, users))
    sparse, dense, targets = 0.0, 0.0, [(user[:n], user[n]) for user in users for n in range(len(user))]
    of_user = [number for number, user in enumerate(users) for _ in user]
    items = np.arange(12) if negatives == "catalogue" else np.array([3, 4, 5, 9])
    for place, (history, target) in enumerate(targets):
        history = np.array(history, dtype=np.int64)
        sparse -= model.score_rows([history], np.array([target]), "sparse").item() / 2
        # The vector behind the target's codes, whatever item is scored with it.
        tokens = [model.config.answer_token_id, *PROCESSOR.item_tokens(history), *PROCESSOR.token_ids[target]]
        state = model.model(torch.tensor([tokens])).last_hidden_state[0, -1]
        if negatives == "other_users":
            others = [item for other, (_, item) in enumerate(targets) if of_user[other] != of_user[place]]
            among, label = np.array([target, *others]), 0
        else:
            among, label = items, items.tolist().index(target)
        cosines = torch.cosine_similarity(state, model.model.items()[among], dim=-1)
        dense -= (cosines / model.config.dense_temperature).log_softmax(0)[label].item()
    assert output.losses["sparse"].item() == pytest.approx(sparse / 6, rel=1e-5)
    assert output.losses["dense"].item() == pytest.approx(dense / 6, rel=1e-5)
    assert output.loss.item() == pytest.approx((sparse + 0.5 * dense) / 6, rel=1e-5)


def test_logits_are_those_of_the_next_level():
    model = make_cobra(PROCESSOR)
    batch = batch_of(model, [[3, 4]])
    logits = model(**batch).logits[0]
    first = model.config.codebook_sizes[0]
    for place in (0, 3):  # behind the answer token, behind a vector
        assert logits[place, :first].exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert torch.isneginf(logits[place, first:]).all()
    assert logits[1, first : first + 4].exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.isneginf(logits[1, :first]).all()


def test_with_negatives_of_other_users_no_targets_vector_is_moved():
    """But by what is read of it; without another user there is nothing to tell a target from."""
    for negatives in ("other_users", "batch"):
        model = make_cobra(PROCESSOR, negatives=negatives)
        output = model(**batch_of(model, [[7], [2]]))
        output.losses["dense"].backward()
        moved = model.model.items.down.weight.grad
        assert (moved is not None and bool(moved.abs().sum() > 0)) == (negatives == "batch")


ITEMS, USERS = 12, 40


@pytest.fixture(scope="module")
def likes():
    """Even users like even items."""
    rng = np.random.default_rng(0)
    return [rng.permutation(np.arange(user % 2, ITEMS, 2)) for user in range(USERS)]


def codes_of(rows):
    """Even or odd, and one of three groups: two items share each pair of codes."""
    return np.stack([rows % 2, rows // 2 % 3], axis=-1)


def text_of(rows):
    """A part for either code, and what is the item's own."""
    own = np.random.default_rng(1).normal(size=(ITEMS + 12, 3))[rows]
    return np.concatenate([3 * np.eye(2)[rows % 2], 2 * np.eye(3)[rows // 2 % 3], own], axis=1)


def make_trainer(likes, folder, fields=None, **settings) -> CobraTrainer:
    torch.manual_seed(0)
    rows, processor = np.arange(ITEMS), CobraProcessor(code_tokenizer([2, 3]), [2, 3], max_history=6)
    processor.set_catalogue([f"item-{row}" for row in rows], codes_of(rows), popularity=np.ones(ITEMS))
    arguments = CobraArguments(
        **{"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "dropout": 0.0} | (fields or {})
    )
    training = {
        "output_dir": str(folder),
        "num_train_epochs": 20,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    } | settings
    split = EvaluationSplit("validation", ["u"], [likes[0][:-1]], [likes[0][-1:]])
    return CobraTrainer(
        build_cobra(arguments, processor, text_of(rows)),
        GenRecTrainingArguments(**training),
        train_dataset=ItemWindows([user[:-1] for user in likes], "all", 6),
        eval_dataset=split,
        data_collator=CascadeCollator(processor),
    )


@pytest.mark.parametrize("own", [False, True])
def test_it_learns_codes_and_vectors_and_moves_every_weight(likes, tmp_path, own):
    trainer = make_trainer(likes, tmp_path, {"item_embeddings": own})
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert {"loss_sparse", "loss_dense"} <= lines[0].keys()
    for name in ("loss_sparse", "loss_dense"):
        assert np.mean([line[name] for line in lines[-5:]]) < np.mean([line[name] for line in lines[:5]]) - 0.3
    assert [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])] == []
    for retrieval in ("fusion", "sparse", "dense"):
        rows, _ = trainer.model.recommend_rows([user[:3] for user in likes], 6, retrieval=retrieval)
        right = [np.mean(line % 2 == user[0] % 2) for line, user in zip(rows, likes, strict=True)]
        # One dense vector stands for one item's neighbourhood, not for all that a user likes.
        assert np.mean(right) > (0.6 if retrieval == "dense" else 0.95), retrieval


def test_a_cold_item_is_found_by_its_text(likes, tmp_path):
    """
    Items that nobody has had yet, with the codes that their text gets: those of the kind that a user likes are found,
    and where codes are shared their vectors place some of them before items that are known.
    """
    trainer = make_trainer(likes, tmp_path)
    trainer.train()
    model, new = trainer.model, np.arange(ITEMS, ITEMS + 12)
    model.add_items([f"new-{row}" for row in new], codes_of(new), text_of(new))
    histories = [user[:3] for user in likes]
    overtaken = {}
    for retrieval in ("fusion", "sparse"):
        rows, _ = model.recommend_rows(histories, 9, retrieval=retrieval)
        for line, user in zip(rows, likes, strict=True):
            cold = line[line >= ITEMS]
            assert len(cold) >= 2
            assert (cold % 2 == user[0] % 2).all()
        overtaken[retrieval] = sum(
            tuple(codes_of(one)) == tuple(codes_of(other))
            for line in rows
            for place, one in enumerate(line[line >= 0])
            for other in line[place + 1 :]
            if one >= ITEMS > other
        )
    assert overtaken["fusion"] > len(likes) / 2
    assert overtaken["sparse"] == 0  # without interactions they are the last of their leaf


def test_accumulated_batches(likes, tmp_path):
    check_accumulated_batches(lambda **settings: make_trainer(likes, tmp_path, **settings), 8)


def test_keys_that_are_refused():
    with pytest.raises(ValueError, match="retrieval='all': use one of"):
        CobraArguments(retrieval="all")
