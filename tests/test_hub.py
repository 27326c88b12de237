"""What a stranger does with a saved folder: transformers alone, no hf_genrec, no network."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import make_model, make_processor
from safetensors.torch import save_file

from hf_genrec.hub import push, recommend_as_stranger, save_model

pytestmark = pytest.mark.libraries

STRANGER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ModuleNotFoundError("hf_genrec is not installed here")
sys.meta_path.insert(0, Blocked())

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


def test_a_model_and_its_item_tokenizer_share_no_file_name(saved, tmp_path):
    """In the saved folder one would take the place of the other."""
    model, _ = saved
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/care_layout.py").write_text("# another one")
    with pytest.raises(ValueError, match=r"care_layout\.py is another file of the model and of its item tokenizer"):
        save_model(model, tmp_path / "both", tmp_path / "tokenizer")
