"""The CSV of CARE, MiniOneRec and D3: a target a row, with the items before it."""

import csv
import gzip
import json

import numpy as np
import pytest
from conftest import exit_code

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.preparation import prepare
from hf_genrec.data.prepared import PreparedData
from hf_genrec.dataset_scripts import load_source
from hf_genrec.method import open_model
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.ready_made import load_embeddings

COLUMNS = [
    "user_id", "item_asins", "item_asin", "history_item_id", "item_id", "history_item_title", "item_title",
    "history_rating", "rating", "history_timestamp", "timestamp",
]  # fmt: skip
NAME, WINDOW = "Video_Games_5_2012-10-2018-11", 4
USERS, ITEMS = 30, 12
PARTS = ("train", "valid", "test")


def log():
    """user -> [(item, rating, seconds)], in order of time; days are shared by many."""
    rng = np.random.default_rng(0)
    found = {}
    for user in range(USERS):
        start = int(rng.integers(0, 20))
        items = rng.permutation(np.arange(user % 2, ITEMS, 2))
        days = np.sort(rng.integers(start, start + 12, len(items)))
        found[f"A{user:02d}"] = [
            (int(item), 1.0 + user % 5, 1_400_000_000 + 86_400 * int(day))
            for item, day in zip(items, days, strict=True)
        ]
    return found


def title(item):
    return f'Game {item}, it\'s a "hit"' if item == 3 else f"Game {item}"


def published_rows():
    """The rows of the three files: every item but a user's first is a target, the oldest ones are the training's."""
    rows = []
    for user, events in log().items():
        items, ratings, times = map(list, zip(*events, strict=True))
        asins, titles = [f"B{item:09d}" for item in items], list(map(title, items))
        for place in range(1, len(items)):
            cut = slice(max(place - WINDOW, 0), place)
            row = [user]
            for column in (asins, items, titles, ratings, times):
                row += [column[cut], column[place]]
            rows.append(row)
    rows.sort(key=lambda row: row[-1])
    first, second = int(len(rows) * 0.8), int(len(rows) * 0.9)
    return rows[:first], rows[first:second], rows[second:]


def write(folder, parts, columns=COLUMNS, name=NAME, compressed=False):
    keep = [COLUMNS.index(column) for column in columns]
    for part, rows in zip(PARTS, parts, strict=True):
        (folder / part).mkdir(parents=True, exist_ok=True)
        path = folder / part / f"{name}.csv{'.gz' if compressed else ''}"
        with (gzip.open if compressed else open)(path, "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([row[place] for place in keep] for row in rows)
    return folder


def arguments(path, **settings):
    return DataArguments(source="care_csv", source_path=str(path), split="given", **settings)


def load(folder, path=None, **settings):
    return load_source(arguments(path or folder, **settings), cache_dir=str(folder / "cache"))


@pytest.mark.parametrize(
    "columns", [COLUMNS, ["user_id", "history_item_id", "item_id", "history_item_title", "item_title"]]
)
def test_sequences_and_split_are_those_of_the_rows(tmp_path, columns):
    train, valid, test = published_rows()
    write(tmp_path, (train, valid, test), columns)
    tables = load(tmp_path)
    prepared = prepare(tables["interactions"], tables["items"], arguments(tmp_path, max_history=WINDOW))
    events = log()
    assert set(prepared.user_ids) == set(events)
    for user, sequence, validation, held_out in zip(
        prepared.user_ids, prepared.sequences, prepared.num_validation, prepared.num_test, strict=True
    ):
        assert [int(prepared.item_ids[row]) for row in sequence] == [item for item, _, _ in events[user]]
        assert validation == sum(row[0] == user for row in valid)
        assert held_out == sum(row[0] == user for row in test)
    # What is trained on is each training row, and each user's first item, which no row has as its target
    examples = NextItemExamples(prepared.train_sequences(), "all", WINDOW)
    found = sorted(
        (prepared.item_ids[example["target"]], [prepared.item_ids[row] for row in example["history"]])
        for example in map(examples.__getitem__, range(len(examples)))
        if len(example["history"])
    )
    assert found == sorted((str(row[4]), list(map(str, row[3]))) for row in train)


def test_times_ratings_and_items(tmp_path):
    write(tmp_path, published_rows())
    tables = load(tmp_path)
    events = {
        (user, str(item)): (rating, 1000 * seconds) for user, rows in log().items() for item, rating, seconds in rows
    }
    interactions = list(tables["interactions"])
    assert [row["row"] for row in interactions] == list(range(len(events)))
    assert {(row["user_id"], row["item_id"]): (row["rating"], row["timestamp"]) for row in interactions} == events
    assert [row["item_id"] for row in tables["items"]] == list(map(str, range(ITEMS)))
    assert [(row["title"], row["asin"]) for row in tables["items"]][3] == (title(3), "B000000003")


def test_a_split_on_one_day_is_that_of_the_files(tmp_path):
    train, valid, _ = published_rows()
    assert train[-1][-1] == valid[0][-1]  # no time could cut there
    with pytest.raises(ValueError, match="split: given needs source: care_csv"):
        DataArguments(split="given")
    with pytest.raises(ValueError, match="and tie_order: file"):
        arguments(tmp_path, tie_order="shuffle")


def test_further_text_of_the_items(tmp_path):
    write(tmp_path, published_rows())
    texts = {"3": {"title": "Better", "categories": ["A", "B"], "brand": "Acme"}, "4": "A title alone", "99": {}}
    (tmp_path / "Video_Games.item.json").write_text(json.dumps(texts))
    items = {row["item_id"]: row for row in load(tmp_path, item_path=str(tmp_path / "Video_Games.item.json"))["items"]}
    assert (items["3"]["title"], items["3"]["categories"], items["3"]["brand"]) == ("Better", "A, B", "Acme")
    assert (items["4"]["title"], items["5"]["title"], items["5"]["brand"]) == ("A title alone", "Game 5", None)
    assert "99" not in items


def test_where_the_files_are(tmp_path):
    write(tmp_path, published_rows(), compressed=True)
    whole = list(load(tmp_path)["interactions"])
    assert list(load(tmp_path, tmp_path / "valid" / f"{NAME}.csv.gz")["interactions"]) == whole
    write(tmp_path, published_rows(), name="Toys")
    with pytest.raises(ValueError, match=r"train holds Toys\.csv, Video_.*\.csv\.gz: name one of these files"):
        load(tmp_path)
    (tmp_path / "test" / "Toys.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test/Toys\.csv is not a file: correct source_path"):
        load(tmp_path, tmp_path / "train" / "Toys.csv")
    with pytest.raises(FileNotFoundError, match="not in a folder train, valid or test"):
        load(tmp_path, tmp_path / "log.csv")
    with pytest.raises(FileNotFoundError, match=r"train/NAME\.csv is not a file"):
        load(tmp_path, tmp_path / "cache")


ROWS = [["u", "[1]", "2"], ["u", "[1, 2]", "3"]], [["u", "[2, 3]", "4"]], [["u", "['3', '4']", "5"], ["v", "[]", "1"]]
THREE = ["user_id", "history_item_id", "item_id"]


def small(folder, parts=ROWS, columns=THREE):
    for part, rows in zip(PARTS, parts, strict=True):
        (folder / part).mkdir(exist_ok=True)
        with open(folder / part / "a.csv", "w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    return folder


def test_lists_of_numbers_of_text_and_of_nothing(tmp_path):
    interactions = load(small(tmp_path))["interactions"]
    assert [(row["user_id"], row["item_id"], row["part"]) for row in interactions] == [
        ("u", "1", 0), ("u", "2", 0), ("u", "3", 0), ("u", "4", 1), ("u", "5", 2), ("v", "1", 2)
    ]  # fmt: skip


def test_a_sequence_that_begins_inside_is_said(tmp_path, caplog):
    small(tmp_path, ([["u", "[7, 1]", "2"]], [["v", "[1]", "2"]], [["u", "[1, 2]", "3"]]))
    assert [row["item_id"] for row in load(tmp_path)["interactions"]] == ["7", "1", "2", "3", "1", "2"]
    assert "1 of 2 users have several items before the target of their first row" in caplog.text


@pytest.mark.parametrize(
    ("part", "row", "message"),
    [
        (0, ["u", "[1, 9]", "3"], "line 4: history_item_id of user 'u' is ['1', '9'], the rows above say ['2', '3']"),
        (1, ["u", "[3]", "3"], "line 3: history_item_id of user 'u' is ['3'], the rows above say ['3', '4']"),
        (2, ["w", "[3", "3"], "test/a.csv, line 4: history_item_id is '[3': a list such as [3, 12] is expected"),
        (2, ["w", "open('x')", "3"], "test/a.csv, line 4: history_item_id is \"open('x')\": a list"),
        (2, ["w", "[" * 9999, "3"], "test/a.csv, line 4: history_item_id is"),
        (2, ["w", "", "3"], "test/a.csv, line 4: history_item_id is '': a list"),
        (2, ["w", "[None]", "3"], "test/a.csv, line 4: no id in column 'history_item_id'"),
        (2, ["w", "[[1]]", "3"], "test/a.csv, line 4: the id in column 'history_item_id' is a list"),
        (2, ["w", "[1]", ""], "test/a.csv, line 4: no id in column 'item_id'"),
        (2, ["", "[1]", "2"], "test/a.csv, line 4: no id in column 'user_id'"),
        (2, ["w", "[1]"], "test/a.csv, line 4: 2 fields where the header has 3"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path, part, row, message):
    parts = [list(rows) for rows in ROWS]
    parts[part].append(row)
    with pytest.raises(ValueError, match=r".") as error:
        load(small(tmp_path, parts))
    assert message in str(error.value)
    assert "(1 bad row in this file: correct or remove)" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["u", "[1]", "2", "[9]", "8"], "line 2: the time of user 'u' goes back"),
        (["u", "[1]", "2", "[]", "8"], "line 2: history_timestamp has 0 entries where history_item_id has 1"),
        (["u", "[1]", "2", "['soon']", "8"], "line 2: 'soon' is not a number"),
    ],
)
def test_bad_times_are_named(tmp_path, row, message):
    columns = [*THREE, "history_timestamp", "timestamp"]
    with pytest.raises(ValueError, match=r".") as error:
        load(small(tmp_path, [[row], [["v", "[1]", "2", "[1]", "2"]], [["w", "[1]", "2", "[1]", "2"]]], columns))
    assert message in str(error.value)


def test_missing_columns_and_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"train/a\.csv, line 1: no column 'history_item_id' \(source care_csv\)"):
        load(small(tmp_path, ROWS, ["user_id", "history", "item_id"]))
    assert len(load(small(tmp_path, ROWS, ["user", *THREE[1:]]))["interactions"]) == 6
    with pytest.raises(ValueError, match=r"valid/a\.csv holds no rows"):
        load(small(tmp_path, (ROWS[0], [], ROWS[2])))
    small(tmp_path)
    np.save(tmp_path / "a_title_map.npy", {"recid2title": {0: "Zero"}})
    with pytest.raises(ValueError, match="pickled NumPy file, which can run code and is not read") as error:
        load(tmp_path, item_path=str(tmp_path / "a_title_map.npy"))
    command = str(error.value).partition('python -c "')[2].partition('"')[0]
    exec(command, {})
    tables = load(tmp_path, item_path=str(tmp_path / "a_title_map.json"))
    assert len(tables["items"]) == 5
    assert json.loads((tmp_path / "a_title_map.json").read_text()) == {"0": "Zero"}
    for text, message in (('{"1": 3}', r"item '1': 3 is no text and no object"), ("[]", "holds no JSON object")):
        (tmp_path / "a.item.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load(tmp_path, item_path=str(tmp_path / "a.item.json"))


# ---- codes and vectors beside them ----


def published_info(folder):
    info = folder / "info"
    info.mkdir()
    index = {str(item): [f"<a_{item % 2}>", f"<b_{item // 2 % 3}>", f"<c_{item}>"] for item in range(ITEMS)}
    (info / "Video_Games.TIGER-index.json").write_text(json.dumps(index))
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 8)).astype(np.float32)
    np.save(info / "Video_Games.emb-Qwen-comb.npy", vectors)
    np.save(info / f"{NAME}_item_map.npy", {"item2id": {"B9": 0}, "id2item": {n: f"B{n}" for n in range(ITEMS)}})
    return info, index, vectors


def test_vectors_are_those_of_the_index(tmp_path):
    info, _, vectors = published_info(tmp_path)
    path = info / "Video_Games.emb-Qwen-comb.npy"
    assert np.array_equal(load_embeddings(path, ["10", "2"]), vectors[[10, 2]])
    with pytest.raises(ValueError, match="no vector of 1 of 1 items, for instance 'B3'"):
        load_embeddings(path, ["B3"])


def test_a_pickled_map_is_not_opened(tmp_path):
    info, _, vectors = published_info(tmp_path)
    (info / "Video_Games.TIGER-index.json").unlink()
    path = info / "Video_Games.emb-Qwen-comb.npy"
    with pytest.raises(ValueError, match="pickled NumPy file, which can run code and is not read") as error:
        load_embeddings(path, ["B3"])
    assert "\n" not in str(error.value)
    exec(str(error.value).partition('python -c "')[2].partition('" writes')[0], {})
    assert np.array_equal(load_embeddings(path, ["B3"]), vectors[[3]])


def test_a_map_of_plain_ids(tmp_path):
    info, _, vectors = published_info(tmp_path)
    index, path = info / "Video_Games.TIGER-index.json", info / "Video_Games.emb-Qwen-comb.npy"
    index.write_text('{"1": ["<a_0>"]}')  # of other rows
    np.save(info / f"{NAME}_item_map.npy", np.array([f"B{n}" for n in range(ITEMS)]))
    assert np.array_equal(load_embeddings(path, ["B10", "B2"]), vectors[[10, 2]])
    np.save(info / f"{NAME}_item_map.npy", np.array(["B1"]))
    with pytest.raises(ValueError, match="is no array of 12 ids, one per row"):
        load_embeddings(path, ["B1"])
    (info / f"{NAME}_item_map.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="is not a NumPy file that can be read"):
        load_embeddings(path, ["B1"])
    (info / f"{NAME}_item_map.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"emb-Qwen-comb\.ids\.txt does not exist: it names the items"):
        load_embeddings(path, ["B1"])


@pytest.mark.libraries
def test_from_the_published_files_to_a_recommendation(tmp_path):
    write(tmp_path / "data", published_rows())
    info, index, _ = published_info(tmp_path)
    shared = ["--method", "care", "--source", "care_csv", "--source_path", tmp_path / "data", "--split", "given"]
    shared += ["--codes_path", info / "Video_Games.TIGER-index.json", "--output_dir", tmp_path / "run"]
    shared += ["--max_history", str(WINDOW), "--hidden_size", "16", "--intermediate_size", "16", "--use_cpu", "true"]
    shared += ["--num_train_epochs", "1", "--disable_tqdm", "true"]
    for command in ("prepare", "tokenize", "train"):
        assert exit_code(command, *shared) == 0
    prepared = PreparedData.load(tmp_path / "run/data")
    assert prepared.item_ids == list(map(str, range(ITEMS)))
    codes = SemanticIds.load(tmp_path / "run/semantic_ids").codes
    assert codes.tolist() == [[int(token[3:-1]) for token in index[item]] for item in prepared.item_ids]
    lists, _ = open_model(tmp_path / "run").recommend(["3", "5"], k=3)
    assert len(set(lists) & set(prepared.item_ids)) == 3
