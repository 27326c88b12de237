"""What S3-Rec's encoder reads, what its losses count, and what it recommends."""

import math

import numpy as np
import pytest
import torch
from tiny_s3rec import ITEMS, WIDTH, tiny_s3rec
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_genrec.hub import save_model
from hf_genrec.method import load_model
from hf_genrec.methods.s3rec.arguments import S3RecArguments
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecConfig, S3RecForNextItem, S3RecForPretraining
from hf_genrec.methods.s3rec.s3rec_losses import attribute_loss, contrast_loss, next_item_loss
from hf_genrec.methods.s3rec.s3rec_rows import PretrainingCollator, PretrainingPrefixes

pytestmark = pytest.mark.libraries

PAD, MASK, ATTRIBUTES = ITEMS, ITEMS + 1, 7
HAS = np.random.default_rng(1).random((ITEMS, ATTRIBUTES)) < 0.3


def tiny_pretraining(**fields) -> S3RecForPretraining:
    torch.manual_seed(0)
    settings = {"num_items": ITEMS, "max_history": WIDTH, "hidden_size": 8, "intermediate_size": 12}
    settings |= {"num_attributes": ATTRIBUTES, "initializer_range": 0.4}
    return S3RecForPretraining(S3RecConfig(**settings | fields)).double().eval()


@pytest.fixture
def batch():
    sequences = [np.random.default_rng(seed).integers(0, ITEMS, 4 + seed) for seed in range(4)]
    rows = PretrainingPrefixes(sequences, ITEMS, WIDTH, seed=5, mask_probability=0.3)
    return PretrainingCollator(PAD, HAS)([rows[index] for index in range(4)])


# ---- the encoder ----


@pytest.mark.parametrize("positions_from", ["newest", "oldest"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_on_either_side_changes_nothing(positions_from, causal):
    model = tiny_s3rec(positions_from=positions_from).model.double()
    history = torch.tensor([[4, 9, 2]])
    alone = model(history, causal=causal).last_hidden_state
    left = torch.cat([torch.full((1, 4), PAD), history], 1)
    right = torch.cat([history, torch.full((1, 5), PAD)], 1)
    torch.testing.assert_close(model(left, causal=causal).last_hidden_state[:, 4:], alone)
    torch.testing.assert_close(model(right, causal=causal).last_hidden_state[:, :3], alone)
    by_mask = model(torch.cat([torch.tensor([[7]]), history], 1), torch.tensor([[0, 1, 1, 1]]), causal=causal)
    torch.testing.assert_close(by_mask.last_hidden_state[:, 1:], alone)


def test_positions_are_slots_of_the_window_or_counted_from_the_oldest():
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    newest, oldest = (tiny_s3rec(positions_from=name).model.places(real) for name in ("newest", "oldest"))
    assert newest[0, 2:].tolist() == [WIDTH - 3, WIDTH - 2, WIDTH - 1]
    assert newest[1, :2].tolist() == [WIDTH - 2, WIDTH - 1]
    assert newest[2].tolist() == list(range(WIDTH - 5, WIDTH))
    assert newest[3, -1] == WIDTH - 1
    assert (oldest[0, 2:].tolist(), oldest[1, :2].tolist(), oldest[3, -1]) == ([0, 1, 2], [0, 1], 0)


def test_the_same_items_at_other_slots_have_other_states():
    """Published: the position is the slot of the window, so one more item before them moves all of them."""
    for positions_from in ("newest", "oldest"):
        model = tiny_s3rec(positions_from=positions_from).model
        short, long = torch.tensor([[4, 9]]), torch.tensor([[4, 9, 2]])
        states = [model(ids, causal=True).last_hidden_state[:, :2] for ids in (short, long)]
        assert torch.allclose(*states) == (positions_from == "oldest")


def test_later_items_are_seen_in_the_pretraining_alone():
    model = tiny_s3rec(positions_from="oldest").model
    histories = torch.tensor([[4, 9, 2], [4, 9, 5]])
    causal, both = (model(histories, causal=causal).last_hidden_state[:, 0] for causal in (True, False))
    torch.testing.assert_close(causal[0], causal[1])
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("causal", [True, False])
def test_rows_of_like_lengths_have_the_states_of_the_whole_batch(causal):
    model, rng = tiny_s3rec().model.double(), np.random.default_rng(0)
    ids = torch.full((12, WIDTH), PAD)
    for line, length in enumerate([0, 1, 2, 4, 5, 6, 8, 9, 3, 7, 1, 9]):
        place = 0 if line % 2 else WIDTH - length  # padded on either side
        ids[line, place : place + length] = torch.from_numpy(rng.integers(0, ITEMS, length))
    real = ids != PAD
    expected = model(ids, causal=causal).last_hidden_state
    torch.testing.assert_close(model.by_length(ids, real, causal=causal)[real], expected[real])


def test_too_long_a_history_is_refused():
    with pytest.raises(ValueError, match=f"cut them to the newest max_history={WIDTH}"):
        tiny_s3rec()(torch.zeros(1, WIDTH + 1, dtype=torch.int64))


# ---- the losses ----


def test_losses_by_hand():
    logits, has = torch.tensor([[0.3, -1.2], [2.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    one = -math.log(1 / (1 + math.exp(-0.3))) - math.log(1 - 1 / (1 + math.exp(1.2)))
    assert attribute_loss(logits, has, torch.tensor([True, False])).item() == pytest.approx(one, rel=1e-6)
    positive, negative = torch.tensor([0.7]), torch.tensor([-0.4])
    difference = 1 / (1 + math.exp(-0.7)) - 1 / (1 + math.exp(0.4))
    assert contrast_loss(positive, negative).item() == pytest.approx(math.log(1 + math.exp(-difference)), rel=1e-6)
    on_logits = contrast_loss(positive, negative, on_logits=True).item()
    assert on_logits == pytest.approx(math.log(1 + math.exp(-1.1)), rel=1e-6)
    table, states = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.5, 0.25]])
    pair = next_item_loss(states, table, torch.tensor([0]), torch.tensor([1])).item()
    assert pair == pytest.approx(math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(0.5)), rel=1e-6)
    assert next_item_loss(states, table, torch.tensor([0]), None).item() == pytest.approx(math.log(2), rel=1e-6)


def test_published_terms_of_items_lie_between_two_bounds():
    extreme = torch.tensor([-40.0, 40.0], dtype=torch.float64)
    low, high = contrast_loss(extreme[1:], extreme[:1]).item(), contrast_loss(extreme[:1], extreme[1:]).item()
    assert (low, high) == (pytest.approx(0.313, abs=5e-4), pytest.approx(1.313, abs=5e-4))


def test_where_all_is_masked_no_attribute_of_what_is_read_counts(batch):
    model, real = tiny_pretraining(), batch["items"] != PAD
    batch["input_ids"] = torch.where(real, MASK, PAD)
    losses = model(**batch).losses
    assert losses["aap"] == 0
    assert losses["map"] > 0


def test_items_under_no_mask_are_not_guessed(batch):
    batch["input_ids"] = batch["items"]
    losses = tiny_pretraining()(**batch).losses
    assert losses["map"] == losses["mip"] == 0
    assert losses["aap"] > 0


def test_equal_segments_are_log_two_a_row(batch):
    losses = tiny_pretraining()(**batch | {"other_segment": batch["segment"]}).losses
    assert losses["sp"].item() == pytest.approx(len(batch["items"]) * math.log(2), rel=1e-12)


def test_attributes_of_padding_do_not_matter(batch):
    """They are those of real items alone, in their order, however wide the batch is."""
    model = tiny_pretraining()
    real = batch["items"] != PAD
    assert torch.equal(batch["item_places"], real.flatten().nonzero().squeeze(1))
    assert batch["attributes"].bool().equal(torch.from_numpy(HAS)[batch["items"][real]])
    wide = {
        name: torch.nn.functional.pad(value, (1, 0), value=PAD) if value.shape == real.shape else value
        for name, value in batch.items()
        if name != "item_places"
    }
    assert model(**wide).loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-12)
    without = {name: value for name, value in batch.items() if name != "attributes"}
    with pytest.raises(ValueError, match=f"The model knows {ATTRIBUTES} attributes"):
        model(**without)


def test_the_sums_are_divided_by_what_the_trainer_says(batch):
    model = tiny_pretraining(aap_weight=0.3, mip_weight=0.5, map_weight=0.7, sp_weight=1.1)
    sums, means = model(**batch), model(**batch, num_items_in_batch=4)
    assert sums.loss.item() == pytest.approx(4 * means.loss.item(), rel=1e-12)
    weights = {"aap": 0.3, "mip": 0.5, "map": 0.7, "sp": 1.1}
    assert sums.loss.item() == pytest.approx(sum(weights[name] * term.item() for name, term in sums.losses.items()))


def test_without_attributes_two_tasks_are_left(batch):
    model = tiny_pretraining(num_attributes=0)
    del batch["attributes"]
    assert model(**batch).losses.keys() == {"mip", "sp"}
    assert not any(name.startswith(("aap", "map", "attribute")) for name in model.state_dict())


def test_every_weight_learns_but_that_of_padding(batch):
    model = tiny_pretraining(mip_on_logits=True)
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith("key.bias") or parameter.grad.abs().sum() > 0, name
    assert model.model.item_embeddings.weight.grad[PAD].abs().sum() == 0


def test_every_task_is_learned(batch):
    model = tiny_pretraining()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = {name: value.item() for name, value in model(**batch).losses.items()}
    for _ in range(40):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    after = {name: value.item() for name, value in model(**batch).losses.items()}
    assert before.keys() == {"aap", "mip", "map", "sp"}
    assert {name for name in before if not after[name] < 0.9 * before[name]} == set()


def test_fine_tuning_at_every_position_is_a_row_per_target():
    model = tiny_s3rec(positions_from="oldest").double()
    items = torch.tensor([[4, 9, 2, 7]])
    shared = model(items[:, :3], sequence_labels=items[:, 1:], negatives=torch.tensor([1, 3, 5])).loss
    rows = [
        model(items[:, :end], labels=items[:, end], negatives=torch.tensor([negative])).loss
        for end, negative in ((1, 1), (2, 3), (3, 5))
    ]
    assert shared.item() == pytest.approx(sum(row.item() for row in rows) / 3, rel=1e-12)


def test_arguments_that_do_not_go_together():
    model, ids = tiny_s3rec(), torch.tensor([[4, 9]])
    labels, negatives = torch.tensor([[-100, 3]]), torch.tensor([5])
    with pytest.raises(ValueError, match="negatives are for 'bce', which needs them"):
        model(ids, sequence_labels=labels)
    with pytest.raises(ValueError, match="negatives are for 'bce', which needs them"):
        tiny_s3rec(loss_type="softmax")(ids, sequence_labels=labels, negatives=negatives)
    with pytest.raises(ValueError, match="not both"):
        model(ids, sequence_labels=labels, labels=torch.tensor([3]), negatives=negatives)
    with pytest.raises(ValueError, match="where there is no item"):
        model(torch.tensor([[PAD, 9]]), sequence_labels=torch.tensor([[3, 4]]), negatives=torch.tensor([5, 5]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions_from": "left"}, "positions_from='left': use one of newest, oldest"),
        ({"loss_type": "hinge"}, "loss_type='hinge': use one of bce, softmax"),
        ({"hidden_size": 9}, "does not divide into 2 heads"),
        ({"sp_weight": -1.0}, "sp_weight=-1.0"),
        ({"attribute_columns": []}, "attribute_columns is empty"),
        ({"mask_probability": 1.5}, "mask_probability must be from 0 to 1, not 1.5"),
        ({"pretrain_epochs": -1}, "pretrain_epochs must be 0 or more"),
        ({"pretrain_prefixes": "two"}, "pretrain_prefixes: 'two' is not one of one, all"),
        ({"pretrain_batch_size": 0}, "pretrain_batch_size must be at least 1"),
        ({"pretrain_learning_rate": 0.0}, "pretrain_learning_rate must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_named(fields, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        S3RecArguments(**fields)


# ---- recommending ----


def test_lists_are_the_best_products_and_hold_no_padding_or_mask():
    model = tiny_s3rec().double()
    with torch.no_grad():  # both would be first
        model.model.item_embeddings.weight[PAD:] = 50 * model.model.item_embeddings.weight[:1]
    histories = [["i4", "i9", "i2"], [], ["i5"], [f"i{row}" for row in range(12)]]
    item_ids, scores = model.recommend(histories, k=ITEMS)
    for history, ids, values in zip(histories, item_ids, scores, strict=True):
        rows = torch.tensor([[int(item[1:]) for item in history[-WIDTH:]] or [PAD]])
        state = model.model(rows).last_hidden_state[0, -1]
        expected = (state @ model.model.item_embeddings.weight[:ITEMS].T).sort(descending=True)
        assert ids == [f"i{row}" for row in expected.indices.tolist()]
        assert values == pytest.approx(expected.values.tolist(), rel=1e-5)
        exact = model.score_items([history], ids)[0]
        assert exact.tolist() == pytest.approx(values, rel=1e-5)
    without, _ = model.recommend(histories, k=ITEMS, exclude_seen=True)
    assert all(
        set(ids) == set(model.processor.item_ids) - set(history)
        for history, ids in zip(histories, without, strict=True)
    )
    few, _ = model.recommend(histories, k=5, candidates=["i3", "i1", "i8"])
    assert all(sorted(ids) == ["i1", "i3", "i8"] for ids in few)


def test_a_batch_gives_what_each_history_gives():
    model = tiny_s3rec()
    histories = [["i4", "i9", "i2"], [], ["i5"], [f"i{row}" for row in range(8)]]
    for history, ids, scores in zip(histories, *model.recommend(histories, k=6), strict=True):
        alone = model.recommend(history, k=6)
        assert ids == alone[0]
        assert scores == pytest.approx(alone[1], rel=1e-4)


def test_saved_and_opened(tmp_path):
    model = tiny_s3rec()
    expected = model.recommend(["i3", "i8"], k=6)
    save_model(model, tmp_path / "model", None)
    assert load_model(tmp_path / "model").recommend(["i3", "i8"], k=6) == expected
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert isinstance(opened, S3RecForNextItem)
    assert opened.recommend(["i3", "i8"], k=6) == expected
    encoder = AutoModel.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[3, 8]])
    torch.testing.assert_close(encoder(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_another_catalogue_is_refused():
    model = tiny_s3rec()
    model.processor.add_items(["new"])
    with pytest.raises(ValueError, match="The processor has 31 items, the model 30"):
        model.recommend(["i3"])
