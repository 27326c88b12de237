"""Pushing to a Hub and loading from it, over HTTP to one on this machine: transformers' and datasets' own clients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

pytestmark = pytest.mark.libraries

LOOPBACK_ONLY = """
import os, sys

def only_loopback(event, arguments):
    if event == "socket.connect":
        host = arguments[1][0] if isinstance(arguments[1], tuple) else "127.0.0.1"  # a tuple, or a path on this machine
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in (None, "127.0.0.1"):
        os.write(2, f"reached for {host}\\n".encode())
        os._exit(1)

sys.addaudithook(only_loopback)
"""

PUSH = """
import json
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from conftest import make_model, make_processor
from hf_genrec.hub import push

folder, histories = Path(sys.argv[1]), json.loads(sys.argv[2])
first, second = (make_model(make_processor(seed=seed), seed=seed) for seed in (0, 1))
first.save_pretrained(folder / "first")
second.save_pretrained(folder / "second")
urls = [push(folder / name, "my-org/care-tiny") for name in ("first", "second")]
first.push_to_hub("my-org/other")
first.save_pretrained(folder / "third", push_to_hub=True, repo_id="my-org/third")
first.save_pretrained(folder / "fourth", push_to_hub=True, repo_id="my-org/fourth", is_main_process=False)
print(json.dumps({"urls": urls, "recommended": [model.recommend(histories, k=5) for model in (first, second)]}))
"""

LOAD = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ModuleNotFoundError("hf_genrec is not installed here")
sys.meta_path.insert(0, Blocked())

import json
from transformers import AutoModelForCausalLM, AutoProcessor

histories = json.loads(sys.argv[1])
recommended, generated = [], []
for repo_id, revision in json.loads(sys.argv[2]):
    place = {"revision": revision, "trust_remote_code": True}
    model = AutoModelForCausalLM.from_pretrained(repo_id, **place)
    processor = AutoProcessor.from_pretrained(repo_id, **place)
    output = model.generate(
        **processor(histories=histories, return_tensors="pt"),
        num_beams=20,
        num_return_sequences=5,
        logits_processor=[processor.trie_logits_processor()],
    )
    recommended.append(model.recommend(histories, k=5))
    generated.append(processor.batch_decode_items(output))
print(json.dumps({"recommended": recommended, "generated": generated}))
"""

PUSH_LOG = """
from hf_genrec.dataset_scripts import tabular
folder = sys.argv[1]
tables = tabular.load(
    folder + "/log.csv", user_column="who", item_column="what", rating_column="stars", cache_dir=folder + "/cache"
)
log = tables["interactions"]
log.push_to_hub("my-org/log")

import json
import datasets
# Both live at other addresses than the Hub: the counter of downloads and the dataset viewer.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = datasets.config.USE_PARQUET_EXPORT = False
found = datasets.load_dataset("my-org/log")
assert list(found) == ["train"]
print(json.dumps({
    "features_equal": found["train"].features == log.features, "rows": found["train"][:], "local_rows": log[:]
}))
"""

HISTORIES = [["item-3", "item-9"], []]


def run(program: str, hub: LoopbackHub, home: Path, *arguments: str):
    """What `program` prints, in a process that knows no Hub but this one and has nothing cached."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "TRANSFORMERS_")) and not key.lower().endswith("_proxy")
    }
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": hub.token,
    }
    home.mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", LOOPBACK_ONLY + program, *arguments],
        capture_output=True,
        text=True,
        env=kept | environment,
        cwd=home,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """Two models pushed to one repository, one after the other, and the first to two more."""
    folder = tmp_path_factory.mktemp("pushed")
    return folder, run(PUSH, hub, folder / "home", str(folder), json.dumps(HISTORIES), str(Path(__file__).parent))


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_push_uploads_the_folder_and_no_pickle(hub, pushed):
    folder, found = pushed
    start, first, second = hub.history["model", "my-org/care-tiny"]
    assert start.files == {}
    assert found["urls"] == [f"{hub.url}/my-org/care-tiny/commit/{commit.sha}" for commit in (first, second)]
    assert first.files == read(folder / "first")
    assert second.files == read(folder / "second")
    assert {Path(path).suffix for path in second.files} == {".json", ".py", ".safetensors"}


@pytest.mark.parametrize("repo_id", ["my-org/other", "my-org/third"])
def test_push_to_hub_uploads_model_and_processor(hub, pushed, repo_id):
    folder, _ = pushed
    files = dict(hub.files(repo_id))
    assert b"library_name: transformers" in files.pop("README.md")
    assert files == read(folder / "first")
    assert {"catalogue.json", "item_trie.safetensors", "tokenizer.json", "modeling_care.py"} < set(files)


def test_only_the_main_process_pushes(hub, pushed):
    assert ("model", "my-org/fourth") not in hub.history


@pytest.mark.slow
def test_a_stranger_loads_what_was_pushed(hub, pushed, tmp_path):
    _, found = pushed
    first, second = found["recommended"]
    assert first != second
    sha = found["urls"][0].rpartition("/")[2]
    places = [
        ("my-org/care-tiny", "main"),
        ("my-org/care-tiny", sha),
        ("my-org/other", "main"),
        ("my-org/third", "main"),
    ]
    loaded = run(LOAD, hub, tmp_path / "home", json.dumps(HISTORIES), json.dumps(places))
    expected = [second, first, first, first]
    assert loaded["recommended"] == expected
    assert loaded["generated"] == [[item_id for line in item_ids for item_id in line] for item_ids, _ in expected]


def test_a_log_travels_as_parquet(hub, tmp_path):
    (tmp_path / "log.csv").write_text("who,what,timestamp,stars\n007,a,1600000000,4.5\n007,b,,\n8,a,1600000002,1\n")
    found = run(PUSH_LOG, hub, tmp_path / "home", str(tmp_path))
    assert set(hub.files("my-org/log", kind="dataset")) == {"README.md", "data/train-00000-of-00001.parquet"}
    assert found["features_equal"]
    assert found["rows"] == found["local_rows"]
    assert found["rows"] == {
        "user_id": ["007", "007", "8"],
        "item_id": ["a", "b", "a"],
        "timestamp": [1_600_000_000_000, None, 1_600_000_002_000],
        "row": [0, 1, 2],
        "rating": [4.5, None, 1.0],
    }
