"""Ready-made item embeddings, from NumPy and Parquet files, in place of those of the items' text."""

import tracemalloc
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.build import assign_semantic_ids, encode_new_items, item_parts
from hf_genrec.semantic_ids.ready_made import load_embeddings
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
IDS = ["a", "b", "c", "10"]
WANTED = ["10", "a", "c"]
EXPECTED = VECTORS[[3, 0, 2]]


def npy(folder, vectors=VECTORS, ids=IDS):
    np.save(folder / "vectors.npy", vectors)
    (folder / "vectors.ids.txt").write_text("".join(f"{item_id}\n" for item_id in ids))
    return folder / "vectors.npy"


def parquet(folder, **columns):
    pq.write_table(pa.table(columns), folder / "vectors.parquet")
    return folder / "vectors.parquet"


def test_numpy_and_parquet_files_give_the_same_vectors_in_catalogue_order(tmp_path):
    assert np.array_equal(load_embeddings(npy(tmp_path), WANTED), EXPECTED)
    assert load_embeddings(npy(tmp_path, VECTORS.astype(np.float16)), WANTED).dtype == np.float32
    rows = VECTORS.tolist()
    for cells in (rows, pa.array(rows, pa.list_(pa.float32(), 3)), pa.array(rows, pa.large_list(pa.float64()))):
        assert np.array_equal(load_embeddings(parquet(tmp_path, item_id=IDS, title=IDS, v=cells), WANTED), EXPECTED)
    columns = {f"v{n}": VECTORS[:, n] for n in range(3)}
    assert np.array_equal(load_embeddings(parquet(tmp_path, film=IDS, title=IDS, **columns), WANTED, "film"), EXPECTED)
    # whole numbers of an id column name the same items as text
    assert np.array_equal(load_embeddings(parquet(tmp_path, item_id=[3.0, 10.0], v=rows[:2]), ["10"]), VECTORS[1:2])


def test_many_row_groups_are_read_in_order(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    ids = [f"i{row}" for row in range(50)]
    table = pa.table({"item_id": ids, "v": pa.array(list(vectors))})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=7)
    assert np.array_equal(load_embeddings(tmp_path / "v.parquet", ids[::-1]), vectors[::-1])


ATOMIC = "item_id:token\ttitle:token_seq\tv:float_seq\n" + "".join(
    f"{item_id}\tA title\t{' '.join(map(str, row))}\n" for item_id, row in zip(IDS, VECTORS.tolist(), strict=True)
)


def test_a_column_of_an_atomic_file(tmp_path):
    path = tmp_path / "mine.item"
    path.write_text("\ufeff" + ATOMIC.replace("\n", "\r\n"))
    assert np.array_equal(load_embeddings(path, WANTED), EXPECTED)
    path.write_text(ATOMIC.replace("item_id", "film"))
    assert np.array_equal(load_embeddings(path, WANTED, "film"), EXPECTED)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v:float_seq", "v:token_seq", "mine.item, line 1: one column of type float_seq is expected for"),
        ("title:token_seq", "t:float_seq", "found: t, v"),
        ("item_id", "film", "line 1: no column 'item_id' (embeddings_id_column); columns found: film, title, v"),
        ("4.0 5.0 6.0", "4.0 5.0", "mine.item, line 3 (item 'b'): a vector of 2 numbers where the first has 3"),
        ("4.0 5.0 6.0", "", "mine.item, line 3 (item 'b'): no vector: every row needs one"),
        ("4.0 5.0 6.0", "4.0 5.0 x", "mine.item, line 3 (item 'b'): '4.0 5.0 x' are no numbers between spaces"),
        ("4.0 5.0 6.0", "nan 5.0 6.0", "row 2 (item 'b') holds NaN or infinity"),
        ("b\tA", "\tA", "mine.item, line 3: no id in column 'item_id'"),
        ("b\tA title", "b", "mine.item, line 3: 2 fields where the header has 3"),
        ("b\tA", "a\tA", "rows 1 and 2 are of the same item 'a'"),
        (ATOMIC, "", "mine.item, line 1: no column 'item_id' (embeddings_id_column)"),
        (ATOMIC, ATOMIC.splitlines()[0], "no vector of 2 of 2 items"),
    ],
)  # fmt: skip
def test_bad_atomic_files_are_one_line(tmp_path, old, new, message):
    path = tmp_path / "mine.item"
    path.write_text(ATOMIC.replace(old, new))
    with pytest.raises(ValueError, match=r".") as error:
        load_embeddings(path, ["a", "b"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_atomic_file_of_another_encoding(tmp_path):
    path = tmp_path / "mine.item"
    path.write_bytes(ATOMIC.encode().replace(b"b\tA", b"b\xe9\tA"))
    with pytest.raises(ValueError, match=r"mine\.item, after line \d: not UTF-8"):
        load_embeddings(path, ["a"])


def with_nan(row):
    return np.where(np.arange(4)[:, None] == row, np.nan, VECTORS)


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (VECTORS[:, 0], IDS, r"vectors\.npy holds float32 of shape \(4,\): expected numbers, one row per item"),
        (VECTORS.astype(str), IDS, r"holds <U32 of shape"),
        (VECTORS, IDS[:3], r"vectors\.ids\.txt has 3 ids for the 4 rows of vectors\.npy"),
        (VECTORS, ["a", "b", " ", "10"], r"vectors\.ids\.txt, line 3: no id"),
        (VECTORS, ["a", "c", "a", "10"], r"rows 1 and 3 are of the same item 'a'"),
        (
            VECTORS,
            ["a", "b", "c", "d"],
            r"no vector of 1 of 3 items, for instance '10' \(the file has ids such as 'a'\)",
        ),
        (with_nan(2), IDS, r"vectors\.npy, row 3 \(item 'c'\) holds NaN or infinity"),
    ],
)
def test_bad_numpy_files_are_one_line(tmp_path, vectors, ids, message):
    with pytest.raises(ValueError, match=message) as error:
        load_embeddings(npy(tmp_path, vectors, ids), WANTED)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"film": IDS, "v": VECTORS.tolist()}, r"no column 'item_id' \(embeddings_id_column\); columns found: film, v"),
        ({"item_id": [True] * 4, "v": VECTORS.tolist()}, r"column 'item_id' \(embeddings_id_column\) is of type bool"),
        ({"item_id": ["a", None, "c", "d"], "v": VECTORS.tolist()}, r"row 2: no id"),
        (
            {"item_id": IDS, "v": [[1.0], [2.0], [1.0, 2.0], [3.0]]},
            r"row 3 \(item 'c'\): a vector of 2 numbers where row",
        ),
        ({"item_id": IDS, "v": [[1.0], None, [1.0], [3.0]]}, r"row 2 \(item 'b'\): no vector, or an empty one: every"),
        ({"item_id": IDS, "v": [None, [1.0], [1.0], [3.0]]}, r"row 1 \(item 'a'\): no vector, or an empty one: every"),
        ({"item_id": IDS, "v": [[1.0], [2.0], [None], [3.0]]}, r"row 3 \(item 'c'\) holds NaN or infinity"),
        ({"item_id": IDS, "v": [1.0, 2.0, None, 3.0]}, r"row 3 \(item 'c'\) holds NaN or infinity"),
        ({"item_id": IDS, "v": VECTORS.tolist(), "w": VECTORS.tolist()}, r"2 columns hold vectors \(v, w\)"),
        ({"item_id": IDS, "title": IDS}, r"no column holds lists of numbers or numbers; .*: title \(string\)"),
        (
            {"item_id": IDS, "v": pa.array([[]] * 4, pa.list_(pa.float32()))},
            r"row 1 \(item 'a'\): no vector, or an empty one",
        ),
    ],
)
def test_bad_parquet_files_are_one_line(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message) as error:
        load_embeddings(parquet(tmp_path, **columns), WANTED)
    assert str(error.value).startswith(str(tmp_path / "vectors.parquet"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "how"), [(0, "zero"), (1.5, "equal")])
def test_vectors_that_tell_no_item_from_another(tmp_path, value, how):
    arguments = TokenizerArguments(embeddings_path=str(npy(tmp_path, np.full((4, 3), value, dtype=np.float32))))
    message = rf"^{arguments.embeddings_path}: the vectors of all 3 items are {how}, .* as embeddings_path$"
    with pytest.raises(ValueError, match=message):
        item_parts(pa.table({"item_id": WANTED}), [], arguments)


def test_whole_numbers_of_any_size_are_vectors(tmp_path):
    large = pa.array([2**64 - 1, 2**53 + 1, 0, 3], pa.uint64())
    expected = np.array([3, 2**64 - 1, 0], dtype=np.float32)[:, None]
    assert np.array_equal(load_embeddings(parquet(tmp_path, item_id=IDS, v=large), WANTED), expected)
    lists = pa.ListArray.from_arrays(pa.array(range(5), pa.int32()), large)
    assert np.array_equal(load_embeddings(parquet(tmp_path, item_id=IDS, v=lists), WANTED), expected)


def test_an_id_ends_with_its_line(tmp_path):
    ids = ["a\u2028b", "c\x1cd", "e\x85", "f"]
    assert np.array_equal(load_embeddings(npy(tmp_path, VECTORS, ids), ids), VECTORS)
    npy(tmp_path)
    (tmp_path / "vectors.ids.txt").write_bytes(b"a\r\nb\r\nc\r\n10")
    assert np.array_equal(load_embeddings(tmp_path / "vectors.npy", WANTED), EXPECTED)


def test_a_url_is_not_read(tmp_path):
    for url in ("https://host/vectors.npy", "s3://bucket/vectors.parquet"):
        with pytest.raises(ValueError, match=f"^embeddings_path: {url} is a URL, which is not read: download the file"):
            load_embeddings(url, IDS)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="correct embeddings_path"):
        load_embeddings(tmp_path / "none.npy", IDS)
    path = npy(tmp_path)
    (tmp_path / "vectors.ids.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"vectors\.ids\.txt does not exist: it names the items of vectors\.npy"
    ):
        load_embeddings(path, IDS)
    for name in ("vectors.npy", "vectors.parquet"):
        for content in (b"", b"\x93NUMPY", b"PAR1" * 5):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name}.* not a .* file that can be read") as error:
                load_embeddings(tmp_path / name, IDS)
            assert "\n" not in str(error.value)
    np.save(tmp_path / "vectors.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"vectors\.npy is not a NumPy file that can be read"):  # nothing is unpickled
        load_embeddings(tmp_path / "vectors.npy", IDS)
    (tmp_path / "v.csv").write_text("x")
    with pytest.raises(ValueError, match=r"v\.csv: embeddings_path reads \.npy, \.parquet and \.item files"):
        load_embeddings(tmp_path / "v.csv", IDS)


@pytest.fixture
def fitted(tmp_path):
    """40 items without any text, tokenized by their embeddings; one of the file is new."""
    rng = np.random.default_rng(1)
    vectors, ids = rng.normal(size=(41, 5)), [f"i{row}" for row in range(40)]
    path = npy(tmp_path, vectors, [*ids, "new"])
    items = pa.table({"item_id": ids})
    arguments = TokenizerArguments(
        embeddings_path=str(path), vectors="both", codebook_sizes=[4, 16], collaborative_dim=4
    )
    parts = item_parts(items, [rng.permutation(40)[:8] for _ in range(30)], arguments)
    tokenizer = fit_residual_kmeans(parts, arguments.codebook_sizes, arguments.part_weights)
    ids, _ = assign_semantic_ids(items, parts, tokenizer, arguments)
    return path, parts, tokenizer, ids


def test_they_take_the_place_of_the_text(fitted):
    path, parts, tokenizer, ids = fitted
    assert list(parts) == ["embeddings", "collaborative"]
    assert np.array_equal(parts["embeddings"], load_embeddings(path, ids.item_ids))
    assert tokenizer.config.part_names == ["embeddings", "collaborative"]
    assert ids.report["embeddings_path"] == str(path)


def test_a_new_item_needs_an_embedding_not_a_text(fitted):
    path, _, tokenizer, ids = fitted
    new = pa.table({"item_id": ["new"], "title": ["A film"]})
    with pytest.raises(ValueError, match=r"fitted on ready-made embeddings .* text cannot be encoded: give embeddings"):
        encode_new_items(tokenizer, ids, new)
    grown = encode_new_items(tokenizer, ids, new, embeddings=load_embeddings(path, ["new"]))
    assert grown.item_ids == [*ids.item_ids, "new"]
    assert np.array_equal(grown.codes[:-1], ids.codes)
    with pytest.raises(ValueError, match="2 embeddings for 1 new items"):
        encode_new_items(tokenizer, ids, new, embeddings=np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"part 'embeddings' has shape \(1, 4\), expected \(1, 5\)"):
        encode_new_items(tokenizer, ids, new, embeddings=np.ones((1, 4)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": "collaborative"}, "embeddings_path is not read with vectors: collaborative"),
        ({"text_columns": ["title"]}, "text_columns are not read with embeddings_path"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        TokenizerArguments(embeddings_path="x.npy", **changes)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("(-24, 6)", "'<f4'"),
        ("(-24, -6)", "'<f4'"),
        ("(4611686018427387904, 6)", "'<f4'"),
        (f"({'9' * 100}, 6)", "'<f4'"),
        ("(24, 6000000)", "'<f4'"),
        ("(0, 4611686018427387904)", "'<f4'"),
        ("(24.0, 6)", "'<f4'"),
        ("(True, 6)", "'<f4'"),
        ("(24, 6)", "'|O'"),
        ("(24, 6)", "'<M8[s]'"),
        ("(24,)", "[('a', '<f4')]"),
    ],
)
def test_headers_that_say_what_a_numpy_file_does_not_hold(tmp_path, shape, kind):
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(245) + b"\n"
    path = tmp_path / "e.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24 * 6 * 4))
    (tmp_path / "e.ids.txt").write_text("".join(f"{row}\n" for row in range(24)))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"e\.npy (is not a NumPy file that can be read|holds)[^\n]*\Z"):
            load_embeddings(path, [str(row) for row in range(24)])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_names_of_folders_are_no_numbers_of_a_vector(tmp_path):
    """Folders as Hive names them, which Arrow takes for a further column of the rows."""
    for year, rows in ((2000, slice(0, 2)), (3000, slice(2, None))):
        (tmp_path / f"year={year}").mkdir()
        parquet(tmp_path / f"year={year}", item_id=IDS[rows], **{f"v{n}": VECTORS[rows, n].tolist() for n in range(2)})
    assert np.array_equal(load_embeddings(tmp_path, WANTED), EXPECTED[:, :2])
