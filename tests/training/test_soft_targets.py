"""Soft targets: a recommender's scores, summed to codes, in the loss."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import exit_code, make_model, make_processor, run_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_ensemble import tiny_ensemble
from tiny_rearec import tiny_rearec
from tiny_s2gr import make_s2gr
from tiny_stream import make_stream
from tiny_tiger import make_tiger

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.collator import NextItemCollator, PackedCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.packing import PackedExamples
from hf_genrec.data.prepared import PreparedData
from hf_genrec.decoding.code_loss import SoftTargets, code_loss
from hf_genrec.method import load_method, load_model, methods
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.code_shares import CodeShares
from hf_genrec.training.soft_targets import (
    SoftTargetCollator,
    SoftTargetMaker,
    recommender_shares,
    set_soft_targets,
)
from hf_genrec.training.trainer import GenRecTrainer

pytestmark = pytest.mark.libraries


# ---- the formula, item by item ----


def loss_item_by_item(logits, target, token_ids, scores, candidates, alpha, smoothing, legal_temperature, cross):
    """The sum over a target's codes for one history: (L, V) logits, (N,) scores."""
    loss = 0.0
    for level, row in enumerate(logits):
        prefix = token_ids[target][:level]
        below = [item for item in range(len(token_ids)) if token_ids[item][:level] == prefix]
        scored = [item for item in below if item in candidates]
        partition = sum(math.exp(scores[item]) for item in scored)
        weights = dict.fromkeys(range(len(row)), 0.0)
        weights[token_ids[target][level]] = 1 - alpha
        for item in scored:
            weights[token_ids[item][level]] += alpha * math.exp(scores[item]) / partition
        legal = sorted({token_ids[item][level] for item in below})
        among, tau = (range(len(row)), 1.0) if legal_temperature is None else (legal, legal_temperature)
        total = sum(math.exp(row[token] / tau) for token in among)
        probability = {token: math.exp(row[token] / tau) / total for token in among}
        if cross:
            hard = -sum(weights[token] * math.log(probability[token]) for token in among)
        else:
            hard = -math.log(sum(weights[token] * probability[token] for token in among))
        loss += (1 - smoothing) * hard - smoothing * sum(map(math.log, probability.values())) / len(probability)
    return loss


@st.composite
def catalogues(draw):
    """Token ids of items, some of them shared; levels may have tokens in common."""
    levels = draw(st.integers(1, 4))
    row = st.lists(st.integers(0, 3), min_size=levels, max_size=levels)
    return draw(st.lists(row, min_size=1, max_size=12))


@settings(max_examples=80, deadline=None)
@given(
    token_ids=catalogues(),
    alpha=st.sampled_from([0.1, 0.5, 1.0]),
    beta=st.sampled_from([0.5, 1.0, 2.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
    legal_temperature=st.sampled_from([None, 1.0, 4.5]),
    cross=st.booleans(),
    data=st.data(),
)
def test_it_is_the_sum_over_all_items(token_ids, alpha, beta, smoothing, legal_temperature, cross, data):
    count, levels = len(token_ids), len(token_ids[0])
    candidates = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    targets = data.draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    states, vectors = (3 * torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in (len(targets), count))
    logits = 3 * torch.randn(len(targets), levels, 6, dtype=torch.float64, generator=generator)

    table = torch.tensor(token_ids)
    codes, of_targets = CodeShares(ItemTrie.from_token_ids(table), np.array(candidates)), table[targets]
    shares = codes.shares(vectors[codes.order] @ states.T / beta, codes.path(of_targets))
    maker = SoftTargetMaker(codes, of_targets, shares, alpha, legal_temperature, cross)
    order = torch.randperm(len(targets), generator=generator)
    made = maker(order)
    torch.testing.assert_close(
        made["log_weights"].exp().sum(-1), torch.ones(len(targets) * levels, dtype=torch.float64)
    )
    found = code_loss(logits[order], of_targets[order], smoothing, made)
    scores = (states @ vectors.T / beta).tolist()
    expected = sum(
        loss_item_by_item(
            logits[i].tolist(), target, token_ids, scores[i], candidates, alpha, smoothing, legal_temperature, cross
        )
        for i, target in enumerate(targets)
    )
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("legal_temperature", [None, 2.0])
@pytest.mark.parametrize(
    "make",
    [make_tiger, lambda processor: make_tiger(processor, level_heads=True), make_s2gr, make_stream],
    ids=["one head", "a head for each level", "thinking", "thinking tokens"],
)
def test_an_encoder_decoder_compares_its_codes_with_them(make, alpha, legal_temperature):
    processor = make_processor()
    model = make(processor).eval()
    rows = [3, 0, 17]
    labels = torch.from_numpy(processor.token_ids[rows])
    codes = CodeShares(processor.trie)
    scores = torch.randn(len(processor.item_ids), len(rows), generator=torch.Generator().manual_seed(0))
    made = SoftTargetMaker(codes, labels, codes.shares(scores, codes.path(labels)), alpha, legal_temperature)
    soft_targets = made(torch.arange(len(rows)))
    inputs = processor.prompts([np.array([1, 2]), np.array([5]), np.array([], dtype=np.int64)])
    with torch.no_grad():
        output = model(**inputs, labels=labels, soft_targets=soft_targets)
        plain = model(**inputs, labels=labels)
    found, of_labels = ((o.losses or {"code": o.loss})["code"] for o in (output, plain))
    # Its own logits give the other levels' codes nothing, whichever head it has.
    expected = code_loss(output.logits, labels, soft_targets=soft_targets) / labels.numel()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (abs(found - of_labels) < 1e-5) == (alpha == 0 and legal_temperature is None)
    if alpha:
        assert output.loss.item() == pytest.approx((plain.loss + found - of_labels).item(), rel=1e-5)


def test_by_hand():
    """Three items, codes 0 2, 0 3 and 1 2, at even odds: two thirds go on with code 0, and half of those with 3."""
    codes = CodeShares(ItemTrie.from_token_ids([[0, 2], [0, 3], [1, 2]]))
    token_ids = torch.tensor([[0, 3], [1, 2]])
    shares = codes.shares(torch.zeros(3, 2), codes.path(token_ids))
    torch.testing.assert_close(shares, torch.tensor([[2, 1, 1.5, 1.5], [2, 1, 3, 0]]) / 3)
    made = SoftTargetMaker(codes, token_ids, shares, 0.3, 1.0)(torch.tensor([1, 0]))
    expected = torch.tensor([[0.2, 0.8], [1, 0], [0.9, 0.1], [0.15, 0.85]])  # of items 1 2, then 0 3
    torch.testing.assert_close(made["log_weights"].exp(), expected)
    assert made["legal"].tolist() == [[True, True], [True, False], [True, True], [True, True]]
    assert made["tokens"][[0, 2, 3]].tolist() == [[0, 1], [0, 1], [2, 3]]
    assert made["tokens"][1, 0] == 2


def test_without_weight_it_is_the_cross_entropy():
    """Over the whole vocabulary, and with logits of codes that no item goes on with closed."""
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.tensor([[0, 2], [0, 3], [1, 2]])
    logits, labels = torch.randn(3, 2, 5, generator=generator), token_ids
    codes = CodeShares(ItemTrie.from_token_ids(token_ids))
    plain = SoftTargetMaker(codes, token_ids)(torch.arange(3))
    torch.testing.assert_close(code_loss(logits, labels, 0.1, plain), code_loss(logits, labels, 0.1))
    legal = SoftTargetMaker(codes, token_ids, legal_temperature=2.0)(torch.arange(3))
    closed = torch.full_like(logits, -torch.inf)
    for place in ((..., 0, [0, 1]), (0, 1, [2, 3]), (1, 1, [2, 3]), (2, 1, [2])):
        closed[place] = logits[place] / 2
    torch.testing.assert_close(code_loss(logits, labels, 0.0, legal), code_loss(closed, labels))


def test_the_gradient_leans_to_what_both_find_likely():
    """P - q, q the weights times P, scaled to 1 (TCA4Rec, section 2 of the loss)."""
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1]], requires_grad=True)
    weights = torch.tensor([[0.7, 0.2, 0.1]])
    made: SoftTargets = {"tokens": torch.tensor([[0, 1, 3]]), "log_weights": weights.log()}
    code_loss(logits, torch.tensor([0]), 0.0, made).backward()
    probabilities = logits.detach().softmax(-1)
    leaning = torch.tensor([[0.7, 0.2, 0.0, 0.1]]) * probabilities
    torch.testing.assert_close(logits.grad, probabilities - leaning / leaning.sum())


def test_other_codes_than_are_labelled_are_refused():
    made: SoftTargets = {"tokens": torch.zeros(2, 1, dtype=torch.long), "log_weights": torch.zeros(2, 1)}
    with pytest.raises(ValueError, match="soft targets of 2 codes for 3 labels"):
        code_loss(torch.zeros(4, 5), torch.tensor([0, 1, -100, 2]), 0.0, made)


# ---- in a training ----

HISTORY = 4
USERS = [np.array(user) for user in ([3, 1, 4, 1, 5, 9, 2], [6, 5], [3], [8, 9, 7, 9, 3, 2], [])]


def a_maker(processor, targets, legal_temperature=None):
    """Soft targets of random states."""
    users, positions = np.array([(u, p) for u, user in enumerate(USERS) for p in range(len(user))]).T
    if targets == "last":
        users = np.flatnonzero([len(user) for user in USERS])
        positions = np.array([len(USERS[user]) - 1 for user in users])
    rows = [USERS[user][position] for user, position in zip(users, positions, strict=True)]
    token_ids, codes = torch.from_numpy(processor.token_ids[rows]), CodeShares(processor.trie)
    scores = torch.randn(40, len(rows), generator=torch.Generator().manual_seed(0))
    shares = codes.shares(scores, codes.path(token_ids))
    return SoftTargetMaker(codes, token_ids, shares, 0.3, legal_temperature), token_ids


@pytest.mark.parametrize("targets", ["all", "last"])
@pytest.mark.parametrize("legal_temperature", [None, 2.0])
def test_packed_rows_have_the_loss_of_a_row_per_target(targets, legal_temperature):
    processor = make_processor(max_history=HISTORY)
    model = make_model(processor)
    maker, token_ids = a_maker(processor, targets, legal_temperature)
    packed = PackedExamples(USERS, targets, HISTORY, processor.num_levels, row_tokens=40)
    rows = NextItemExamples(USERS, targets, HISTORY)
    losses = []
    for examples, collator in ((packed, PackedCollator(processor)), (rows, NextItemCollator(processor))):
        rows_of_batch = [examples[i] for i in range(len(examples))]
        numbers = np.concatenate([np.atleast_1d(row["target_numbers"]) for row in rows_of_batch])
        assert sorted(numbers) == list(range(len(token_ids)))
        batch = SoftTargetCollator(collator, maker)(rows_of_batch)
        assert torch.equal(batch["labels"][batch["labels"] >= 0].view(-1, processor.num_levels), token_ids[numbers])
        losses.append(model(**batch).loss)
        del batch["soft_targets"]
        assert losses[-1] != model(**batch).loss
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_shares_are_those_of_the_recommenders_scores(monkeypatch):
    model, processor = tiny_rearec(), make_processor(num_items=30)
    histories = [np.array(history) for history in ([1, 2, 3], [], [5], [7, 1, 2, 9])]
    token_ids = torch.from_numpy(processor.token_ids[[4, 1, 29, 4]])
    codes = CodeShares(processor.trie, np.arange(1, 30))
    scores = model.score_rows(histories, codes.order.numpy()).T / 2
    expected = codes.shares(scores.clone(), codes.path(token_ids))
    found = [recommender_shares(model, histories, token_ids, processor.trie, np.arange(1, 30), 2.0)]
    monkeypatch.setattr("hf_genrec.training.soft_targets.MAX_SCORES", 60)  # two histories at a time
    found.append(recommender_shares(model, histories, token_ids, processor.trie, np.arange(1, 30), 2.0))
    for shares in found:
        torch.testing.assert_close(shares, expected)


def test_an_ensemble_gives_the_shares_of_its_weighted_scores():
    processor, together = make_processor(num_items=30), tiny_ensemble((1.0, 0.5), searching=0)
    histories = [np.array([1, 2, 3]), np.array([5])]
    token_ids = torch.from_numpy(processor.token_ids[[4, 9]])
    codes = CodeShares(processor.trie, np.arange(30))
    order = codes.order.numpy()
    first, second = (member.score_rows(histories, order) for member in together.members)
    expected = codes.shares(((first + 0.5 * second) / 1.5).T, codes.path(token_ids))
    found = recommender_shares(together, histories, token_ids, processor.trie, np.arange(30), 1.5)
    torch.testing.assert_close(found, expected)


def a_trainer(folder, sequences, recommender, **keys):
    """A trainer of a model of the recommender's 30 items, with soft targets set, and what the recommender was asked."""
    processor = make_processor(num_items=30, max_history=HISTORY)
    processor.item_ids = recommender.processor.item_ids
    recommender.save_pretrained(folder / "recommender/model")
    arguments = GenRecTrainingArguments(
        output_dir=str(folder / "run"),
        soft_targets_run=str(folder / "recommender"),
        use_cpu=True,
        eval_strategy="no",
        load_best_model_at_end=False,
        **keys,
    )
    examples = NextItemExamples(sequences, "all", HISTORY)
    trainer = GenRecTrainer(
        make_model(processor), arguments, train_dataset=examples, data_collator=NextItemCollator(processor)
    )
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        prompts = ItemProcessor.prompts
        patch.setattr(ItemProcessor, "prompts", lambda self, rows: asked.extend(rows) or prompts(self, rows))
        set_soft_targets(trainer)
    return trainer, asked


def test_no_validation_or_test_item_enters(tmp_path):
    """Of two splits with the same training items and others held out, the soft targets are the same to the last bit."""
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 20, size) for size in (9, 5, 1, 12)]
    made = []
    for name, held_out in (("one", [21, 22]), ("other", [29, 3])):
        prepared = PreparedData(
            user_ids=list("abcd"),
            item_ids=[f"i{row}" for row in range(30)],
            items=None,
            sequences=[np.append(sequence, held_out) for sequence in train],
            num_validation=np.ones(4, dtype=np.int64),
            num_test=np.ones(4, dtype=np.int64),
            report={},
        )
        trainer, asked = a_trainer(tmp_path / name, prepared.train_sequences(), tiny_rearec())
        prefixes = {tuple(user[max(place - 9, 0) : place]) for user in train for place in range(len(user))}
        assert {tuple(history) for history in asked} == prefixes
        assert trainer.soft_targets_report["candidates"] == len(set(np.concatenate(train)))
        made.append(trainer.data_collator.maker(torch.arange(sum(map(len, train)))))
    assert torch.equal(made[0]["log_weights"], made[1]["log_weights"])


def test_an_item_without_training_interactions_has_no_share(tmp_path):
    trainer, _ = a_trainer(tmp_path, [np.arange(12)], tiny_rearec(), soft_targets_weight=1.0)
    made, processor = trainer.data_collator.maker(torch.arange(12)), trainer.model.processor
    tokens, weights = (made[name].view(12, 3, -1)[:, 0] for name in ("tokens", "log_weights"))
    assert set(tokens[weights.exp() > 0].tolist()) == set(processor.token_ids[:12, 0].tolist())
    assert set(processor.token_ids[:, 0]) > set(processor.token_ids[:12, 0])


def test_a_weight_of_zero_asks_nobody(tmp_path):
    trainer, asked = a_trainer(tmp_path, [np.arange(12)], tiny_rearec(), soft_targets_weight=0.0)
    assert asked == []
    assert isinstance(trainer.data_collator, NextItemCollator)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"soft_targets_weight": 1.5}, "soft_targets_weight 1.5: give a share from 0 to 1"),
        ({"soft_targets_loss": "kl"}, "soft_targets_loss: 'kl' is not expectation or cross_entropy"),
        ({"soft_targets_temperature": 0.0}, "soft_targets_temperature 0.0: give a number above 0"),
        ({"legal_codes_temperature": 4.5}, "legal_codes_temperature is read with legal_codes_only: true"),
    ],
)
def test_keys_that_make_no_sense(tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        GenRecTrainingArguments(output_dir=str(tmp_path), **keys)


# ---- a run ----


@pytest.fixture(scope="module")
def runs(own_data, rearec_config, tmp_path_factory):
    """Configurations of a finished recommender and of a model of codes on the same data."""
    folder = tmp_path_factory.mktemp("soft")
    split = "split: leave_one_out\ndisable_tqdm: true\n"
    for name, path in (("teacher", rearec_config), ("codes", own_data / "mine.yaml")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith(("output_dir", "num_train"))]
        text = "\n".join(lines) + f"\n{split}num_train_epochs: 2\noutput_dir: {folder}/{name}\n"
        (folder / f"{name}.yaml").write_text(text)
    assert exit_code("prepare", "--config", folder / "teacher.yaml") == 0
    assert exit_code("train", "--config", folder / "teacher.yaml") == 0
    run_pipeline(folder / "codes.yaml")
    return folder


def trained(runs, tmp_path, *options):
    """The codes' run with soft targets of the teacher, in a folder of its own: the folder, and the exit code."""
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    for part in ("data", "semantic_ids"):
        (run / part).exists() or (run / part).symlink_to(runs / "codes" / part)
    options = ["--output_dir", run, "--soft_targets_run", runs / "teacher", *options]
    return run, exit_code("train", "--config", runs / "codes.yaml", *options)


def test_a_weight_of_zero_is_the_plain_training_to_the_last_bit(runs, tmp_path):
    run, code = trained(runs, tmp_path, "--soft_targets_weight", "0")
    assert code == 0
    plain, found = (load_file(folder / "model/model.safetensors") for folder in (runs / "codes", run))
    assert plain.keys() == found.keys()
    assert all(torch.equal(plain[name], found[name]) for name in plain)
    assert "soft_targets" not in json.loads((run / "results/training.json").read_text())


def test_a_run_says_what_its_targets_were(runs, tmp_path, capsys):
    teacher = tmp_path / "teacher"
    shutil.copytree(runs / "teacher/model", teacher / "model")
    options = ("--soft_targets_run", teacher, "--soft_targets_weight", "0.3", "--soft_targets_temperature", "2")
    run, code = trained(runs, tmp_path, *options)
    assert code == 0
    report = json.loads((run / "results/training.json").read_text())["soft_targets"]
    assert (report["weight"], report["temperature"], report["legal_codes_only"]) == (0.3, 2.0, False)
    assert report["run"] == str(teacher)
    assert report["candidates"] == (load_model(teacher / "model").processor.popularity > 0).sum()
    made_from = json.loads((run / "model/lineage.json").read_text())["made_from"]
    assert made_from["soft_targets"] == report["recommender"]
    plain, found = (load_file(folder / "model/model.safetensors") for folder in (runs / "codes", run))
    assert any(not torch.equal(plain[name], found[name]) for name in plain)
    # Nothing of it is left in the model.
    assert load_model(run / "model").config.to_dict().keys() == load_model(runs / "codes/model").config.to_dict().keys()

    # It goes on with the same recommender alone.
    assert trained(runs, tmp_path, *options, "--resume_from_checkpoint", "last")[1] == 0
    weights = load_file(teacher / "model/model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, teacher / "model/model.safetensors")
    capsys.readouterr()
    assert trained(runs, tmp_path, *options, "--resume_from_checkpoint", "last")[1] == 2
    assert "another state of the recommender of soft_targets_run than is there now" in capsys.readouterr().err


def test_legal_codes_only_needs_no_recommender(runs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for part in ("data", "semantic_ids"):
        (run / part).symlink_to(runs / "codes" / part)
    options = ("--output_dir", run, "--legal_codes_only", "true", "--legal_codes_temperature", "1.5")
    assert exit_code("train", "--config", runs / "codes.yaml", *options) == 0
    report = json.loads((run / "results/training.json").read_text())["soft_targets"]
    assert (report["legal_codes_only"], report["legal_codes_temperature"]) == (True, 1.5)
    assert "run" not in report


def test_a_recommender_that_cannot_serve_is_refused_in_one_line(runs, tmp_path, capsys):
    def refused(teacher):
        capsys.readouterr()
        assert trained(runs, tmp_path, "--soft_targets_run", teacher)[1] == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    assert f"soft_targets_run: {tmp_path}/model holds no model; train one with method: " in refused(tmp_path)
    assert "it must be one of " in refused(runs / "codes")
    other = tmp_path / "other"
    split = ("--split", "global_time", "--validation_time", "1600004500000", "--test_time", "1600006500000")
    text = (runs / "teacher.yaml").read_text().replace("split: leave_one_out\n", "")
    (tmp_path / "other.yaml").write_text(text)
    options = ("--config", tmp_path / "other.yaml", "--output_dir", other)
    assert exit_code("prepare", *options, *split) == 0
    assert exit_code("train", *options) == 0
    line = refused(other)
    assert f"{other}/model was trained on other data" in line
    assert "train the run that soft_targets_run names on the same data" in line


def test_methods_without_a_loss_of_codes_do_not_know_the_keys(runs, capsys):
    for name in methods():
        if not load_method(name).soft_targets:
            assert exit_code("train", "--method", name, "--output_dir", runs / "x", "--soft_targets_run", "y") == 2
            assert "option --soft_targets_run belongs to method: " in capsys.readouterr().err
