import pytest
from transformers import TrainerState

from hf_genrec.methods.care.arguments import CareArguments
from hf_genrec.methods.codetree.arguments import CodeTreeArguments
from hf_genrec.methods.rearec.arguments import ReaRecArguments
from hf_genrec.training.checkpoints import checkpoint_to_resume, mark_complete
from hf_genrec.training.config import find_config, parse_config, shipped_configs
from hf_genrec.training.lineage import write_lineage

pytestmark = pytest.mark.libraries


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configurations_parse_and_are_short(name):
    config = parse_config(name)
    text = find_config(name).read_text()
    assert config.run.path.as_posix().startswith("runs/")
    assert text.startswith(f"# hf-genrec prepare --config {name} ")
    assert len(text.splitlines()) <= 60


def test_options_override_the_file(tmp_path):
    path = write(tmp_path / "c.yaml", "method: care\noutput_dir: x\nhidden_size: 32\nnum_queries: [2]\nseed: 7\n")
    config = parse_config(path, ["--hidden_size", "48", "--num_queries", "1", "2", "3"])
    assert (config.model.hidden_size, config.model.num_queries, config.training.seed) == (48, [1, 2, 3], 7)


@pytest.mark.parametrize("options", [["--base_model", "null"], ["--base-model=null"]])
def test_null_on_the_command_line_is_that_of_a_file(options):
    config = parse_config("care/amazon2018-video-games", [*options, "--hidden_size", "896"])
    assert config.model.base_model is None
    assert config.model.hidden_size == 896
    with pytest.raises(ValueError, match="num_train_epochs"):  # which needs a value
        parse_config("care/ml-100k", ["--num_train_epochs", "null"])


def test_the_method_chooses_the_arguments_of_the_model(tmp_path):
    path = write(tmp_path / "c.yaml", "output_dir: x\nhidden_size: 32\ntext_columns: [title]\n")
    assert parse_config(path).model == CodeTreeArguments(hidden_size=32)
    assert parse_config(path, ["--method", "care"]).model == CareArguments(hidden_size=32)
    for options in (["--method", "rearec"], ["--method=rearec", "--backbone", "unisrec"]):
        config = parse_config(path, options)
        assert config.model == ReaRecArguments(hidden_size=32, backbone=config.model.backbone)
        assert config.tokenizer.text_columns == ["title"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("output_dir: x\nhiden_size: 3\n", [], "c.yaml: unknown key 'hiden_size', did you mean 'hidden_size'"),
        ("output_dir: x\n", ["--hiden_size", "3"], "unknown option --hiden_size, did you mean 'hidden_size'"),
        ("output_dir: x\nsplit: thirds\n", [], "c.yaml: .*thirds"),
        ("output_dir: x\n", ["--split", "thirds"], "c.yaml: .*thirds"),
        ("hidden_size: 32\n", [], "output_dir is missing"),
        ("method: care\noutput_dir: x\nhidden_size: 30\n", [], "no multiple of num_attention_heads"),
        ("output_dir: x\ntargets: some\n", [], "not one of all, last"),
        ("output_dir: x\nlabel_smoothing_factor: 0.1\n", [], "use label_smoothing"),
        ("method: care\noutput_dir: x\npacked_row_tokens: 0\n", [], "packed_row_tokens must be at least 1"),
        ("method: care\noutput_dir: x\ncode_embeddings: some\n", [], "not one of random, centroids"),
        ("method: care\noutput_dir: x\ncode_embeddings: centroids\nbase_model: y\n", [], "leave base_model out"),
        ("method: lion\noutput_dir: x\n", [], "c.yaml: method: 'lion' is not one of care, "),
        ("method: rearec\noutput_dir: x\nnum_queries: [1]\n", [], "'num_queries' belongs to method: care"),
        ("method: rearec\noutput_dir: x\n", ["--codebook_sizes", "4"], "--codebook_sizes belongs to method: care"),
        ("output_dir: x\nbackbone: sasrec\n", [], "c.yaml: key 'backbone' belongs to method: rearec, and this is"),
        ("method: rearec\noutput_dir: x\nbakbone: sasrec\n", [], "unknown key 'bakbone', did you mean 'backbone'"),
        ("method: rearec\noutput_dir: x\nbackbone: gru\n", [], "c.yaml: backbone='gru': use one of sasrec"),
        ("method: rearec\noutput_dir: x\ntext_dim: 8\n", [], "text_dim=8 with backbone='sasrec'"),
        ("method: rearec\noutput_dir: x\nhidden_size: 9\n", [], "c.yaml: hidden_size=9"),
        ("method: rearec\noutput_dir: x\nnoise_start_epoch: -1\n", [], "noise_start_epoch must be 0 or more"),
        (
            "method: rearec\noutput_dir: x\n",
            ["--method", "care"],
            "c.yaml: method: rearec, and the option --method says care: leave the option out, or give a configuration",
        ),
        ("- 1\n", [], "must be a mapping"),
        ("a: [1\n", [], "is not YAML"),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_config(write(tmp_path / "c.yaml", text), options)
    assert "\n" not in str(error.value)


def test_a_configuration_that_does_not_exist():
    with pytest.raises(FileNotFoundError, match="care/ml-100k"):
        parse_config("care/ml-1000k")


LINEAGE = {"made_from": {"data": "abc"}, "model": {}, "training": {}}


def test_which_checkpoint_is_resumed(tmp_path, caplog):
    assert checkpoint_to_resume(tmp_path, None, LINEAGE) is None
    assert checkpoint_to_resume(tmp_path, "last", LINEAGE) is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_lineage(tmp_path / f"checkpoint-{step}", LINEAGE)
    for step in (9, 10):
        TrainerState(global_step=step).save_to_json(str(tmp_path / f"checkpoint-{step}/trainer_state.json"))
        mark_complete(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-11/trainer_state.json").write_text('{"epo')
    with pytest.raises(ValueError, match="earlier training"):
        checkpoint_to_resume(tmp_path, None, LINEAGE)
    assert checkpoint_to_resume(tmp_path, "last", LINEAGE) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-11").exists()
    assert "checkpoint-11 is incomplete" in caplog.text
    assert checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-9"), LINEAGE) == str(tmp_path / "checkpoint-9")
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-12"), LINEAGE)
