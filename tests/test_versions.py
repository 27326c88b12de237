"""Saved folders and other versions of transformers: what was saved opens and answers as it did, or says why not."""

import json
import logging
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor, run_command
from tiny_reg4rec import make_reg4rec, make_set_processor
from transformers import DynamicCache, EncoderDecoderCache, Qwen2Config, Qwen2ForCausalLM
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_genrec.catalogue.transformers_bridge import CACHE, PLACES, TESTED, overrides
from hf_genrec.method import load_model
from hf_genrec.methods.care.modeling_care import CareForCausalLM
from hf_genrec.refresh import refresh
from hf_genrec.training.trainer import EpochSampler

pytestmark = pytest.mark.libraries

SAVED = Path(__file__).parent / "saved"
METHODS = sorted(path.stem for path in SAVED.glob("*.zip"))


@pytest.fixture(params=METHODS)
def earlier(request, tmp_path) -> tuple[Path, dict]:
    """A folder that an earlier version saved, with that version's code, and what it answered then."""
    with zipfile.ZipFile(SAVED / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path / "model")
    return tmp_path / "model", json.loads((SAVED / f"{request.param}.json").read_text())


def stranger(program: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder.parent / "modules")}
    finished = subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for way, (items, scores) in expected.items():
        assert found[way][0] == items, way
        np.testing.assert_allclose(np.array(found[way][1]), np.array(scores), rtol=0, atol=1e-4, err_msg=way)


def test_a_folder_of_an_earlier_version_is_refreshed_for_a_stranger(earlier):
    """`recommend`, `score_items`, `generate` (greedy, beams, sampling; cache, none, static), fast search: as then."""
    folder, recorded = earlier
    stale = {path.name for path in folder.glob("*.py")}
    (folder / "handler.py").write_text("# the user's own\n")
    refresh(folder)
    found = json.loads(stranger([str(SAVED / "answers.py"), str(folder)], folder).stdout.splitlines()[-1])
    assert_same(found["answers"], recorded["answers"])
    assert found["codes"] == recorded["codes"]
    assert (folder / "handler.py").read_text() == "# the user's own\n"
    assert (folder / "transformers_bridge.py").is_file()
    assert "transformers_bridge.py" not in stale


def test_the_library_opens_a_folder_of_an_earlier_version_as_it_is(earlier):
    folder, recorded = earlier
    items, scores = load_model(folder).recommend(
        [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(8)]], k=10
    )
    assert_same({"recommend": [items, scores]}, {"recommend": recorded["answers"]["recommend"]})


def test_the_command_takes_a_run_folder(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    make_model(make_processor()).save_pretrained(run / "model")
    printed = run_command(monkeypatch, capsys, "refresh", run)
    assert "the same 10 items for each of 8 histories" in printed
    assert {path.name for path in run.iterdir()} == {"model"}


def test_a_folder_that_would_answer_otherwise_is_left_as_it_is(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    make_model(make_processor()).save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other = ([["item-0"] * 10] * 8, [[0.0] * 10] * 8)
    monkeypatch.setattr("hf_genrec.refresh.recommend_as_stranger", lambda *arguments: other)
    with pytest.raises(ValueError, match="would recommend other items with today's code: it was left as it is"):
        refresh(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_own_files_are_put_back_and_never_executed(tmp_path):
    folder = tmp_path / "model"
    with zipfile.ZipFile(SAVED / "reg4rec.zip") as archive:
        archive.extractall(folder)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "item_tokenizer/NOTES.md").write_text("mine\n")
    (folder / "link.txt").symlink_to("/etc/hostname")
    refresh(folder)
    assert not (tmp_path / "ran").exists()
    assert (folder / "custom_generate/generate.py").is_file()
    assert (folder / "item_tokenizer/NOTES.md").read_text() == "mine\n"
    assert (folder / "link.txt").is_symlink()


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "processor_config.json", "generation_config.json", "tokenizer.json"],
)
def test_a_damaged_folder_is_named_and_left_as_it_is(tmp_path, name):
    folder = tmp_path / "model"
    make_model(make_processor()).save_pretrained(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"^/\S+/model is damaged, or no model of this library: [^\n]*$"):
        refresh(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_folder_one_stands_in(tmp_path, monkeypatch):
    make_model(make_processor()).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    refresh(Path("."))
    assert (tmp_path / "model/model.safetensors").is_file()
    with pytest.raises(FileNotFoundError, match="holds no saved model"):
        refresh(tmp_path / "nothing")


# ---- a version that lacks something ----

LACKING = {
    "an old version": ("transformers.__version__ = '5.22.1'", "5.23 or newer"),
    "a function": (
        "del transformers.models.qwen2.modeling_qwen2.rotate_half",
        "transformers.models.qwen2.modeling_qwen2.rotate_half",
    ),
    "a hook": ("del GenerationMixin._prefill", "_prefill(input_ids, generation_config, model_kwargs, "),
    "a hook that takes something else": (
        "GenerationMixin._prefill = lambda self, inputs: None",
        "_prefill(input_ids, generation_config, model_kwargs, ",
    ),
    "outputs with a cache": (
        "outputs.BaseModelOutputWithPast.__dataclass_fields__.clear()",
        "outputs with cache or past_key_values",
    ),
}
OPEN = """
import os, sys, transformers, transformers.models.qwen2.modeling_qwen2
from transformers import GenerationMixin, modeling_outputs as outputs
for change in sys.argv[2:]:
    if os.fork() == 0:
        exec(change)
        try:
            transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
        except ImportError as error:
            print(error)
        os._exit(0)
    os.wait()
"""


def test_a_version_that_lacks_a_name_is_told_so_in_one_line(tmp_path):
    make_model(make_processor()).save_pretrained(tmp_path / "model")
    changes = [change for change, _ in LACKING.values()]
    printed = stranger(["-u", "-c", OPEN, str(tmp_path / "model"), *changes], tmp_path / "model").stdout.splitlines()
    assert len(printed) == len(LACKING)
    for line, (_, needed) in zip(printed, LACKING.values(), strict=True):
        assert line.startswith("transformers 5.")
        assert f"is installed, and this code needs {needed}" in line
        assert "hf-genrec refresh" in line


def test_a_trainers_hook_names_its_own_package():
    class Base:
        __module__ = "trl.trainer.grpo_trainer"

        def hook(self, prompts): ...

    class Fitting(Base):
        def hook(self, prompts, more=None, **kwargs): ...

    overrides()(Fitting)
    with pytest.raises(ImportError, match=r"^trl .* needs hook\(prompts, more\) in a base class of Fitting"):
        overrides("hook")(Fitting)


# ---- the cache by both names ----


def care_with_cache(name):
    model = make_model(make_processor())
    ids = torch.from_numpy(model.processor.token_ids[[3, 9]]).reshape(1, -1)
    ids = torch.cat([ids, torch.tensor([[model.processor.answer_token_id]]), ids[:, :1]], 1)
    first = model(ids[:, :-1], use_cache=True, **{name: DynamicCache()})
    second = model(ids[:, -1:], use_cache=True, context_ids=ids, **{name: getattr(first, name)})
    backbone = model.model(ids[:, :-1], use_cache=True, **{name: DynamicCache()})
    return [first, second, backbone], model(ids).logits[:, -1:], second.logits


def reg4rec_with_cache(name):
    model = make_reg4rec(make_set_processor())
    inputs = model.processor(histories=[["item-3"]], return_tensors="pt")
    path = torch.tensor([[model.config.decoder_start_token_id, 2]])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    first = model(**inputs, decoder_input_ids=path[:, :1], use_cache=True, **{name: cache})
    second = model(**inputs, decoder_input_ids=path[:, 1:], **{name: first[name]})
    backbone = model.model(**inputs, decoder_input_ids=path, use_cache=True)
    return [first, second, backbone], model(**inputs, decoder_input_ids=path).logits[:, -1:], second.logits


@pytest.mark.parametrize("with_cache", [care_with_cache, reg4rec_with_cache])
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_goes_in_and_comes_out_by_both_names(with_cache, name):
    outputs, expected, found = with_cache(name)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for output in outputs:
        assert output.cache is not None
        assert output.cache is output.past_key_values
        assert output["cache"] is output["past_key_values"] is output.cache
        assert "cache" in output
        assert "past_key_values" in output
        assert output.get("cache") is output.get("past_key_values") is output.cache


def test_generate_takes_a_cache_by_the_name_of_its_version():
    model = make_model(make_processor())
    inputs = model.processor(histories=[["item-3", "item-9"]], return_tensors="pt")
    cache = DynamicCache()
    assert torch.equal(model.generate(**inputs), model.generate(**inputs, **{CACHE: cache}))
    assert cache.get_seq_length()


def test_two_caches_are_refused():
    model = make_model(make_processor())
    with pytest.raises(ValueError, match="two names of one argument"):
        model(torch.tensor([[1]]), cache=DynamicCache(), past_key_values=DynamicCache())
    ids = model.processor(histories=[["item-3"]], return_tensors="pt")["input_ids"]
    model(ids, cache=DynamicCache(), past_key_values=None)


# ---- what is printed, what is drawn ----


def test_a_base_model_is_opened_without_a_report(tmp_path, caplog):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = Qwen2ForCausalLM(Qwen2Config(vocab_size=50, num_key_value_heads=2, **sizes))
    base.save_pretrained(tmp_path)
    logging.getLogger("transformers").propagate = True
    try:
        with caplog.at_level(logging.WARNING):
            CareForCausalLM.from_base(tmp_path, 61, num_queries=[1, 1], answer_token_id=60)
    finally:
        logging.getLogger("transformers").propagate = False
    assert not caplog.records

    base.config.num_hidden_layers = 3
    base.config.layer_types = None
    base.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights of the model: model\.layers\.2\."):
        CareForCausalLM.from_base(tmp_path, 61, num_queries=[1, 1], answer_token_id=60)


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 4), (50, 4), (999, 7), (2000, 1)])
def test_rows_are_grouped_by_length_as_transformers_groups_them(rows, batch_size):
    lengths = np.random.default_rng(rows).integers(1, 30, rows).tolist()
    theirs = LengthGroupedSampler(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(3))
    assert list(EpochSampler(rows, 3, lengths, batch_size)) == list(theirs)


def test_the_page_names_everything_we_lean_on():
    page = (Path(__file__).parents[1] / "docs/versions.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).parents[1] / "hf_genrec").rglob("*.py"))
    hooks = {name for names in re.findall(r"@overrides\(([^)]*)\)", code) for name in re.findall(r'"(\w+)"', names)}
    assert {"_prefill", "_generate_single_turn"} <= hooks
    for name in [*PLACES, *hooks]:
        assert f"`{name}`" in page, name
    for versions in TESTED.values():
        oldest, _, newest = versions.split()
        assert oldest in page
        assert newest in page
