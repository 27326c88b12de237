import random
import typing
from types import SimpleNamespace

import pytest
import yaml
from conftest import exit_code
from transformers.training_args import ParallelMode

from hf_genrec.method import default_method
from hf_genrec.post_training.grpo_arguments import parse_grpo_config
from hf_genrec.post_training.grpo_keys import GRPO_KINDS
from hf_genrec.training.config import _run_kinds, find_config, parse_config, shipped_configs
from hf_genrec.training.given_values import checked_value, kinds_of
from hf_genrec.training.known_keys import DeclaredArguments
from hf_genrec.training.trainer_checks import check_of_trainer

pytestmark = pytest.mark.libraries

ODD = [
    "yes", "true", "1.5", "-1", "0", "1e999", ".inf", ".nan", "999999999999999999999", "[]", "[1, 2]", "[[1]]", "{}",
    "{a: 1}", "12:30:45", "2020-01-01", "0x10", "9..9", "null", "''", '"a\\0b"', '"\\ud800"', "['a', 'b']", "&a [*a]",
    "[true]", "[.nan]", "4611686018427387904", "text", "!!int 5.5", "!!binary xx", "!!set {a, b}", "x" * 9000,
    "9" * 5000, "[" * 3000,
]  # fmt: skip
NAMES = sorted(shipped_configs() | shipped_configs(post_training=True))


def parse(name, path):
    return (parse_grpo_config if name.startswith("grpo") else parse_config)(str(path))


def classes_of(name, content):
    kind = GRPO_KINDS["grpo"] if name.startswith("grpo") else _run_kinds()[content.get("method", default_method())]
    return [cls.load() if isinstance(cls, DeclaredArguments) else cls for cls in kind.classes]


def has_kind(value, hint):
    """Whether a value is of an annotation; written anew, to check the one that is tested."""
    entries = typing.get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if typing.get_origin(hint) is typing.Literal:
        return value in entries
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(has_kind(entry, entries[0]) for entry in value)
    if typing.get_origin(hint) is dict or hint is dict:
        return isinstance(value, dict)
    if entries:
        return any(has_kind(value, entry) for entry in entries)
    if hint is float:
        return type(value) in (int, float) and abs(value) < float("inf")
    return type(value) is hint or (isinstance(value, str) and issubclass(hint, str))


@pytest.mark.parametrize("name", NAMES)
def test_odd_values_end_in_one_line_or_are_of_the_right_kind(name, tmp_path):
    """A seeded draw of every key of a configuration with every odd value."""
    content = yaml.safe_load(find_config(name).read_text())
    classes = classes_of(name, content)
    kinds, path = kinds_of(classes), tmp_path / "odd.yaml"
    lines = {}
    for key, odd in random.Random(name).sample([(key, odd) for key in content for odd in ODD], 40):
        path.write_text(
            yaml.safe_dump({other: content[other] for other in content if other != key}) + f"{key}: {odd}\n"
        )
        try:
            config = parse(name, path)
        except (ValueError, ImportError) as error:
            lines[key, odd] = str(error)
            continue
        groups = [config] if name.startswith("grpo") else [config.data, config.tokenizer, config.model, config.training]
        (group,) = [group for group in groups if hasattr(group, key)]
        assert has_kind(getattr(group, key), kinds[key]), (key, odd, getattr(group, key))
    assert len(lines) > 20
    for given, line in lines.items():
        assert line.startswith(str(path)), given
        assert "\n" not in line, given
        assert len(line) < 700, given
        assert "values that cannot be used" not in line, (given, line)


def test_every_key_refuses_what_no_key_can_be():
    kinds = kinds_of(classes_of("care/mine", {}))
    for key, kind in kinds.items():
        for value in (object(), b"x", {1: 2}, [[[]]], float("nan"), 10**30):
            with pytest.raises(ValueError, match=f"^{key}[: ]"):
                checked_value(key, value, kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: yes", "learning_rate: 'yes' is not a number"),
        ("learning_rate: true", "learning_rate: True is not a number"),
        ("tokenizer_epochs: yes", "tokenizer_epochs: 'yes' is not a whole number"),
        ("warmup_steps: 12:30:45", "warmup_steps: '12:30:45' is not a number"),
        ("seed: 1\nlearning_rate: 1\nseed: 2", "key 'seed' stands twice, in lines 2 and 4: leave one out"),
        ("time_column: [a]", r"time_column: \['a'\] is not text or null"),
        ("title_column: []", r"title_column: \[\] is not text"),
        ("user_core: 999999999999999999999", "user_core: 999999999999999999999 is out of range"),
        ("gradient_accumulation_steps: 0", "gradient_accumulation_steps: 0 is out of range: give a number from 1"),
        ("method: care\nbase_model: -1", "base_model: -1 is not text or null: put it in quotes"),
        ("method: care\nprogressive: true", "progressive: True is not a list of true or false"),
        ("metric_for_best_model: loss@3", "metric_for_best_model: 'loss@3' is not measured"),
        ("remove_unused_columns: true", "remove_unused_columns: true takes history and target"),
        ("log_level: loud", "log_level: 'loud' is not one of detail, debug"),
        ("lr_scheduler_type: [1]", r"lr_scheduler_type: \[1\] is not one of linear, cosine"),
        ("lr_scheduler_kwargs: text", "lr_scheduler_kwargs: 'text' is no mapping"),
        ("lr_scheduler_kwargs: {a: 1}", "lr_scheduler_kwargs: .*'a'.*: give what lr_scheduler_type cosine has"),
        ("lr_scheduler_kwargs: {num_cycles: a}", "lr_scheduler_kwargs: .*: give what lr_scheduler_type cosine has"),
        ("lr_scheduler_type: warmup_stable_decay", "lr_scheduler_kwargs: {} cannot be used .*num_decay_steps"),
        ("optim_args: zz", "optim_args: zz cannot be used .*: give key=value, of adamw_torch"),
        ("report_to: zz", r"report_to: \['zz'\] cannot be used .*: install its package, or name another"),
        ("report_to: comet_ml", r"report_to: \['comet_ml'\] cannot be used .*: install its package"),
        ("push_to_hub: true", "push_to_hub: true uploads while it trains: leave it out"),
        ("greater_is_better: false", "greater_is_better: false chooses the checkpoint that is worst in ndcg@10"),
        ("max_steps: 0", "max_steps: 0 trains nothing"),
        ("num_train_epochs: 0", "num_train_epochs: 0 trains nothing"),
        ("num_hidden_layers: 1000000", "num_hidden_layers=1000000: give at least 1 and at most 1,000"),
        (
            "method: care\nnum_queries: [4611686018427387904]",
            "num_queries=4611686018427387904: give at least 0 and at most",
        ),
        ("dataloader_num_workers: 100000", "dataloader_num_workers: 100000 is out of range: give a number from 0 to"),
        ("method: rearec\nnum_reasoning_steps: 4611686018427387904", "num_reasoning_steps=4611686018427387904: give"),
        ("codebook_sizes: [100000000]", "codebook_sizes: 100000000 is out of range: give a number from 1 to 1,048,576"),
        ("a: &a [*a]", r"line 2: \*a repeats a list or mapping: write it out"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", r"line 3: \*a repeats a list or mapping"),
        ("seed: " + "[" * 100_000, "line 2: lists and mappings are nested more than 20 deep"),
        ("run_name: " + "x" * 10_000_000, "is larger than 1,048,576 bytes, and no configuration"),
        ("? [1, 2]\n: 3", "line 2: a list or mapping is no key"),
        ("output_dir: ''", "stands twice"),
    ],
)
def test_values_that_no_key_can_have(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(f"output_dir: x\n{text}\n")
    with pytest.raises(ValueError, match=message) as error:
        parse_config(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning_rate", "nan"], "learning_rate: nan is out of range"),
        (["--seed", "-5"], "seed: -5 is out of range"),
        (["--method", "care", "--num_queries", "1", "9" * 30], "num_queries: 9+ is out of range"),
        (["--run_name", "x" * 9000], "run_name: .* has 9,000 characters"),
        (["--lr_scheduler_kwargs", "text"], "lr_scheduler_kwargs: 'text' is no mapping"),
        (["--output_dir", ""], "command line: output_dir is empty: name the run folder"),
        (["--output_dir="], "output_dir is empty"),
        (["--max_steps", "0"], "max_steps: 0 trains nothing"),
    ],
)
def test_options_are_checked_as_the_file_is(options, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_config(None, ["--output_dir", "x", *options])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["lr_scheduler_type: reduce_lr_on_plateau", "lr_scheduler_type: greedy", "optim: adafactor\noptim_args: eps=1",
     "max_steps: 3\nnum_train_epochs: 0", "num_train_epochs: 0.1", "greater_is_better: null",
     "lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2}", "report_to: none"],
)  # fmt: skip
def test_settings_of_the_trainer_that_are_right(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"output_dir: x\n{text}\n")
    parse_config(str(path))


def test_sharding_in_one_process():
    arguments = SimpleNamespace(push_to_hub=False, fsdp="full_shard", parallel_mode=ParallelMode.NOT_PARALLEL)
    with pytest.raises(ValueError, match="fsdp: this is the only process: start several by torchrun, or leave it out"):
        check_of_trainer(arguments)


@pytest.mark.parametrize("folder", ["''", "' '"])
@pytest.mark.parametrize("command", ["prepare", "tokenize", "train"])
def test_a_run_folder_without_a_name(tmp_path, capsys, command, folder):
    path = tmp_path / "c.yaml"
    path.write_text(f"output_dir: {folder}\n")
    assert exit_code(command, "--config", path) == 2
    assert f"{path}: output_dir is empty: name the run folder" in capsys.readouterr().err


def test_what_a_configuration_says_in_yaml_1_2(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "output_dir: x\nlearning_rate: 1e-3\nseed: 1_0\npacking: off\neval_strategy: no\nload_best_model_at_end: no\n"
        "split: global_time\nvalidation_time: 1420070400000\ntest_time: 2016-01-31\ntext_model: 2020-01-01\n"
        "max_steps: '7'\nrun_name: &name mine\nproject: *name\ncodebook_sizes: null\n"
    )
    config = parse_config(str(path))
    training, data = config.training, config.data
    assert (training.learning_rate, training.seed, training.packing, training.max_steps) == (1e-3, 10, False, 7)
    assert (training.eval_strategy, training.load_best_model_at_end) == ("no", False)
    assert (data.validation_time, data.test_time) == ("1420070400000", "2016-01-31")
    assert (config.tokenizer.text_model, training.project) == ("2020-01-01", "mine")
    assert config.tokenizer.codebook_sizes == [256] * 3
