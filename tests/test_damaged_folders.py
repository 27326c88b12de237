"""Damaged and hostile folders: one line that names the file, or the very answers of the undamaged folder."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import exit_code, make_model, make_processor
from damaged_folders import MAKERS, export, fuzz
from learned_tokenizers import make_rq_vae
from safetensors.torch import load_file, save_file
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

import hf_genrec
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.hub import recommend_as_stranger
from hf_genrec.item_tokenizers import load_item_tokenizer


def test_mutated_folders(tmp_path):
    counts, wrong = fuzz(250, 0, tmp_path)
    assert not wrong
    assert counts["refused"] > 125  # the mutator changes what matters
    assert counts["same"] > 10


@pytest.mark.slow
def test_many_mutated_folders(tmp_path):
    _, wrong = fuzz(5000, 1, tmp_path)
    assert not wrong


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An undamaged folder of each method."""
    place = tmp_path_factory.mktemp("exported")
    for method in MAKERS:
        export(method, place / method, 0)
    return place


@pytest.fixture(params=list(MAKERS))
def folder(request, exported, tmp_path):
    return Path(shutil.copytree(exported / request.param, tmp_path / "model"))


@pytest.fixture(scope="module")
def saved_care(tmp_path_factory):
    place = tmp_path_factory.mktemp("care")
    make_model(make_processor()).save_pretrained(place)
    return place


@pytest.fixture
def care(saved_care, tmp_path):
    return Path(shutil.copytree(saved_care, tmp_path / "model"))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder, opener=hf_genrec.load) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        opener(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- catalogue, codes and index ----


@pytest.mark.parametrize("name", ["catalogue.json", "catalogue.safetensors", "item_trie.safetensors"])
def test_files_of_two_catalogues(care, tmp_path, name):
    make_model(make_processor(seed=7)).save_pretrained(tmp_path / "other")
    ids = json.loads((tmp_path / "other/catalogue.json").read_text())
    edit(tmp_path / "other/catalogue.json", item_ids=ids["item_ids"][::-1])
    shutil.copy(tmp_path / "other" / name, care)
    assert f"{care}/" in refusal(care)


def broken_trie(name, change):
    def damage(folder):
        tensors = load_file(folder / "item_trie.safetensors")
        tensors[name] = change(tensors[name].clone())
        save_file(tensors, folder / "item_trie.safetensors")
        return "item_trie.safetensors"

    return damage


def negative_offset(starts):
    starts[1] = -(2**31)
    return starts


def codes_of_minus_one(folder):
    tensors = load_file(folder / "catalogue.safetensors")
    tensors["codes"][3, 1] = -1
    save_file(tensors, folder / "catalogue.safetensors")
    return "catalogue.safetensors"


def an_id_twice(folder):
    item_ids = json.loads((folder / "catalogue.json").read_text())["item_ids"]
    edit(folder / "catalogue.json", item_ids=[*item_ids[:-1], item_ids[0]])
    return "catalogue.json"


def two_levels(folder):
    tensors = load_file(folder / "item_trie.safetensors")
    for name in ("tokens.3", "child_starts.3"):
        del tensors[name]
    tensors["max_children"] = tensors["max_children"][:-1].contiguous()
    tensors["child_starts.2"] = torch.arange(len(tensors["child_starts.2"]), dtype=torch.int32)
    tensors["items"] = torch.arange(len(tensors["child_starts.2"]) - 1, dtype=torch.int32)
    tensors["max_children"][-1] = 1
    save_file(tensors, folder / "item_trie.safetensors")
    return "item_trie.safetensors"


@pytest.mark.parametrize(
    "damage",
    [
        broken_trie("items", lambda items: items.flip(0)),
        broken_trie("items", lambda items: items.clamp(max=3)),
        broken_trie("tokens.2", lambda tokens: tokens.flip(0)),
        broken_trie("child_starts.1", negative_offset),
        broken_trie("max_children", lambda most: most * 10**6),
        codes_of_minus_one,
        an_id_twice,
        two_levels,
    ],
)
def test_a_damaged_catalogue(care, damage):
    name = damage(care)
    assert f"{care}/{name}" in refusal(care)
    assert f"{care}/{name}" in refusal(care, GenRecProcessor.from_pretrained)


def test_items_that_share_their_codes_stand_by_popularity(tmp_path):
    """The order within a leaf is what `recommend` lists."""
    for make, name, starts in (
        (lambda: make_model(make_processor(unique=False)), "item_trie", "child_starts.3"),
        (lambda: make_reg4rec(make_set_processor(unique=False)), "item_sets", "item_starts"),
    ):
        model = make()
        model.save_pretrained(tmp_path / name)
        assert hf_genrec.load(tmp_path / name).recommend([[]], k=20)[0] == model.recommend([[]], k=20)[0]
        tensors = load_file(tmp_path / name / f"{name}.safetensors")
        leaf = int(tensors[starts].diff().argmax())
        first = int(tensors[starts][leaf])
        tensors["items"][[first, first + 1]] = tensors["items"][[first + 1, first]]
        save_file(tensors, tmp_path / name / f"{name}.safetensors")
        assert "another order" in refusal(tmp_path / name)


def test_titles_may_be_edited_and_ids_not(care):
    edit(care / "catalogue.json", titles=["My title", *[None] * 39])
    assert hf_genrec.load(care).processor.title("item-0") == "My title"
    item_ids = json.loads((care / "catalogue.json").read_text())["item_ids"]
    edit(care / "catalogue.json", item_ids=[item_ids[1], item_ids[0], *item_ids[2:]])
    assert "not of one save" in refusal(care)


def test_a_catalogue_of_an_earlier_version_has_no_fingerprint(care):
    tensors = load_file(care / "catalogue.safetensors")
    save_file(tensors, care / "catalogue.safetensors")
    hf_genrec.load(care)


@pytest.mark.parametrize("titles", ["x", [1] * 40, ["a"], {}])
def test_titles_that_are_none(care, titles):
    edit(care / "catalogue.json", titles=titles)
    assert f"{care}/catalogue.json" in refusal(care)


# ---- configuration and weights ----


@pytest.mark.parametrize("value", [10**9, 10**6, 0, -1, "8", None, [8], 8.5, True])
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "max_history", "vocab_size"])
def test_wild_sizes_are_refused_before_anything_is_allocated(care, name, value):
    edit(care / "config.json", **{name: value})
    if name == "max_history" and value is None:
        hf_genrec.load(care)  # as much as the processor reads
        return
    assert f"{care}/" in refusal(care)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "somebody/kernel"},
        {"transformers_weights": "other.safetensors"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"fusion_config": {"patch_embeddings": True}},
        {"return_dict": False},
        {"dtype": "float16"},
        {"rms_norm_eps": {"__float__": "NaN"}},
        {"answer_token_id": 3},
        {"codebook_sizes": [5, 6, 8]},
        {"model_type": "bert"},
        {"auto_map": {"AutoModelForNothing": "modeling_care.CareForCausalLM"}},
        {"auto_map": {"AutoModelForCausalLM": "modeling_care.Nothing"}},
        {"auto_map": {}},
        {"layer_types": ["sliding_attention"] * 2},
    ],
)
def test_settings_that_are_not_those_of_the_model(care, change):
    edit(care / "config.json", **change)
    assert str(care) in refusal(care)


def test_a_misspelt_setting_is_not_the_default(folder):
    content = json.loads((folder / "config.json").read_text())
    for name in content.keys() & {"temperature", "rms_norm_eps", "code_order", "hidden_act", "backbone"}:
        changed = {key: value for key, value in content.items() if key != name} | {f"{name[:-1]}x": content[name]}
        (folder / "config.json").write_text(json.dumps(changed))
        assert f"did you mean {name!r}?" in refusal(folder)


def changed_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_that_do_not_fit(folder):
    whole_folder = folder
    folder = folder / "member_1" if (folder / "member_1").is_dir() else folder  # where the weights of an ensemble are
    name = next(name for name, weight in load_file(folder / "model.safetensors").items() if weight.dim() == 2)
    whole = (folder / "model.safetensors").read_bytes()
    for change, said in (
        (lambda weights: weights[name].view(-1)[3:4].fill_(float("nan")), f"{name} holds NaN"),
        (lambda weights: weights[name].view(-1)[3:4].fill_(float("inf")), f"{name} holds NaN or infinity"),
        (lambda weights: weights.pop(name), f"lacks weights of the model: {name}"),
        (lambda weights: weights.update(more=torch.zeros(1)), "holds weights that the model has not: more"),
        (lambda weights: weights.update({name: weights[name][1:].contiguous()}), f"weight {name} has shape"),
        (lambda weights: weights.update({name: weights[name].half()}), f"weight {name} holds numbers of type F16"),
        (lambda weights: weights.update({name: weights[name].int()}), f"weight {name} holds numbers of type I32"),
    ):
        (folder / "model.safetensors").write_bytes(whole)
        changed_weights(folder, change)
        line = refusal(whole_folder)
        assert line.startswith(f"{folder}/model.safetensors ")
        assert said in line


def test_weights_in_several_files(care):
    model = hf_genrec.load(care)
    expected, _ = model.recommend([["item-1"]], k=5)
    (care / "model.safetensors").unlink()
    model.save_pretrained(care, max_shard_size="20KB")
    index = care / "model.safetensors.index.json"
    assert hf_genrec.load(care).recommend([["item-1"]], k=5)[0] == expected
    content = json.loads(index.read_text())
    name = next(iter(content["weight_map"]))
    for value in ("../model/" + content["weight_map"][name], "/etc/passwd", "away.safetensors", 3, None):
        edit(index, weight_map=content["weight_map"] | {name: value})
        assert f"{care}" in refusal(care)
    edit(index, weight_map={})
    assert f"{care} lacks weights of the model" in refusal(care)


def test_a_pickle_is_not_read_in_place_of_weights(care):
    weights = load_file(care / "model.safetensors")
    (care / "model.safetensors").unlink()
    torch.save(weights, care / "pytorch_model.bin")
    assert f"{care} holds no model.safetensors" in refusal(care)


@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "catalogue.json", "catalogue.safetensors", "model.safetensors"]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    line = refusal(folder)
    assert f"{folder} holds no {name}" in line
    assert "http" not in line


def test_an_item_tokenizer_that_is_damaged(tmp_path):
    make_rq_vae().save_pretrained(tmp_path)
    changed_weights(tmp_path, lambda weights: weights["codebook_1"][0].fill_(float("nan")))
    assert f"{tmp_path}/model.safetensors is damaged (codebook_1 holds NaN" in refusal(tmp_path, load_item_tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 40)
    assert f"{tmp_path}/model.safetensors is damaged" in refusal(tmp_path, load_item_tokenizer)
    edit(tmp_path / "config.json", model_type="bert")
    assert f"{tmp_path}/config.json is of an item tokenizer of type 'bert'" in refusal(tmp_path, load_item_tokenizer)


@pytest.mark.slow
def test_a_stranger_is_told_the_same(care, tmp_path):
    name = broken_trie("items", lambda items: items.flip(0))(care)
    with pytest.raises(RuntimeError, match=rf"DamagedFile: {care}/{name} is damaged \(its items have other codes"):
        recommend_as_stranger(care, ["item-1"])


# ---- what a folder names is not opened ----


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"reached for {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_processor_takes_nothing_but_its_tokenizer(folder, monkeypatch, no_network):
    expected, _ = hf_genrec.load(folder).recommend([[]], k=5)
    named = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "somebody/model"}
    edit(folder / "processor_config.json", audio_tokenizer=named, image_processor=named, chat_template="{{ 1 }}")
    (folder / "audio_tokenizer_config.json").write_text(json.dumps(named))
    monkeypatch.setattr(transformers.DacModel, "from_pretrained", lambda *_, **__: pytest.fail("opened another model"))
    assert hf_genrec.load(folder).recommend([[]], k=5)[0] == expected


@pytest.mark.parametrize("key", ["tokenizer_file", "fast_tokenizer_files", "gguf_file"])
def test_a_tokenizer_of_another_file(care, no_network, key):
    edit(care / "tokenizer_config.json", **{key: "../../tokenizer.json"})
    assert f"{care}/tokenizer_config.json" in refusal(care)


def test_an_adapter_is_not_followed(folder, no_network):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    assert f"{folder} holds an adapter_config.json" in refusal(folder)


def test_a_model_folder_in_place_of_a_run(care, capsys):
    assert exit_code("recommend", care, "--history", "item-1") == 2
    printed = capsys.readouterr().err
    assert f"error: {care} is a saved model, and a run folder is asked for" in printed
    assert f"name {care.parent}\n" in printed


def test_what_set_catalogue_refuses():
    processor = tiny_rearec().processor
    for arguments, said in (
        ((["a", 1],), "Item id 1 is no string"),
        ((["a", "b"], ["x", 2]), "Item 'b': its title 2 is neither"),
        ((["a", "b"], None, np.array([1, -2])), "Item 'b': popularity -2 is negative"),
    ):
        with pytest.raises(ValueError, match=said):
            processor.set_catalogue(*arguments)


def test_a_tokenizer_with_another_pad(care):
    """Its id would be that of a code."""
    path = care / "tokenizer.json"
    content = json.loads(path.read_text())
    pad = json.loads((care / "tokenizer_config.json").read_text())["pad_token"]
    content["model"]["vocab"][pad] = 1
    for token in content["added_tokens"]:
        if token["content"] == pad:
            token["id"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"pad_token_id|more than one token"):
        hf_genrec.load(care)
