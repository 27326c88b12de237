"""Post-training as a program: from a trained run to another run folder like any other."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ITEMS, USERS, make_processor
from learned_tokenizers import make_rq_vae
from safetensors.torch import load_file

from hf_genrec.data.prepared import PreparedData
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.method import load_model
from hf_genrec.methods.reg4rec.arguments import Reg4RecArguments
from hf_genrec.methods.reg4rec.training_reg4rec import build_reg4rec, build_set_processor
from hf_genrec.post_training.build_grpo import code_vectors, load_policy
from hf_genrec.post_training.grpo_arguments import parse_grpo_config
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.trainers import evaluate_run, prepare_data, tokenize_items, train, train_grpo
from hf_genrec.training import trainer
from hf_genrec.training.config import find_config, parse_config, shipped_configs

pytestmark = pytest.mark.libraries

OPTIONS = {
    "num_generations": 4, "per_device_train_batch_size": 32, "max_steps": 4, "eval_steps": 2, "save_steps": 2,
    "save_total_limit": 3, "logging_steps": 1, "learning_rate": 0.003, "use_cpu": "true", "report_to": "none",
    "disable_tqdm": "true",
}  # fmt: skip


def post_train(source, target, **options):
    settings = OPTIONS | {"pretrained": source, "output_dir": target} | options
    overrides = [part for name, value in settings.items() for part in (f"--{name}", *str(value).split())]
    train_grpo.main(parse_grpo_config(None, overrides))
    return json.loads((target / "results/training.json").read_text())


@pytest.fixture(scope="module")
def source(own_data, tmp_path_factory):
    """A run of CARE, trained for an epoch with dropout."""
    folder = tmp_path_factory.mktemp("grpo") / "source"
    config = parse_config(
        str(own_data / "mine.yaml"), ["--output_dir", str(folder), "--num_train_epochs", "1", "--report_to", "none"]
    )
    prepare_data.main(config)
    tokenize_items.main(config)
    train.main(config)
    return folder


@pytest.fixture(scope="module")
def result(source):
    target = source.parent / "result"
    return target, post_train(source, target, horizon=2, rewards="hit prefix rank", reward_weights="1 0.5 0.5")


def test_the_run_folder_is_like_any_other(source, result):
    target, record = result
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    files = [path for path in (target / "model").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".py", ".safetensors", ".md"}
    assert (target / "model/item_tokenizer/config.json").is_file()
    arguments = json.loads((target / "model/training_args.json").read_text())
    assert (arguments["method"], arguments["pretrained"]) == ("grpo", str(source))
    assert record["steps"] == 4
    assert record["num_targets"] == USERS * 6  # of 8 items two are held out
    lines = [line for line in record["log"] if "reward" in line]
    assert len(lines) == 4
    weighted = (1.0, 0.5, 0.5)
    for line in lines:
        rewards = [line[f"rewards/{name}/mean"] for name in ("hit", "prefix", "rank")]
        assert line["reward"] == pytest.approx(np.dot(weighted, rewards), abs=1e-5)
    by_step = {line["step"]: line["eval_ndcg@10"] for line in record["log"] if "eval_ndcg@10" in line}
    assert set(by_step) == {0, 2, 4}  # the model it starts from, too
    assert record["best_validation_ndcg@10"] == max(by_step.values()) == by_step[record["best_step"]]
    best = load_file(target / f"checkpoints/checkpoint-{record['best_step']}/model.safetensors")
    saved = load_file(target / "model/model.safetensors")
    assert all(torch.equal(best[name], saved[name]) for name in best)


def test_it_starts_from_the_source_and_evaluates_and_recommends(source, result):
    target, record = result
    before = load_file(source / "model/model.safetensors")
    after = load_file(target / "checkpoints/checkpoint-4/model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    start = json.loads((source / "results/training.json").read_text())["best_validation_ndcg@10"]
    assert next(line["eval_ndcg@10"] for line in record["log"] if "eval_ndcg@10" in line) == pytest.approx(start)
    results = evaluate_run.main(str(target), "validation", exclude_seen=False)
    assert results["CARE"].metrics["ndcg@10"] == pytest.approx(record["best_validation_ndcg@10"])
    model = load_model(target / "model")
    # Chosen anew, for what it has become.
    figures = record["seen_items"]["ndcg@10"]
    assert figures["history_in_lists"] == record["best_validation_ndcg@10"]
    assert model.processor.exclude_seen is (figures["history_left_out"] > figures["history_in_lists"])
    assert len(model.recommend(["f01", "f03"], k=5)[0]) == 5
    # The source has dropout; post-training does without.
    assert load_model(source / "model").config.attention_dropout == 0.1
    assert model.config.attention_dropout == load_policy(source / "model").config.attention_dropout == 0.0
    assert load_policy(source / "model", disable_dropout=False).config.attention_dropout == 0.1


def test_it_knows_what_it_starts_from(source, own_data, tmp_path):
    """Other data, other codes or another model than before are refused, and nothing is written."""
    run, target = tmp_path / "run", tmp_path / "target"
    shutil.copytree(source, run)
    post_train(run, target, max_steps=2)
    before = (target / "model/model.safetensors").read_bytes()

    def made_with(*options):
        return parse_config(str(own_data / "mine.yaml"), ["--output_dir", str(run), *options])

    changes = {
        "data": (
            lambda: prepare_data.main(made_with("--item_core", "9")),
            "was trained on other data|another catalogue",
        ),
        "semantic_ids": (lambda: tokenize_items.main(made_with("--tokenizer_seed", "8")), "was made anew since"),
    }
    for part, (change, message) in changes.items():
        shutil.copytree(run / part, tmp_path / part)
        change()
        for folder in (target, tmp_path / "other"):
            with pytest.raises(ValueError, match=message):
                post_train(run, folder, max_steps=2, resume_from_checkpoint="last")
        shutil.rmtree(run / part)
        shutil.move(tmp_path / part, run / part)
    assert not (tmp_path / "other").exists()

    shutil.rmtree(run / "checkpoints")
    train.main(made_with("--num_train_epochs", "1", "--seed", "9"))
    with pytest.raises(ValueError, match="another state of the model to start from"):
        post_train(run, target, max_steps=2, resume_from_checkpoint="last")
    assert (target / "model/model.safetensors").read_bytes() == before


def test_a_finished_one_stays_as_it_is(result):
    target, record = result
    before = (target / "model/model.safetensors").read_bytes()
    options = {"horizon": 2, "rewards": "hit prefix rank", "reward_weights": "1 0.5 0.5"}
    again = post_train(target.parent / "source", target, **options, resume_from_checkpoint="last")
    assert again["steps"] == record["steps"] == 4
    assert again["best_validation_ndcg@10"] == record["best_validation_ndcg@10"]
    assert (target / "model/model.safetensors").read_bytes() == before


def test_it_goes_on_after_an_interruption(source, result):
    whole, _ = result
    target = source.parent / "resumed"
    shutil.copytree(whole, target, ignore=shutil.ignore_patterns("model", "results", "checkpoint-4"))
    options = {"horizon": 2, "rewards": "hit prefix rank", "reward_weights": "1 0.5 0.5"}
    with pytest.raises(ValueError, match="holds checkpoints of an earlier training"):
        post_train(source, target, **options)
    again = post_train(source, target, **options, resume_from_checkpoint="last")
    assert again["resumed_from"] == str(target / "checkpoints/checkpoint-2")
    expected, found = (load_file(run / "checkpoints/checkpoint-4/model.safetensors") for run in (whole, target))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_adapters_leave_a_whole_model(source):
    target = source.parent / "lora"
    post_train(source, target, lora_r=4, learning_rate=0.01)
    model, before = load_model(target / "model"), load_model(source / "model")
    assert model.num_parameters() == before.num_parameters()
    assert len(model.recommend(["f01", "f03"], k=ITEMS, exclude_seen=False)[0]) == ITEMS
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert "model.query_embeddings.weight" in changed
    assert "model.embed_tokens.weight" not in changed
    assert any("q_proj" in name for name in changed)


def test_the_precision_of_layers_is_decided(source):
    record = post_train(source, source.parent / "ladq", layer_precision="adaptive", layer_precision_steps=2)
    decisions = [line for line in record["log"] if "layer_precision" in line]
    assert [line["step"] for line in decisions] == [0, 2]
    weights = load_file(source.parent / "ladq/model/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.fixture(scope="module")
def reg4rec_source(source):
    """A run of REG4Rec on the same data and codes, with random weights."""
    folder = source.parent / "reg4rec"
    for part in ("data", "semantic_ids"):
        shutil.copytree(source / part, folder / part)
    prepared, semantic_ids = PreparedData.load(source / "data"), SemanticIds.load(source / "semantic_ids")
    arguments = Reg4RecArguments(hidden_size=16, intermediate_size=32, category_column="title")
    torch.manual_seed(0)
    model = build_reg4rec(arguments, build_set_processor(prepared, semantic_ids, 8, arguments))
    model.save_pretrained(folder / "model")
    shutil.copytree(source / "semantic_ids/item_tokenizer", folder / "model/item_tokenizer")
    shutil.copy(source / "model/lineage.json", folder / "model")
    return folder


def test_reg4rec_with_its_four_rewards(reg4rec_source):
    target = reg4rec_source.parent / "reg4rec-grpo"
    names = ["step_hit", "category_hit", "consistency", "path"]
    record = post_train(
        reg4rec_source, target, rewards=" ".join(names), horizon=3, path_errors=1, path_top_n=3,
        layer_precision="adaptive", layer_precision_steps=3,
    )  # fmt: skip
    lines = [line for line in record["log"] if "reward" in line]
    assert all(0 <= line[f"rewards/{name}/mean"] <= 1 for line in lines for name in names)
    assert max(line["rewards/path/mean"] for line in lines) > 0
    model = load_model(target / "model")
    assert model.config.model_type == "reg4rec"
    assert len(model.recommend(["f01", "f03"], k=5)[0]) == 5
    assert evaluate_run.main(str(target), "validation").keys() >= {"most popular"}


def test_codewords_by_token(source):
    """An item's codewords add up to what the item tokenizer decodes its codes to; added codes have none."""
    processor = load_model(source / "model").processor
    folder = source / "model/item_tokenizer"
    vectors = code_vectors(processor, folder)
    tokenizer = ResidualKMeansTokenizer.from_pretrained(folder)
    levels = len(tokenizer.codebooks)
    expected = tokenizer.decode(processor.codes[:, :levels])
    torch.testing.assert_close(torch.from_numpy(vectors[processor.token_ids].sum(axis=1)), expected)
    assert not vectors[processor.answer_token_id].any()
    with pytest.raises(FileNotFoundError, match="path adds up codewords of the item tokenizer"):
        code_vectors(processor, source / "nothing")


def test_the_item_tokenizers_own_code_is_not_run(tmp_path):
    """That of a run from somewhere else is nobody's we know."""
    make_rq_vae(sizes=(5, 6, 7)).save_pretrained(tmp_path / "item_tokenizer")
    for path in (tmp_path / "item_tokenizer").glob("*.py"):
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code_vectors(make_processor(), tmp_path / "item_tokenizer")
    config = tmp_path / "item_tokenizer/config.json"
    config.write_text(config.read_text().replace('"rq_vae"', '"mine"'))
    with pytest.raises(ValueError, match=r"config\.json is of an item tokenizer of type 'mine', which is none of"):
        code_vectors(make_processor(), tmp_path / "item_tokenizer")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": "hit path"}, "'path' is none of this model's, which are hit, rank, prefix"),
        ({"output_dir": "{source}"}, "pretrained and output_dir are both"),
        ({"pretrained": "{source}/nothing"}, "holds no trained model"),
        ({"hidden_size": 3}, "option --hidden_size belongs to method: care, and this is method: grpo"),
        ({"num_generation": 3}, "unknown option --num_generation, did you mean 'num_generations'"),
        ({"method": "care"}, "method: 'care' is not one of grpo"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, options, message):
    options = {name: str(value).format(source=source) for name, value in options.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        post_train(source, options.pop("output_dir", tmp_path / "run"), **options)
    assert "\n" not in str(error.value)


def test_a_run_to_start_from_must_be_named(tmp_path):
    with pytest.raises(ValueError, match="pretrained is missing"):
        train_grpo.main(parse_grpo_config(None, ["--output_dir", str(tmp_path)]))


@pytest.mark.parametrize("name", shipped_configs(post_training=True))
def test_shipped_configurations_parse_and_are_short(name):
    arguments, text = parse_grpo_config(name), find_config(name).read_text()
    assert arguments.output_dir.startswith("runs/")
    assert arguments.pretrained.startswith("runs/")
    assert text.startswith(f"# hf-genrec grpo --config {name} ")
    assert len(text.splitlines()) <= 60


@pytest.mark.slow  # a program in two processes, each loading torch
def test_two_processes_sample_groups_of_their_own(source):
    target = source.parent / "ddp"
    options = OPTIONS | {"pretrained": source, "output_dir": target, "per_device_train_batch_size": 16}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "hf_genrec.trainers.train_grpo"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    finished = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads((target / "results/training.json").read_text())
    assert (record["num_processes"], record["steps"]) == (2, 4)
    lines = [line for line in record["log"] if "reward" in line]
    assert len(lines) == 4
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    start = json.loads((source / "results/training.json").read_text())["best_validation_ndcg@10"]
    assert next(line["eval_ndcg@10"] for line in record["log"] if "eval_ndcg@10" in line) == pytest.approx(start)


@pytest.mark.parametrize("adapters", [{}, {"lora_r": 4}], ids=["weights", "lora"])
def test_where_no_checkpoint_is_better_the_result_is_what_it_started_from(
    source, tmp_path, caplog, monkeypatch, adapters
):
    falling = iter((0.3, 0.2, 0.1))
    monkeypatch.setattr(trainer, "ndcg_at_k", lambda rows, targets, k: np.full(len(rows), next(falling)))
    record = post_train(source, tmp_path / "run", **adapters)
    assert record["best_step"] == 0
    assert record["best_validation_ndcg@10"] == pytest.approx(0.3)
    said = "of all checkpoints the model it started from has the best validation NDCG@10 (0.3000)"
    assert said in caplog.text
    files = source / "model", tmp_path / "run/model"
    before, after = (load_file(folder / "model.safetensors") for folder in files)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
