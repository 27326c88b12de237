"""Pushing to a Hub and loading from it, over HTTP to one on this machine: transformers' and datasets' own clients."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
from conftest import exit_code, make_model, make_processor
from huggingface_hub import DatasetCard
from learned_tokenizers import make_rq_vae
from loopback_hub import LoopbackHub

from hf_genrec.data.prepared import PreparedData
from hf_genrec.hub import WITHOUT_LIBRARY, save_model, write_model_card
from hf_genrec.item_tokenizers import load_item_tokenizer

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
from conftest import exit_code, make_model, make_processor
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

COMMANDS = """
import io, json, traceback
from contextlib import redirect_stderr, redirect_stdout
from hf_genrec import cli

found = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["hf-genrec", *command]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as finished:
            code = finished.code
        except BaseException:
            code, _ = "traceback", err.write(traceback.format_exc())
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""

LOAD = (
    WITHOUT_LIBRARY
    + """
import json
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

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
    answers = pipeline("recommendation", model=repo_id, **place)(histories, k=5)
    assert [[item["item_id"] for item in line] for line in answers] == recommended[-1][0]
print(json.dumps({"recommended": recommended, "generated": generated}))
"""
)

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

LOAD_TOKENIZER = (
    WITHOUT_LIBRARY
    + """
import json
import torch
from transformers import AutoModel
place = {"subfolder": "item_tokenizer", "revision": "next", "trust_remote_code": True}
tokenizer = AutoModel.from_pretrained("my-org/whole", **place)
vectors = torch.linspace(-1, 1, 5 * tokenizer.config.vector_dim).reshape(5, -1)
print(json.dumps(tokenizer.encode(vectors).tolist()))
"""
)

LOAD_DATA = (
    WITHOUT_LIBRARY
    + """
import json
import datasets
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = datasets.config.USE_PARQUET_EXPORT = False
repo_id, revision = json.loads(sys.argv[1])
names = ("interactions", "items", "sequences")
tables = {name: datasets.load_dataset(repo_id, name, split="train", revision=revision) for name in names}
print(json.dumps({name: table[:] for name, table in tables.items()}))
"""
)

HISTORIES = [["item-3", "item-9"], []]


def started(program: str, hub: LoopbackHub, home: Path, *arguments: str) -> subprocess.Popen:
    """A process that knows no Hub but this one and has nothing cached."""
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
    command = [sys.executable, "-c", LOOPBACK_ONLY + program, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=kept | environment, cwd=home, **pipes)


def run(program: str, hub: LoopbackHub, home: Path, *arguments: str):
    """What `program` prints in such a process."""
    process = started(program, hub, home, *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def run_commands(hub: LoopbackHub, home: Path, *commands) -> list[tuple[int, str, str]]:
    """Of each `hf-genrec` command its exit code and what it prints, all in one process."""
    found = run(COMMANDS, hub, home, json.dumps([[str(word) for word in command] for command in commands]))
    for code, _, err in found:
        assert code != "traceback", err
    return [tuple(one) for one in found]


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


def as_pushed(files: dict[str, bytes], repo_id: str) -> dict[str, bytes]:
    """With a card whose call names the repository instead of the run."""
    card = files["README.md"].replace(b'from_pretrained("run",', f'from_pretrained("{repo_id}",'.encode())
    assert card != files["README.md"]
    return files | {"README.md": card}


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


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run with a model, its item tokenizer and a card."""
    folder = tmp_path_factory.mktemp("push") / "run"
    make_rq_vae().save_pretrained(folder.parent / "tokenizer")
    save_model(make_model(make_processor()), folder / "model", folder.parent / "tokenizer")
    write_model_card(folder / "model", folder / "results")
    return folder


def test_where_a_push_goes(hub, run_folder, tmp_path):
    """To a branch, a private repository, a pull request, or nowhere; what cannot be is one line."""
    hub.add_commit("model", "my-org/public", {"README.md": b"old"})
    cases = [
        ["my-org/nowhere", "--dry-run", "--revision", "next", "--private"],
        ["my-org/secret", "--private"],
        ["my-org/secret", "--private", "--dry-run"],
        ["my-org/public", "--private"],
        ["my-org/public", "--revision", "next"],
        ["my-org/public", "--revision", "next"],
        ["my-org/public", "--create-pr"],
        ["my-org/public", "--create-pr"],
        ["my-org/nobody", "--create-pr"],
        ["my-org/public", "--create-pr", "--revision", "next"],
        ["my-org/public", "--revision", ""],
        ["not a name", "--dry-run"],
    ]
    found = run_commands(hub, tmp_path / "home", *(["push", run_folder, *case] for case in cases))
    expected = read(run_folder / "model")

    code, listed, _ = found[0]
    assert code == 0
    lines = listed.splitlines()
    assert {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines[:-1]} == {
        name: len(content) for name, content in as_pushed(expected, "my-org/nowhere").items()
    }
    total = sum(map(len, as_pushed(expected, "my-org/nowhere").values()))
    assert lines[-1] == (
        f"{len(expected)} files, {total:,} bytes, for the private model repository my-org/nowhere, on branch next; "
        "nothing was uploaded"
    )
    assert ("model", "my-org/nowhere") not in hub.history

    assert found[1][:2] == (0, f"{hub.url}/my-org/secret/commit/{hub.at('model', 'my-org/secret').sha}\n")
    assert ("model", "my-org/secret") in hub.private
    assert hub.files("my-org/secret") == as_pushed(expected, "my-org/secret")
    assert read(run_folder / "model") == expected
    assert found[2][0] == 0

    assert found[3][0] == 2
    assert "error: my-org/public exists already and is public: make it private first" in found[3][2]
    assert [code for code, *_ in found[4:8]] == [0, 0, 0, 0]
    expected = as_pushed(expected, "my-org/public")
    assert hub.files("my-org/public", "next") == expected
    assert [out.strip() for _, out, _ in found[6:8]] == [
        f"{hub.url}/my-org/public/discussions/{number}" for number in (1, 2)
    ]
    assert hub.files("my-org/public", "refs/pr/1") == expected
    assert hub.files("my-org/public") == {"README.md": b"old"}

    messages = ["my-org/nobody does not exist, so nobody can merge", "--create-pr asks the main branch", "is empty"]
    for (code, _, err), message in zip(found[8:11], messages, strict=True):
        assert code == 2
        assert message in err
        assert sum(line.startswith("error: ") for line in err.splitlines()) == len(err.splitlines()) == 1
    assert found[11][0] == 2
    assert ("model", "my-org/nobody") not in hub.history


@pytest.mark.slow
def test_a_stranger_loads_the_item_tokenizer_of_a_branch(hub, run_folder, tmp_path):
    run_commands(hub, tmp_path / "home", ["push", run_folder, "my-org/whole", "--revision", "next"])
    assert hub.files("my-org/whole") == {}
    tokenizer = load_item_tokenizer(run_folder / "model/item_tokenizer")
    vectors = torch.linspace(-1, 1, 5 * tokenizer.config.vector_dim).reshape(5, -1)
    assert run(LOAD_TOKENIZER, hub, tmp_path / "stranger") == tokenizer.encode(vectors).tolist()


@pytest.mark.slow
def test_a_push_that_is_killed_leaves_the_branch_as_it_was(hub, run_folder, tmp_path):
    hub.add_commit("model", "my-org/killed", {"README.md": b"old"})
    hub.add_branch("model", "my-org/killed", "next")
    before = hub.at("model", "my-org/killed")
    hub.waiting.clear()
    hub.open.clear()
    try:
        for place, options in enumerate([[], ["--revision", "next"], ["--create-pr"]]):
            command = json.dumps([["push", str(run_folder), "my-org/killed", *options]])
            process = started(COMMANDS, hub, tmp_path / f"home-{place}", command)
            assert hub.waiting.wait(120), process.communicate()[1][-3000:]
            process.kill()
            assert process.wait() == -signal.SIGKILL
            process.communicate()
            hub.waiting.clear()
    finally:
        hub.open.set()
    assert hub.at("model", "my-org/killed") == hub.at("model", "my-org/killed", "next") == before
    assert set(hub.branches["model", "my-org/killed"]) == {"next"}
    ((code, _, _),) = run_commands(hub, tmp_path / "home", ["push", run_folder, "my-org/killed"])
    assert code == 0
    assert hub.files("my-org/killed") == read(run_folder / "model")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_or_refuses_is_one_line(run_folder, tmp_path):
    with LoopbackHub() as gone:
        pass
    with LoopbackHub() as strict:
        found = run_commands(gone, tmp_path / "gone", ["push", run_folder, "my-org/model"])
        strict.token, token = "another", strict.token
        try:
            strict_client = LoopbackHub.__new__(LoopbackHub)
            strict_client.url, strict_client.token = strict.url, token
            found += run_commands(strict_client, tmp_path / "strict", ["push", run_folder, "my-org/model"])
        finally:
            strict.token = token
    for (code, _, err), message in zip(found, [f"{gone.url} cannot be reached", "401"], strict=True):
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1


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


@pytest.fixture(scope="module")
def prepared_run(own_data) -> Path:
    """The data of somebody's log, and a model over its items."""
    folder = own_data / "pushed-data"
    assert exit_code("prepare", "--config", own_data / "mine.yaml", "--output_dir", folder) == 0
    item_ids = PreparedData.load(folder / "data").item_ids
    processor = make_processor(len(item_ids))
    processor.set_catalogue(item_ids, processor.codes)
    make_model(processor).save_pretrained(folder / "model")
    return folder


def test_data_travel_with_a_card(hub, prepared_run, own_data, tmp_path):
    target = ["push-data", prepared_run, "my-org/films"]
    options = [["--dry-run"], [], ["--revision", "next", "--license", "cc-by-4.0"], ["--private"]]
    dry, *found = run_commands(hub, tmp_path / "home", *([*target, *more] for more in options))
    assert [code for code, *_ in (dry, *found)] == [0, 0, 0, 2]
    assert "is public" in found[-1][2]
    files = hub.files("my-org/films", kind="dataset")
    assert [line.split()[-1] for line in dry[1].splitlines()[:-1]] == sorted(files)
    assert "for the dataset repository my-org/films" in dry[1]
    assert set(files) == {
        "README.md",
        "interactions/train-00000-of-00001.parquet",
        "items/train-00000-of-00001.parquet",
        "prepared/sequences.parquet",
        "prepared/items.parquet",
        "prepared/prepare.json",
    }
    # One commit behind the first, empty one; nothing says where the files lay.
    assert len(hub.commits("dataset", "my-org/films")) == 2
    assert not [name for name, content in files.items() if str(own_data).encode() in content]

    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "unknown"
    assert card.data.size_categories == "n<1K"
    assert [config["config_name"] for config in card.data.configs] == ["interactions", "items", "sequences"]
    assert "| read | 320 | 40 | 24 |" in card.text
    assert "| test | 40 | 40 |" in card.text
    assert "the one before it the validation target" in card.text
    assert "`log.csv`, `films.csv`" in card.text
    assert DatasetCard(hub.files("my-org/films", "next", "dataset")["README.md"].decode()).data.license == "cc-by-4.0"


@pytest.mark.slow
def test_a_stranger_loads_the_data(hub, prepared_run, tmp_path):
    run_commands(hub, tmp_path / "home", ["push-data", prepared_run, "my-org/loaded", "--revision", "next"])
    found = run(LOAD_DATA, hub, tmp_path / "stranger", json.dumps(["my-org/loaded", "next"]))
    prepared = PreparedData.load(prepared_run / "data")
    assert found["sequences"]["user_id"] == prepared.user_ids
    assert found["sequences"]["item_ids"][3] == [prepared.item_ids[row] for row in prepared.sequences[3]]
    assert len(found["interactions"]["user_id"]) == 320
    assert found["interactions"]["timestamp"][1] == 1_600_001_000_000
    assert found["items"]["title"][5] == "Film number 5"


def test_what_may_not_be_passed_on_is_not(prepared_run, own_data, tmp_path, capsys):
    report = json.loads((prepared_run / "data/prepare.json").read_text())
    copytree(prepared_run / "data", tmp_path / "data")
    report["settings"]["source"] = "movielens"
    (tmp_path / "data/prepare.json").write_text(json.dumps(report))
    assert exit_code("push-data", tmp_path, "my-org/movies", "--dry-run") == 2
    assert "may not be redistributed without separate permission" in capsys.readouterr().err
    report["settings"]["source"] = "tabular"
    report["sources"]["source_path"]["fingerprint"] = "of another file"
    (tmp_path / "data/prepare.json").write_text(json.dumps(report))
    assert exit_code("push-data", tmp_path, "my-org/movies", "--dry-run") == 2
    assert "has changed since" in capsys.readouterr().err


@pytest.mark.slow
def test_a_strangers_model_is_evaluated_on_data_of_the_hub(hub, prepared_run, tmp_path):
    output = tmp_path / "figures.json"
    *_, (code, _, err) = run_commands(
        hub,
        tmp_path / "home",
        ["push", prepared_run, "my-org/model", "--revision", "next"],
        ["push-data", prepared_run, "my-org/films-2"],
        ["evaluate", "my-org/model", "--revision", "next", "--data", "my-org/films-2", "--output", output],
    )
    assert code == 0, err
    local = tmp_path / "local.json"
    assert exit_code("evaluate", prepared_run, "--data", prepared_run, "--output", local) == 0
    first, second = (json.loads(path.read_text())["CARE"] for path in (output, local))
    assert first["metrics"] == second["metrics"]
    assert (first["model"], first["revision"]) == ("my-org/model", "next")
    assert first["data_set"] == "log.csv"
