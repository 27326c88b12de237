"""Small logs, damaged at random: each becomes the data that plain Python makes of it, or one clear line."""

import csv
import gzip
import io
import json
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.preparation import prepare
from hf_genrec.dataset_scripts import load_source

START = 1_500_000_000
COLUMNS = ["user", "item", "when", "stars"]
NASTY = [
    *("", " ", "\t", "nan", "NaN", "None", "null", "inf", "-1", "0", "1e3", "1_0", "10.0", "007", "0x1f", "9" * 30),
    *("a,b", 'a"b', "a\nb", "a\rb", "é", "\U0001f3ac", "'", "\\", "#", "\x00", "x" * 140_000, "2020-01-01", "true"),
]
OBJECTS = [None, True, False, 1.5, 3.0, float("nan"), -1, 0, 2**63, [], ["a"], {}, {"x": 1}, "\ud800", 10**400]


def log(random):
    """User, item, seconds and rating of each row, users in turn; repeats and ties among them."""
    rows = []
    for user in range(random.randint(1, 5)):
        for _ in range(random.randint(1, 6)):
            seconds = START + random.randint(0, 6) * random.choice([1, 86_400])
            rows.append([f"u{user}", f"i{random.randint(0, 5)}", seconds, random.randint(1, 5)])
    random.shuffle(rows)
    return rows


def mutated(rows, random, cells):
    rows = [list(row) for row in rows]
    for _ in range(random.choice([0, 0, 1, 1, 2, 4])):
        rows[random.randrange(len(rows))][random.randrange(4)] = random.choice(cells)
    return rows


def delimited(rows, random, delimiter):
    text = io.StringIO()
    quoting = random.choice([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])  # or csv leaves the break in a\rb unquoted
    writer = csv.writer(text, delimiter=delimiter, lineterminator=random.choice(["\n", "\r\n"]), quoting=quoting)
    writer.writerows([COLUMNS, *rows])
    return text.getvalue().encode()


def damaged(content, random):
    """A few bytes changed, taken out, put in twice, or the end cut off."""
    content = bytearray(content)
    for _ in range(random.choice([0, 0, 0, 0, 1, 2])):
        place = random.randrange(len(content))
        kind = random.randrange(4)
        if kind == 0:
            content[place] = random.choice(b'",\n\t{}[]\xff\x00a1')
        elif kind == 1:
            del content[place : place + random.randint(1, 9)]
        elif kind == 2:
            content[place:place] = content[place : place + random.randint(1, 40)]
        else:
            del content[place:]
        if not content:
            return b""
    return bytes(content)


def write(folder, random):
    """A file and what a correct reader gets of it: rows of four cells, or None where the bytes are damaged."""
    rows, kind = log(random), random.choice(["csv", "tsv", "jsonl", "parquet"])
    if kind == "parquet":
        return parquet(folder, mutated(rows, random, NASTY[:20]) if random.random() < 0.3 else rows, random)
    if kind == "jsonl":
        rows = mutated(rows, random, OBJECTS + NASTY)
        content = "\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows).encode()
    else:
        rows = mutated(rows, random, NASTY)
        content = delimited(rows, random, "," if kind == "csv" else "\t")
    broken = damaged(content, random)
    packed = random.random() < 0.2
    path = folder / f"log.{kind}{'.gz' * packed}"
    stored = gzip.compress(broken) if packed else broken
    if packed and random.random() < 0.2:
        broken, stored = b"", stored[: random.randrange(len(stored))]
    path.write_bytes(stored)
    return path, rows if broken == content else None


def parquet(folder, rows, random):
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    text = any(isinstance(cell, str) for cell in columns["when"] + columns["stars"])
    kinds = {"user": [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]}
    kinds["item"] = kinds["user"]
    if not text:
        kinds["when"] = [pa.int64(), pa.float64(), *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns")
                                                     for zone in (None, "UTC", "Asia/Tokyo"))]  # fmt: skip
        kinds["stars"] = [pa.int8(), pa.float32(), pa.float64()]
    arrays, bad = {}, random.random() < 0.2
    for name, cells in columns.items():
        kind = random.choice(kinds.get(name, [pa.string()]))
        if name not in kinds:
            cells = [str(cell) for cell in cells]
        if pa.types.is_timestamp(kind):
            cells = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=cell) for cell in cells]
        arrays[name] = pa.array(cells, kind)
    if bad:
        wrong = random.choice([[True], [["a"]], [{"x": 1}], [[{"x": 1}]], [b"\xff"]])
        arrays[random.choice(COLUMNS[:3])] = pa.array(wrong * len(rows))
    pq.write_table(pa.table(arrays), folder / "log.parquet", row_group_size=random.choice([1, 3, 100]))
    if random.random() < 0.1:
        content = (folder / "log.parquet").read_bytes()
        (folder / "log.parquet").write_bytes(damaged(content, random))
        return folder / "log.parquet", None if damaged else rows
    return folder / "log.parquet", rows if not bad else None


def understood(cell, number):
    """What an id, or a number, of a cell is; a ValueError where it is none."""
    if cell is None or cell == "" or (isinstance(cell, float) and cell != cell and not number):
        return None
    if isinstance(cell, bool | list | dict) or cell == "\ud800":
        raise ValueError
    if number:
        value = float(cell) if not isinstance(cell, int) or abs(cell) < 2**64 else float("inf")
        if "_" in str(cell) or value in (float("inf"), float("-inf")) or value != value:
            raise ValueError
        return value
    if isinstance(cell, float):
        if cell % 1:
            raise ValueError
        cell = int(cell)
    return str(cell) if str(cell).strip() else None


def expected_rows(rows):
    """User, item and milliseconds of each row; a ValueError where one is bad."""
    found = []
    for user, item, when, stars in rows:
        user, item, seconds = understood(user, False), understood(item, False), understood(when, True)
        understood(stars, True)
        if user is None or item is None or (seconds is not None and abs(seconds) > 253_402_300_800):
            raise ValueError
        found.append((user, item, None if seconds is None else round(seconds * 1000)))
    return found


def expected_sequences(rows):
    """Per user the items in order of time and file; a ValueError where that cannot be said, or not believed."""
    times = [milliseconds for _, _, milliseconds in rows]
    known = [time for time in times if time is not None]
    if 0 < len(known) < len(times) or any(not 0 <= time < 2_000_000_000_000 for time in known):
        raise ValueError
    users = defaultdict(list)
    for place, (user, item, milliseconds) in enumerate(rows):
        users[user].append((milliseconds or 0, place, item))
    return {user: [item for _, _, item in sorted(events)] for user, events in users.items()}


def outcome(step):
    """What a step makes, or the one line that says why it does not."""
    try:
        return step()
    except (ValueError, OSError) as error:
        found = str(error)
        assert len(found.splitlines()) == 1
        assert len(found) < 1000
        return found


def wanted(step):
    try:
        return step()
    except ValueError:
        return None


def sequences(tables, arguments):
    prepared = prepare(tables["interactions"], tables["items"], arguments)
    lists = [[prepared.item_ids[row] for row in sequence] for sequence in prepared.sequences]
    return dict(zip(prepared.user_ids, lists, strict=True))


@pytest.mark.parametrize("block", range(10))
def test_right_data_or_one_clear_line(tmp_path, block):
    kinds = set()
    for seed in range(30 * block, 30 * block + 30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, rows = write(folder, random.Random(seed))
        arguments = DataArguments(
            source="tabular", source_path=str(path), user_column="user", item_column="item", time_column="when",
            rating_column="stars",
        )  # fmt: skip
        tables = outcome(lambda: load_source(arguments, cache_dir=str(folder / "cache")))  # noqa: B023
        if isinstance(tables, str):
            kinds.add("refused")
            assert str(path) in tables, seed
            assert rows is None or wanted(lambda: expected_rows(rows)) is None, (seed, tables)  # noqa: B023
            continue
        read = [(row["user_id"], row["item_id"], row["timestamp"]) for row in tables["interactions"]]
        kinds.add("read")
        if rows is not None:
            assert read == wanted(lambda: expected_rows(rows)), seed  # noqa: B023
        if seed % 3 == 0:  # making sequences takes longer
            found = outcome(lambda: sequences(tables, arguments))  # noqa: B023
            expected = wanted(lambda: expected_sequences(read))  # noqa: B023
            assert (None if isinstance(found, str) else found) == expected, (seed, found)
    assert kinds == {"refused", "read"}
