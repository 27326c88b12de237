"""All users of a run as Parquet parts: what `recommend` says, and the same after every interruption."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import MODELS, contents, make_run, write_histories
from conftest import exit_code, make_model, make_processor, run_command
from tiny_rearec import tiny_rearec

from hf_genrec.semantic_ids.embedding import embed_texts
from hf_genrec.semantic_ids.ready_made import load_embeddings
from hf_genrec.serving.batch import Batch, PartMaker, embed, recommend_users
from hf_genrec.serving.batch_work import Recommend, history_rows
from hf_genrec.serving.part_folder import LOG
from hf_genrec.training.run_folder import RunFolder


def lists_in(folder, users) -> list[tuple[list[str], list[float]]]:
    """Per user the items and scores in the parts of a folder, which all readers take for one table."""
    rows = pq.read_table(folder).to_pylist()
    found: dict[str, list[dict]] = {user: [] for user in users}
    for row in rows:
        found[row["user_id"]].append(row)
        assert row["rank"] == len(found[row["user_id"]])
    assert [row["user_id"] for row in rows] == [user for user in users for _ in found[user]]
    return [([row["item_id"] for row in of_user], [row["score"] for row in of_user]) for of_user in found.values()]


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_lists_are_those_of_recommend(tmp_path, method, exclude_seen):
    model = MODELS[method]()
    histories = make_run(tmp_path, model)
    line = recommend_users(tmp_path, k=5, exclude_seen=exclude_seen, part_size=6)
    assert line == f"{tmp_path}/recommendations: 23 users, 115 rows, 4 parts"
    expected, scores = model.recommend(histories, k=5, exclude_seen=exclude_seen)
    found = lists_in(tmp_path / "recommendations", [f"u{user}" for user in range(23)])
    assert [items for items, _ in found] == expected
    np.testing.assert_allclose([values for _, values in found], scores, rtol=0, atol=1e-5)


def test_what_lies_in_the_folder(tmp_path, model):
    make_run(tmp_path, model, users=7)
    recommend_users(tmp_path, k=3, part_size=4)
    folder = tmp_path / "recommendations"
    assert contents(folder).keys() == {
        "part-00000.parquet", "part-00001.parquet", "_parts.jsonl", "_recommendations.json"
    }  # fmt: skip
    assert [pq.read_metadata(folder / f"part-0000{n}.parquet").num_rows for n in (0, 1)] == [12, 9]
    table = pq.read_table(folder)
    assert table.schema == pa.schema(
        {
            "user_id": pa.string(),
            "rank": pa.int32(),
            "item_id": pa.string(),
            "title": pa.string(),
            "score": pa.float32(),
        }
    )
    for row in table.to_pylist():
        assert row["title"] == model.processor.title(row["item_id"])
    manifest = json.loads((folder / "_recommendations.json").read_text())
    assert manifest["finished"] is True
    assert (manifest["users"], manifest["rows"], manifest["parts"]) == (7, 21, 2)
    assert manifest["settings"]["k"] == 3


def test_fewer_items_than_asked_for_and_none(tmp_path):
    model = tiny_rearec()
    ids = model.processor.item_ids
    model.save_pretrained(tmp_path / "model")
    path = write_histories(tmp_path / "h.parquet", [ids, ids[2:], []])
    line = recommend_users(tmp_path, tmp_path / "out", histories=path, exclude_seen=True, k=100)
    assert line.endswith("3 users, 32 rows, 1 parts, 1 users without any item")
    assert [len(items) for items, _ in lists_in(tmp_path / "out", ["u0", "u1", "u2"])] == [0, 2, 30]
    assert pq.read_table(tmp_path / "out")["title"].null_count == 0  # the ids, where the catalogue has none


def test_unknown_items_are_refused_or_left_out_and_counted(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    path = write_histories(tmp_path / "h.parquet", [["item-1"], ["item-2"], ["item-3", "new"], ["new"], ["item-4"]])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"item 'new' in the history of user 'u2' .* --unknown skip"):
        recommend_users(tmp_path, out, histories=path, part_size=2, k=4)
    done = contents(out)
    assert "part-00000.parquet" in done
    assert "part-00001.parquet" not in done
    line = recommend_users(tmp_path, out, histories=path, part_size=2, k=4, unknown="skip")
    assert line.endswith(", 2 unknown items left out")
    assert contents(out)["part-00000.parquet"] == done["part-00000.parquet"]
    expected, _ = model.recommend([["item-3"], []], k=4)
    assert [items for items, _ in lists_in(out, [f"u{user}" for user in range(5)])][2:4] == expected
    with pytest.raises(ValueError, match="was made with --unknown skip"):
        recommend_users(tmp_path, out, histories=path, part_size=2, k=4)


def test_another_setting_model_or_content_is_refused(tmp_path, model):
    make_run(tmp_path, model, users=5)
    recommend_users(tmp_path, k=3)
    before = contents(tmp_path / "recommendations")
    for name, settings in (("k", {"k": 4}), ("exclude_seen", {"exclude_seen": True}), ("part_size", {"part_size": 2})):
        with pytest.raises(ValueError, match=rf"recommendations holds recommendations with {name} .*another folder"):
            recommend_users(tmp_path, **{"k": 3, **settings})
    path = write_histories(tmp_path / "h.parquet", [["item-1"]])
    with pytest.raises(ValueError, match="with rows_from "):
        recommend_users(tmp_path, k=3, histories=path)
    make_model(make_processor(), seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"with model \w{12}\.\.\., and \w{12}\.\.\. is asked for"):
        recommend_users(tmp_path, k=3)
    with pytest.raises(ValueError, match=r"recommendations holds other files and no _embeddings\.json"):
        embed(tmp_path, output=tmp_path / "recommendations")
    with pytest.raises(ValueError, match=r"data holds other files and no _recommendations\.json"):
        recommend_users(tmp_path, tmp_path / "data")
    assert contents(tmp_path / "recommendations") == before


def test_new_items_of_the_catalogue_are_another_setting(tmp_path, model):
    make_run(tmp_path, model, users=3)
    recommend_users(tmp_path, k=3)
    taken = {tuple(codes) for codes in model.processor.codes.tolist()}
    free = next(codes for codes in np.ndindex(5, 6, 7) if codes not in taken)
    model.processor.add_items(["new"], np.array([free]))
    model.processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"recommendations with (catalogue|model) "):
        recommend_users(tmp_path, k=3)


def test_nothing_finished_is_no_other_setting(tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    path = write_histories(tmp_path / "h.parquet", [["new"]])
    with pytest.raises(ValueError, match="--unknown skip"):
        recommend_users(tmp_path, tmp_path / "out", histories=path, k=3)
    recommend_users(tmp_path, tmp_path / "out", histories=path, k=4, unknown="skip")


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "half a log line", "no log", "an older process"])
def test_a_damaged_part_is_made_again_and_no_other(tmp_path, model, damage):
    make_run(tmp_path, model, users=12)
    recommend_users(tmp_path, k=3, part_size=4)
    folder = tmp_path / "recommendations"
    whole, part, log = contents(folder), folder / "part-00001.parquet", folder / LOG
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-9])
    elif damage == "flipped":
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    elif damage == "gone":
        part.unlink()
    elif damage == "half a log line":
        lines = log.read_text().splitlines(keepends=True)
        log.write_text(lines[0] + lines[2] + lines[1][:30])
    elif damage == "no log":
        log.unlink()
    else:
        (folder / ".part-00001.parquet.4711.tmp").write_text("half")
        (folder / "._parts.jsonl.4711.tmp").write_text("half")
    kept = folder / "part-00002.parquet"
    before = kept.stat().st_ino
    recommend_users(tmp_path, k=3, part_size=4)
    assert contents(folder) == whole
    assert (kept.stat().st_ino == before) == (damage != "no log")


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", "[" * 100_000, '{"settings": [1]}', '{"settings": "k"}', "\udcff"]
)
def test_a_damaged_manifest_is_said(tmp_path, model, content):
    make_run(tmp_path, model, users=3)
    recommend_users(tmp_path, k=3)
    manifest = tmp_path / "recommendations/_recommendations.json"
    manifest.write_text(content, errors="surrogateescape")
    with pytest.raises(
        ValueError, match=r"^[^\n]*_recommendations\.json is damaged \(.*\): delete .*recommendations, or"
    ):
        recommend_users(tmp_path, k=3)


@pytest.mark.parametrize(
    "changed",
    [{"users": -5}, {"rows": 10**9}, {"parts": 77}, {"finished": "no"}, {"rows": None}, {"users": "3"}, {"more": 1}],
)
def test_figures_of_a_manifest_are_not_believed(tmp_path, model, changed):
    make_run(tmp_path, model, users=3)
    line, folder = recommend_users(tmp_path, k=3), tmp_path / "recommendations"
    whole, manifest = contents(folder), folder / "_recommendations.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changed))
    assert recommend_users(tmp_path, k=3) == line
    assert contents(folder) == whole


@pytest.mark.parametrize(
    "changed",
    [{"users": -99}, {"users": 2}, {"users": "3"}, {"users": None}, {"rows": 10**9}, {"unknown_items": "x"},
     {"unknown_items": -1}, {"unknown_items": True}, {"more": 1}, {"file": 3}, {"file": f"part-{'9' * 5000}.parquet"},
     {"sha256": 1}, None, [1], "deep"],
)  # fmt: skip
def test_a_record_that_is_not_of_its_part_is_not_believed(tmp_path, model, changed):
    make_run(tmp_path, model, users=3)
    line, folder = recommend_users(tmp_path, k=3), tmp_path / "recommendations"
    whole, log = contents(folder), folder / LOG
    record = json.dumps(json.loads(log.read_text()) | changed if isinstance(changed, dict) else changed)
    log.write_text("[" * 100_000 if changed == "deep" else record)
    assert recommend_users(tmp_path, k=3) == line
    assert contents(folder) == whole


@pytest.mark.parametrize(
    "name", ["part-00002.parquet", "part-00000 (copy).parquet", "other.parquet", "old/part.parquet"]
)
def test_what_readers_would_take_for_a_part_is_refused(tmp_path, model, name):
    make_run(tmp_path, model, users=4)
    recommend_users(tmp_path, k=3, part_size=2)
    folder = tmp_path / "recommendations"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes((folder / "part-00000.parquet").read_bytes())
    with pytest.raises(
        ValueError, match=rf"recommendations/{name.split('/')[0][:10]}.* is none of the 2 parts of recomm"
    ):
        recommend_users(tmp_path, k=3, part_size=2)


def killed(run, output, after: float) -> bool:
    """Whether the command was killed so many seconds after its first part appeared or its work began."""
    command = [sys.executable, "-m", "hf_genrec.cli", "recommend", run, "--all-users", "-k", "3", "--part-size", "3"]
    process = subprocess.Popen([*map(str, command), "--output", str(output)], stderr=subprocess.DEVNULL)
    while not (output / "_recommendations.json").is_file() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_ten_times_it_is_the_uninterrupted_one(tmp_path, model):
    make_run(tmp_path, model, users=4000)
    recommend_users(tmp_path, tmp_path / "whole", k=3, part_size=3)
    whole, output, rng = contents(tmp_path / "whole"), tmp_path / "killed", random.Random(0)
    parts, kills = [], 0
    while kills < 10:
        kills += killed(tmp_path, output, rng.uniform(0, 4))
        found = {name: content for name, content in contents(output).items() if name.startswith("part-")}
        assert found.items() <= whole.items()  # none half written
        parts.append(len(found))
    assert parts == sorted(parts)
    recommend_users(tmp_path, output, k=3, part_size=3)
    assert contents(output) == whole


def _in_a_child(work) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()


@pytest.mark.parametrize("renames", range(1, 7))
def test_killed_behind_each_rename(tmp_path, model, renames):
    make_run(tmp_path, model, users=4)
    recommend_users(tmp_path, tmp_path / "whole", k=3, part_size=2)

    def work():
        done, replace = [0], os.replace

        def counted(*names):
            replace(*names)
            done[0] += 1
            if done[0] == renames:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted
        recommend_users(tmp_path, tmp_path / "killed", k=3, part_size=2)

    _in_a_child(work)
    recommend_users(tmp_path, tmp_path / "killed", k=3, part_size=2)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# Not ru_maxrss: a process inherits that of its parent.
PEAK = """
import sys
from hf_genrec.serving.batch import recommend_users
recommend_users("", sys.argv[1] + "-out", histories=sys.argv[1], k=10, part_size=2000)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_users(tmp_path):
    model = tiny_rearec()
    model.save_pretrained(tmp_path / "model")
    ids, peaks = model.processor.item_ids, []
    for users in (10_000, 200_000):
        rng = np.random.default_rng(0)
        ends = np.arange(users + 1, dtype=np.int32) * 40
        items = pa.array(ids).take(pa.array(rng.integers(0, len(ids), ends[-1])))
        write_histories(tmp_path / f"{users}.parquet", pa.ListArray.from_arrays(pa.array(ends), items))
        command = [sys.executable, "-c", PEAK, f"{users}.parquet"]
        finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        peaks.append(int(finished.stdout) / 1024)
    assert peaks[1] - peaks[0] < 30, peaks  # MiB; the larger file holds 8 million ids


def test_files_that_change_meanwhile_are_noticed(tmp_path, model):
    make_run(tmp_path, model, users=5)
    folder = RunFolder(tmp_path)
    batch = Batch(Recommend(folder.model, k=3), history_rows(folder), tmp_path, 2)
    settings = batch.settings()
    with pytest.raises(ValueError, match="fewer rows than it had"):
        PartMaker(batch, settings)(3)
    make_model(make_processor(), seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="model is not what it was when the command began"):
        PartMaker(batch, settings)


def test_two_processes_do_not_write_into_one_folder(tmp_path, model):
    from hf_genrec.files import working_in

    make_run(tmp_path, model, users=3)
    with working_in(tmp_path / "recommendations"), pytest.raises(OSError, match="another command is at work"):
        recommend_users(tmp_path)


# ---- the command ----


def test_the_command(tmp_path, monkeypatch, capsys, model):
    histories = make_run(tmp_path, model, users=5)
    printed = run_command(monkeypatch, capsys, "recommend", tmp_path, "--all-users", "-k", "2", "--part-size", "2")
    assert printed == f"{tmp_path}/recommendations: 5 users, 10 rows, 3 parts\n"
    path = write_histories(tmp_path / "h.parquet", histories)
    options = ["-k", "2", "--part-size", "2", "--output", tmp_path / "out"]
    run_command(monkeypatch, capsys, "recommend", tmp_path, "--histories", path, *options)
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(tmp_path / "recommendations"))


@pytest.mark.parametrize(
    "options",
    [
        ["--all-users", "--user", "u1"],
        ["--all-users", "--history", "item-1"],
        ["--all-users", "--stranger"],
        ["--all-users", "--histories", "h.parquet"],
        ["--all-users", "-k", "0"],
        ["--all-users", "--part-size", "0"],
        ["--all-users", "--unknown", "drop"],
        ["--all-users", "--engine", "spark"],
        ["--all-users", "--workers", "2"],
        ["--all-users", "--engine", "ray", "--workers", "0"],
        ["--histories", "nothing.parquet"],
        ["--user", "u1", "--output", "somewhere"],
        ["--user", "u1", "--part-size", "3"],
        ["--user", "u1", "--engine", "local"],
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, model, options):
    make_run(tmp_path, model, users=2)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert exit_code("recommend", tmp_path, *options) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# ---- embed ----


@pytest.fixture
def items(tmp_path):
    table = {"item_id": ["a", "b", "7"], "title": ["Alien", "Heat", None], "tags": [["x", "y"], None, ["z"]]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def test_embeddings_of_text_are_those_of_tokenize(tmp_path, items, monkeypatch, capsys):
    options = ["--text-columns", "title", "--text-columns", "tags", "--part-size", "2"]
    printed = run_command(monkeypatch, capsys, "embed", items, "--output", tmp_path / "out", *options)
    assert printed == f"{tmp_path}/out: 3 items, 3 rows, 2 parts\n"
    expected = embed_texts(["Alien. x, y.", "Heat.", "z."], cache_folder=tmp_path / "cache")
    found = load_embeddings(tmp_path / "out", ["7", "a", "b"])
    np.testing.assert_allclose(found, expected[[2, 0, 1]], rtol=0, atol=1e-6)
    assert pq.read_schema(tmp_path / "out/part-00000.parquet").field("embedding").type == pa.list_(pa.float32())


def test_the_default_text_columns_are_those_of_tokenize(tmp_path, items):
    line = embed(items, output=tmp_path / "out")
    assert line.endswith("3 items, 3 rows, 1 parts, 1 items without text, whose id stands in")
    manifest = json.loads((tmp_path / "out/_embeddings.json").read_text())
    assert manifest["settings"]["text_columns"] == ["title"]
    with pytest.raises(ValueError, match="with text_columns "):
        embed(items, output=tmp_path / "out", text_columns=["tags"])


def test_vectors_of_users_and_items_multiply_to_scores(tmp_path):
    model = tiny_rearec()
    histories = make_run(tmp_path, model, users=9)
    assert embed(tmp_path, "users", part_size=4).endswith("9 users, 9 rows, 3 parts")
    assert embed(tmp_path, "items", part_size=7).endswith("30 items, 30 rows, 5 parts")
    users = pq.read_table(tmp_path / "embeddings/users")
    items = pq.read_table(tmp_path / "embeddings/items")
    assert users["user_id"].to_pylist() == [f"u{user}" for user in range(9)]
    assert items["item_id"].to_pylist() == model.processor.item_ids
    scores = np.array(users["embedding"].to_pylist()) @ np.array(items["embedding"].to_pylist()).T
    np.testing.assert_allclose(scores, model.score_items(histories).numpy(), rtol=0, atol=1e-5)


def test_embed_refuses_what_it_cannot_do(tmp_path, model, items):
    make_run(tmp_path / "run", model, users=2)
    for arguments, message in (
        (
            (tmp_path / "run", "users"),
            "is a model of care, which has no vectors of users and items: rearec or s3rec has",
        ),
        ((tmp_path / "run", "items"), "is a model of care"),
        ((tmp_path / "run", "faces"), "use text, users or items"),
        ((items,), "is no run folder: name a folder for the result as --output"),
        ((items, "users", tmp_path / "out"), "holds no trained model"),
        ((tmp_path / "nothing", "text", tmp_path / "out"), "is no Parquet file"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            embed(*arguments)
    with pytest.raises(ValueError, match="no column 'name'"):
        embed(items, output=tmp_path / "out", text_columns=["name"])
    pq.write_table(pa.table({"item_id": ["a"], "name": ["b"]}), items)
    with pytest.raises(ValueError, match="has no column title or categories or description"):
        embed(items, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
