"""ReaRec's backbones start from a pretraining: they are its encoder, and what does not fit is refused in one line."""

import json
import subprocess

import pytest
import torch
from conftest import exit_code
from safetensors.torch import load_file, save_file
from tiny_rearec import ITEMS, WIDTH, tiny_rearec

from hf_genrec.methods.rearec.arguments import ReaRecArguments
from hf_genrec.methods.rearec.pretrained_backbone import start_from_pretraining
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecConfig, S3RecForPretraining
from hf_genrec.training.lineage import write_lineage

pytestmark = pytest.mark.libraries

PAD = ITEMS


@pytest.fixture
def pretraining(tmp_path):
    """A run with a pretraining of random weights, and its model."""
    torch.manual_seed(1)
    sizes = {"num_items": ITEMS, "max_history": WIDTH, "hidden_size": 8, "intermediate_size": 12}
    config = S3RecConfig(**sizes, num_attributes=3, positions_from="oldest", initializer_range=0.4)
    model = S3RecForPretraining(config).eval()
    model.save_pretrained(tmp_path / "pretrained")
    write_lineage(tmp_path / "pretrained", {"made_from": {"data": "these"}, "model": {}, "training": {}})
    return tmp_path, model


def change(run, **settings):
    path = run / "pretrained/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
@pytest.mark.parametrize("reasoning", ["none", "prl"])
def test_the_states_are_those_of_the_pretrained_encoder(pretraining, backbone, reasoning):
    run, pretrained = pretraining
    model = tiny_rearec(reasoning=reasoning, backbone=backbone, reasoning_adapter_size=3 * (reasoning == "prl"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    start_from_pretraining(model, str(run), "these")
    ids = torch.tensor([[PAD, PAD, 4, 9, 2], [7, 7, 1, 0, 29], [PAD, PAD, PAD, PAD, 3]])
    positions = torch.arange(5).expand_as(ids)
    found = model.model(ids, num_steps=0, positions=positions).reasoning_states[:, :, 0]
    expected = pretrained.model(ids, causal=backbone == "sasrec").last_hidden_state
    real = ids != PAD
    torch.testing.assert_close(found[real], expected[real])
    # What a pretraining does not know is as it was; everything else is new.
    for name, weight in model.state_dict().items():
        if "reasoning_embeddings" in name or "adapter" in name:
            assert torch.equal(weight, before[name]), name
        elif weight.dim() == 2:
            assert not torch.equal(weight, before[name]), name
    assert torch.equal(model.model.position_embeddings.weight[-1], before["model.position_embeddings.weight"][-1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": 16}, "hidden_size 16, here 8"),
        ({"max_history": 50}, "max_history 50, here 9"),
        ({"num_attention_heads": 4, "num_items": 31}, "num_items 31, here 30; num_attention_heads 4, here 2"),
        ({"positions_from": "newest"}, "positions_from newest, here oldest"),
        ({"hidden_act": "relu"}, "hidden_act relu, here gelu"),
    ],
)
def test_sizes_that_differ_are_named(pretraining, changed, message):
    run, _ = pretraining
    change(run, **changed)
    with pytest.raises(ValueError, match=f"does not fit \\({message}\\): make them equal"):
        start_from_pretraining(tiny_rearec(), str(run), "these")


def test_other_data_no_pretraining_and_weights_that_are_missing(pretraining):
    run, _ = pretraining
    with pytest.raises(ValueError, match=r"was trained on other data .*: name a run of the same data"):
        start_from_pretraining(tiny_rearec(), str(run), "others")
    with pytest.raises(
        FileNotFoundError, match="nowhere/pretrained holds no pretraining: train a run with method: s3r"
    ):
        start_from_pretraining(tiny_rearec(), str(run / "nowhere"), "these")
    with pytest.raises(ValueError, match="pretrained_backbone_run with backbone='unisrec': give it to sasrec and"):
        ReaRecArguments(backbone="unisrec", pretrained_backbone_run="runs/some")
    path = run / "pretrained/model.safetensors"
    weights = load_file(path)
    weights["model.left_over"] = weights.pop("model.layer_norm.bias")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit .*'layer_norm\.bias', 'left_over'"):
        start_from_pretraining(tiny_rearec(), str(run), "these")


def test_by_the_commands(rearec_config, own_data, capsys):
    """Pretrained by its own method, then trained; at a learning rate of next to nothing it ends where it began."""
    first, second = own_data / "pretraining-run", own_data / "pretrained-rearec"
    keys = "backbone", "reasoning", "num_reasoning_steps", "temperature"
    text = rearec_config.read_text().replace("method: rearec", "method: s3rec")
    lines = [line for line in text.splitlines() if not line.startswith(("output_dir", *keys))]
    (own_data / "pretraining.yaml").write_text(
        "\n".join([*lines, f"output_dir: {first}", "positions_from: oldest", "pretrain_epochs: 1\n"])
    )
    for command in (("prepare",), ("train", "--num_train_epochs", "1")):
        assert exit_code(command[0], "--config", own_data / "pretraining.yaml", *command[1:]) == 0
    second.mkdir()
    subprocess.run(["cp", "-r", first / "data", second / "data"], check=True)
    options = ["--config", rearec_config, "--output_dir", second, "--pretrained_backbone_run", first]
    options += ["--num_train_epochs", "1", "--learning_rate", "1e-12"]
    capsys.readouterr()
    assert exit_code("train", *options, "--num_attention_heads", "4") == 2
    assert "num_attention_heads 2, here 4" in capsys.readouterr().err
    assert exit_code("train", *options) == 0
    pretrained = load_file(first / "pretrained/model.safetensors")
    model = load_file(second / "model/model.safetensors")
    torch.testing.assert_close(
        model["model.items.embeddings.weight"],
        pretrained["model.item_embeddings.weight"][:-1],
        rtol=0,
        atol=1e-8,
    )
    name = "model.layers.1.feed_forward.down.weight"
    torch.testing.assert_close(model[name], pretrained[name], rtol=0, atol=1e-8)
