"""STREAM by the same commands as the others: its traces, what they are made of, and what is kept of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import USERS, config_beside, exit_code, run_command, run_pipeline
from finished_runs import check_a_strangers_list, check_evaluated
from killed_trainings import check_a_killed_training
from safetensors.torch import load_file
from torch.nn import functional

from hf_genrec.data.examples import target_positions
from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model
from hf_genrec.methods.stream import training_stream
from hf_genrec.methods.stream.annotation import hard_negatives, random_traces, residual_traces, similar_traces
from hf_genrec.methods.stream.arguments import StreamArguments
from hf_genrec.methods.stream.training_stream import build_trainer
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries

SMALL = """
codebook_sizes: [4, 4, 4]
max_history: 8
hidden_size: 16
intermediate_size: 32
num_encoder_layers: 1
num_hidden_layers: 2
num_attention_heads: 2
head_dim: 8
per_device_train_batch_size: 32
learning_rate: 0.003
logging_steps: 1
use_cpu: true
"""


@pytest.fixture(scope="module")
def stage1(own_data):
    """A run of TIGER."""
    keys = f"method: tiger\nnum_train_epochs: 2\noutput_dir: {own_data}/stream-stage1\n"
    run_pipeline(config_beside(own_data, "stage1.yaml", SMALL + keys))
    return own_data / "stream-stage1"


@pytest.fixture(scope="module")
def config(own_data, stage1):
    keys = f"method: stream\nnum_train_epochs: 3\nstage1_run: {stage1}\noutput_dir: {own_data}/stream-run\n"
    return config_beside(own_data, "stream.yaml", SMALL + keys)


@pytest.fixture(scope="module")
def trained(config, own_data):
    run_pipeline(config)
    return own_data / "stream-run"


def without_stage1(config):
    """The configuration without a first stage."""
    alone = config.with_name("stream-alone.yaml")
    alone.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith("stage1_run")))
    return alone


def in_folder(config, source, folder, *options):
    """The configuration with another run folder, on the data and codes of `source`."""
    for part in ("data", "semantic_ids"):
        if not (folder / part).exists():
            shutil.copytree(source / part, folder / part)
    return parse_config(str(config), ["--output_dir", str(folder), *options])


def training_targets(folder):
    """Histories, targets, users and positions of all training targets."""
    sequences = PreparedData.load(folder / "data").train_sequences()
    users, positions = target_positions(sequences, "all")
    histories = [sequences[user][max(place - 8, 0) : place] for user, place in zip(users, positions, strict=True)]
    return histories, np.array([sequences[user][place] for user, place in zip(users, positions, strict=True)])


def test_the_report(trained):
    record = json.loads((trained / "results/training.json").read_text())
    kept = json.loads((trained / "traces/traces.json").read_text())["kept_share"]
    assert record["num_targets"] == round(kept * USERS * 6)
    lines = [line for line in record["log"] if "loss" in line]
    for line in lines:
        terms = [line[f"loss_{name}"] for name in ("code", "trace", "state", "quantization")]
        assert line["loss"] == pytest.approx(sum(terms) + 0.1 * line["loss_preference"], rel=1e-4)
    for name in ("code", "trace", "state"):
        assert sum(line[f"loss_{name}"] for line in lines[-5:]) < sum(line[f"loss_{name}"] for line in lines[:5])


def test_how_many_thinking_tokens_are_the_targets_own_codes(stage1, trained):
    tokens = load_file(trained / "traces/traces.safetensors")["tokens"].tolist()
    model, (_, targets) = load_model(stage1 / "model"), training_targets(stage1)
    own = 0
    for trace, target in zip(tokens, targets, strict=True):
        codes = model.processor.token_ids[target].tolist()
        own += sum(token == codes[place % len(codes)] for place, token in enumerate(trace))
    share = json.loads((trained / "traces/traces.json").read_text())["own_share"]
    assert 0 < share == pytest.approx(own / (len(tokens) * len(tokens[0])))


@pytest.mark.parametrize("of", ["tiger", "stream"])
def test_a_trace_is_of_the_nearest_codes(stage1, trained, of):
    """Against a decoder without a cache, and distances to every code of the level."""
    model = load_model((stage1 if of == "tiger" else trained) / "model")
    histories, targets = training_targets(stage1)
    histories, targets = histories[:40], targets[:40]
    found, useful = residual_traces(model, histories, targets, 5)
    processor, table = model.processor, functional.normalize(model.shared.weight, dim=-1)
    for line, (history, target) in enumerate(zip(histories, targets, strict=True)):
        prompts = processor.prompts([history])
        goal = functional.normalize(model.shared.weight[torch.from_numpy(processor.token_ids[target])].mean(0), dim=0)
        written, states = [processor.answer_token_id], []
        for place in range(6):
            with torch.no_grad():
                hidden = model.decoder(
                    input_ids=torch.tensor([written]),
                    encoder_hidden_states=model.encoder(**prompts).last_hidden_state,
                    use_cache=False,
                ).last_hidden_state[0].sum(0)  # fmt: skip
                states.append(functional.normalize(hidden if of == "tiger" else model.state_map(hidden), dim=0))
                left = goal - states[-1]
                left = left if of == "tiger" else model.residual_map(left)
            if place < 5:
                level = range(4 * (place % 3), 4 * (place % 3) + 4)
                distances = {token: (table[token] - left).norm().item() for token in level}
                assert found[line, place] == min(distances, key=distances.get)
                written.append(int(found[line, place]))
        assert useful[line] == (states[-1] @ goal >= states[0] @ goal)


def test_annotation_sees_training_items_alone(config, trained, tmp_path, monkeypatch):
    seen = []
    for name in ("residual_traces", "hard_negatives"):
        original = getattr(training_stream, name)

        def watched(model, histories, targets, *more, original=original):
            seen.append(
                [np.append(history, target).tolist() for history, target in zip(histories, targets, strict=True)]
            )
            return original(model, histories, targets, *more)

        monkeypatch.setattr(training_stream, name, watched)
    build_trainer(in_folder(config, trained, tmp_path))
    histories, targets = training_targets(trained)
    expected = [np.append(history, target).tolist() for history, target in zip(histories, targets, strict=True)]
    assert seen == [expected, expected]
    prepared = PreparedData.load(trained / "data")
    for whole, train in zip(prepared.sequences, prepared.train_sequences(), strict=True):
        assert len(train) == len(whole) - 2  # what is held out is no part of them
        np.testing.assert_array_equal(train, whole[:-2])


def test_traces_are_kept_and_read_by_the_same_settings_alone(config, trained, tmp_path, monkeypatch):
    first = build_trainer(in_folder(config, trained, tmp_path))
    made = []
    make = training_stream.make_traces
    monkeypatch.setattr(training_stream, "make_traces", lambda *given: made.append(given) or make(*given))
    again = build_trainer(in_folder(config, trained, tmp_path))
    assert not made
    assert again.earlier_cpu_seconds > 0
    for index in (0, 7):
        one, other = first.train_dataset[index], again.train_dataset[index]
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert one.keys() == other.keys() >= {"trace", "rejected", "margin"}
    build_trainer(in_folder(config, trained, tmp_path, "--learning_rate", "0.1"))
    assert not made
    for options in (("--num_thinking_tokens", "2"), ("--preference_weight", "0"), ("--traces", "random")):
        build_trainer(in_folder(config, trained, tmp_path, *options))
        assert made
        made.clear()
    build_trainer(in_folder(config, trained, tmp_path, "--traces", "random", "--seed", "5"))
    assert made


def test_random_traces_of_the_same_targets(config, trained, tmp_path):
    """The control: the same targets and lengths, other codes of the same levels."""
    trainer = build_trainer(in_folder(config, trained, tmp_path, "--traces", "random"))
    ours = build_trainer(in_folder(config, trained, tmp_path / "residual"))
    examples, residual = trainer.train_dataset, ours.train_dataset
    np.testing.assert_array_equal(examples.traces.kept, residual.traces.kept)
    assert examples.traces.tokens.shape == residual.traces.tokens.shape
    assert (examples.traces.tokens // 4 == [0, 1, 2, 0]).all()
    assert (residual.traces.tokens // 4 == [0, 1, 2, 0]).all()
    counts = np.bincount(examples.traces.tokens[:, 0], minlength=4)
    assert counts.min() > 0.5 * counts.mean()
    assert trainer.model.config.quantization_weight == 0
    np.testing.assert_array_equal(random_traces([4, 2], 9, 3, 1), random_traces([4, 2], 9, 3, 1))
    alone = build_trainer(in_folder(without_stage1(config), trained, tmp_path / "alone", "--traces", "random"))
    assert len(alone.train_dataset) == USERS * 6
    assert "rejected" not in alone.train_dataset[0]


def test_it_starts_from_the_weights_of_stage_1(config, trained, stage1, tmp_path):
    model = build_trainer(in_folder(config, trained, tmp_path)).model
    theirs = load_model(stage1 / "model").state_dict()
    for name, weight in model.state_dict().items():
        if name in theirs:
            assert torch.equal(weight, theirs[name]), name
        elif "outer" in name:
            assert not weight.any()
    # Once more from the result, MLPs included.
    again = build_trainer(in_folder(config, trained, tmp_path / "again", "--stage1_run", str(trained))).model
    for name, weight in load_model(trained / "model").state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_what_stage_1_must_be(config, trained, stage1, tmp_path):
    with pytest.raises(ValueError, match="name one as stage1_run, or set traces: random"):
        build_trainer(in_folder(without_stage1(config), trained, tmp_path))
    with pytest.raises(ValueError, match=r"stage1_run: .*do not fit the configuration.*Train it with the same sizes"):
        build_trainer(in_folder(config, trained, tmp_path, "--hidden_size", "8"))
    other = tmp_path / "other"
    shutil.copytree(stage1, other)
    table = json.loads((other / "semantic_ids/semantic_ids.json").read_text())
    (other / "semantic_ids/semantic_ids.json").write_text(json.dumps(table | {"fingerprint": "another"}))
    with pytest.raises(ValueError, match=r"stage1_run: the codes of .* are others than those in"):
        build_trainer(in_folder(config, trained, tmp_path, "--stage1_run", str(other)))


def test_the_hard_negative_is_the_best_other_item(stage1):
    model = load_model(stage1 / "model")
    histories, targets = training_targets(stage1)
    histories, targets = histories[:30], targets[:30]
    rejected, margins = hard_negatives(model, histories, targets)
    with torch.no_grad():
        scores = model.score_rows(histories, np.arange(len(model.processor.item_ids))).numpy()
    for line, target in enumerate(targets):
        others = scores[line].copy()
        others[target] = -np.inf
        assert scores[line, rejected[line]] == pytest.approx(others.max(), abs=1e-4)
        assert margins[line] == pytest.approx(scores[line, target] - others.max(), abs=1e-4)


def test_similar_items_are_the_nearest_and_not_itself():
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [2.0, 0.1]])
    token_ids = np.array([[0, 2], [0, 3], [1, 2], [1, 3]])
    found = similar_traces(vectors, token_ids, 4)
    assert found[0].tolist() == [1, 3, 0, 3]  # items 3, 1
    assert found[2].tolist() == [0, 3, 1, 3]  # items 1, 3
    for length in (3, 8, 0):
        with pytest.raises(ValueError, match="give a multiple of that, for fewer items than the 4"):
            similar_traces(vectors, token_ids, length)


def test_a_stage_1_on_similar_items(config, trained, tmp_path, monkeypatch):
    """The codes of similar items stand before the target's, and the loss is that of the tokens alone."""
    prepared = PreparedData.load(trained / "data")
    np.save(tmp_path / "texts.npy", np.random.default_rng(0).normal(size=(len(prepared.item_ids), 5)))
    options = ("--traces", "similar", "--num_thinking_tokens", "6")
    monkeypatch.setattr(training_stream, "text_vectors", lambda items, arguments: np.load(tmp_path / "texts.npy"))
    parsed = in_folder(without_stage1(config), trained, tmp_path / "similar", *options)
    trainer = build_trainer(parsed)
    example = trainer.train_dataset[3]
    vectors = np.load(tmp_path / "texts.npy")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors[example["target"]]
    near[example["target"]] = -np.inf
    expected = trainer.model.processor.token_ids[np.argsort(-near)[:2]].flatten()
    assert example["trace"].tolist() == expected.tolist()
    assert trainer.model.state_map is None
    losses = trainer.model(**trainer.data_collator([example])).losses
    assert losses.keys() == {"code", "trace"}


def test_evaluate_card_and_stranger(trained, monkeypatch, capsys):
    card = check_evaluated(monkeypatch, capsys, trained, "STREAM", "AutoModelForSeq2SeqLM")
    assert "| thinking tokens | 4 |" in card
    run_command(monkeypatch, capsys, "refresh", trained)
    check_a_strangers_list(monkeypatch, capsys, trained, "AutoModelForSeq2SeqLM")


def test_a_killed_training_ends_with_the_same_weights(trained, config, own_data):
    check_a_killed_training(config, trained, own_data / "stream-killed")


def test_no_thinking_trains_tiger(trained, config, tmp_path):
    """The same weights after the same training, by either name."""
    found = []
    for method in ("stream", "tiger"):
        folder = tmp_path / method
        for part in ("data", "semantic_ids"):
            shutil.copytree(trained / part, folder / part)
        own = tmp_path / f"{method}.yaml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith(("method", "stage1_run"))]
        lines += [f"method: {method}", *(["num_thinking_tokens: 0"] if method == "stream" else [])]
        own.write_text("\n".join(lines) + "\n")
        assert exit_code("train", "--config", own, "--output_dir", folder, "--num_train_epochs", "1") == 0
        found.append(load_model(folder / "model").state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_arguments():
    for wrong in ({"traces": "mine"}, {"num_thinking_tokens": -1}, {"temperature": 0}, {"state_weight": -1}):
        with pytest.raises(ValueError, match=r"traces|num_thinking_tokens|temperature|state_weight"):
            StreamArguments(**wrong)
