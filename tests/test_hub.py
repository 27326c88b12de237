"""What a stranger does with a saved folder: transformers alone, no hf_genrec, no network."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import make_model, make_processor
from huggingface_hub import ModelCard
from learned_tokenizers import make_rq_vae
from safetensors.torch import save_file

from hf_genrec.hub import (
    RESULT_KEYS,
    WITHOUT_LIBRARY,
    model_fingerprint,
    push,
    recommend_as_stranger,
    require_pushable,
    save_model,
    write_model_card,
)
from hf_genrec.item_tokenizers import load_item_tokenizer

pytestmark = pytest.mark.libraries

STRANGER = (
    WITHOUT_LIBRARY
    + """
import json
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

folder, batch_file = sys.argv[1:]
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
backbone = AutoModel.from_pretrained(folder, **trust)
model = AutoModelForCausalLM.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
batch = load_file(batch_file)
histories = [["item-3", "item-9"], []]
inputs = processor(histories=histories, return_tensors="pt")
output = model.generate(
    **inputs, num_beams=20, num_return_sequences=10, logits_processor=[processor.trie_logits_processor()]
)
with torch.no_grad():
    logits = model(batch["input_ids"]).logits
    states = backbone(batch["input_ids"]).last_hidden_state
model.save_pretrained(folder + "-again")
again = AutoModelForCausalLM.from_pretrained(folder + "-again", **trust)
print(json.dumps({
    "classes": [type(x).__name__ for x in (config, backbone, model, processor)],
    "logits_equal": torch.equal(logits, batch["logits"]),
    "states_equal": torch.equal(states, batch["states"]),
    "recommended": model.recommend(histories, k=5),
    "generated": processor.batch_decode_items(output),
    "saved_again": again.recommend(histories, k=5),
    "scores": model.score_items("item-3 item-9".split(), ["item-1"]).tolist(),
}))
"""
)


@pytest.fixture
def saved(tmp_path):
    model = make_model(make_processor())
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def run_stranger(program, *arguments, cwd):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cwd / "modules")}
    finished = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=cwd
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.strip().splitlines()[-1])


def test_auto_classes_without_the_package(saved, tmp_path):
    model, folder = saved
    ids = torch.from_numpy(model.processor.token_ids[[3, 9]]).reshape(1, -1)
    ids = torch.cat([ids, torch.tensor([[model.processor.answer_token_id]]), ids[:, :3]], 1)
    with torch.no_grad():
        expected = {"input_ids": ids, "logits": model(ids).logits, "states": model.model(ids).last_hidden_state}
    save_file(expected, tmp_path / "batch.safetensors")
    found = run_stranger(STRANGER, folder, tmp_path / "batch.safetensors", cwd=tmp_path)

    histories = [["item-3", "item-9"], []]
    item_ids, scores = model.recommend(histories, k=5)
    assert found["classes"] == ["CareConfig", "CareModel", "CareForCausalLM", "GenRecProcessor"]
    assert found["logits_equal"]
    assert found["states_equal"]
    assert found["recommended"] == [item_ids, scores]
    assert found["saved_again"] == [item_ids, scores]
    wide, _ = model.recommend(histories, k=10)
    assert found["generated"] == [item_id for line in wide for item_id in line]
    assert found["scores"] == model.score_items(["item-3", "item-9"], ["item-1"]).tolist()


def test_the_folder_holds_no_pickle(saved):
    _, folder = saved
    assert {path.suffix for path in folder.iterdir()} == {".json", ".py", ".safetensors"}


def test_recommend_as_stranger(saved):
    model, folder = saved
    assert recommend_as_stranger(folder, ["item-3"], k=4) == model.recommend(["item-3"], k=4)
    (folder / "care_layout.py").unlink()
    with pytest.raises(RuntimeError, match="does not open without hf_genrec"):
        recommend_as_stranger(folder, ["item-3"])


def test_a_pickle_is_not_pushed(saved):
    _, folder = saved
    (folder / "training_args.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"training_args\.bin may hold a pickle"):
        push(folder, "somebody/something")


@pytest.mark.parametrize(
    "name",
    [
        "weights.BIN", "model.PKL", "items.joblib", "a.pth", "a.npz", ".env", ".netrc", "secret.env", "evil.py",
        "id_rsa", "trainer_state.json", "a.so", "a.zip", "optimizer.safetensors", "item_tokenizer/x.Pt",
        "item_tokenizer/.env", "item_tokenizer/evil.py",
    ],
)  # fmt: skip
def test_what_no_export_writes_is_not_pushed(saved, name):
    _, folder = saved
    require_pushable(folder, "somebody/something")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(folder / name))} [^\n]*remove it"):
        require_pushable(folder, "somebody/something")


@pytest.mark.parametrize("name", ["checkpoint-10", ".git", "__pycache__", "data"])
def test_other_folders_are_not_pushed(saved, name):
    _, folder = saved
    (folder / name).mkdir()
    (folder / name / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(folder / name))} .*remove it"):
        require_pushable(folder, "somebody/something")


def test_a_damaged_folder_is_not_pushed(saved):
    _, folder = saved
    code = next(folder.glob("modeling_*.py"))
    kept = code.read_bytes()
    code.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(code))}, or what it imports, is not UTF-8"):
        require_pushable(folder, "somebody/something")
    code.write_bytes(kept)
    (folder / "a\nb.json").write_text("{}")
    with pytest.raises(ValueError, match="no file of an exported model: remove it"):
        require_pushable(folder, "somebody/something")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        require_pushable(folder, "somebody/something")


@pytest.mark.parametrize("target", ["file.json", "folder", "nothing"])
def test_links_are_not_pushed(saved, tmp_path, target):
    _, folder = saved
    (tmp_path / "file.json").write_text('{"token": "secret"}')
    (tmp_path / "folder").mkdir()
    (folder / "notes.json").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"notes\.json is a link"):
        push(folder, "somebody/something")


def test_a_pickle_by_another_name_is_not_pushed(saved):
    _, folder = saved
    (folder / "more.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match=r"more\.safetensors is damaged"):
        require_pushable(folder, "somebody/something")


def test_what_is_laid_beside_a_model_to_be_read_is_pushed(saved, tmp_path):
    model, _ = saved
    make_rq_vae().save_pretrained(tmp_path / "tokenizer")
    save_model(model, tmp_path / "both", tmp_path / "tokenizer")
    for name in ("README.md", "health.PNG", "LICENSE", "figures.json", "items.parquet"):
        (tmp_path / "both" / name).write_bytes(b"x")
    require_pushable(tmp_path / "both", "somebody/something")


def test_a_card_says_names_and_settings_as_they_are(tmp_path):
    """What a folder is called, and what its configuration holds, is no code, no markup and no front matter."""
    run = tmp_path / 'run")\n---\nlicense: mit'
    model = make_model(make_processor())
    item_ids = ['"]; import os #', "```\n---", *model.processor.item_ids[2:]]
    model.processor.set_catalogue(item_ids, model.processor.codes)
    model.save_pretrained(run / "model")
    write_model_card(run / "model", run / "results")
    lines = (run / "model/README.md").read_text().splitlines()
    assert lines.count("---") == 2
    assert sum(line.startswith("```") for line in lines) == 2
    code = "\n".join(lines[lines.index("```python") + 1 : lines.index("```")])
    values = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert item_ids[0] in values
    assert item_ids[1] in values


def result_records(model: str | None, data_set: str) -> dict:
    figures = {key: {"value": place / 7} for place, key in enumerate((*RESULT_KEYS, "invalid_share"))}
    said = {"seen_items_removed": False, "num_users": 9, "num_items": 40, "tie_order": "file", "seed": 1}
    said |= {"data_set": data_set, "date": "today", "command": "hf-genrec", "metrics": figures}
    return {"CARE": said | {"model": model}, "most popular": said}


def test_a_card_has_the_figures_as_the_hub_reads_them(saved):
    """`model-index`, of the model's own record on the test split, and of no earlier model's."""
    _, folder = saved
    results = folder.parent / "results"
    results.mkdir()
    for model, data_set in ((model_fingerprint(folder), "/home/me/My log.csv"), ("another model", "log.csv")):
        (results / "test.json").write_text(json.dumps(result_records(model, data_set)))
        (results / "validation.json").write_text(json.dumps(result_records(None, "other")))
        write_model_card(folder, results)
        card = ModelCard.load(folder / "README.md")
        assert card.data.tags == ["recommendation", "generative-recommendation", "semantic-ids", "care"]
        if model == "another model":
            assert card.data.eval_results is None
            assert "model-index" not in card.content
            continue
        found = {(one.metric_type, one.metric_name): one.metric_value for one in card.data.eval_results}
        assert found == {
            (key, key.replace("recall", "Recall").replace("ndcg", "NDCG")): round(place / 7, 6)
            for place, key in enumerate(RESULT_KEYS)
        }
        assert card.data.model_name == folder.parent.name
        first = card.data.eval_results[0]
        assert (first.dataset_name, first.dataset_type, first.dataset_split) == ("My log.csv", "my-log.csv", "test")
        assert first.task_type == "recommendation"
        assert "/home/me" not in card.content


def test_an_item_tokenizer_of_an_earlier_version_goes_with_the_model(saved, tmp_path):
    """Both read some of the same files, so the tokenizer's code is that of the model's version."""
    model, _ = saved
    tokenizer = make_rq_vae()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    shared = "saved_files.py"
    now = (tmp_path / "tokenizer" / shared).read_text()
    (tmp_path / "tokenizer" / shared).write_text("# of an earlier version")
    save_model(model, tmp_path / "both", tmp_path / "tokenizer")
    assert [(tmp_path / "both" / place / shared).read_text() for place in ("", "item_tokenizer")] == [now, now]
    again = load_item_tokenizer(tmp_path / "both/item_tokenizer")
    assert all(torch.equal(new, old) for new, old in zip(again.buffers(), tokenizer.buffers(), strict=True))
