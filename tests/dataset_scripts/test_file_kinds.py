"""Text that is not UTF-8, and files of another kind than their name says."""

import bz2
import gzip
import io
import lzma
import resource
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_genrec.dataset_scripts import sequence_files, tabular

LOG = "".join(f"u{row},a,{10 + row}\n" for row in range(5000)).encode()
HEADER = b"user_id,item_id,timestamp\n"
JSON = "".join(f'{{"user_id": "u{row}", "item_id": "a", "timestamp": {row}}}\n' for row in range(5000)).encode()


def archive(*names) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return content.getvalue()


def parquet() -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table({"user_id": ["1"], "item_id": ["a"], "timestamp": [1]}), content)
    return content.getvalue()


@pytest.fixture
def error(tmp_path):
    """What the reader of such a file says."""

    def load(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r".") as raised:
            tabular.load(str(path), cache_dir=str(tmp_path / "cache"))
        assert str(raised.value).startswith(str(path))
        assert "\n" not in str(raised.value)
        return str(raised.value).removeprefix(str(path))

    return load


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "content", "place"),
    [
        ("csv", HEADER + LOG.replace(b"u3000,a", b"\xc3\xa9,\xe9"), "line 3002: not UTF-8 (byte 0xe9 at column 3)"),
        ("csv", HEADER[:-1] + b"\r" + LOG.replace(b"u9,", b"u\xff,").replace(b"\n", b"\r"), "line 11: not UTF-8"),
        ("csv", HEADER + LOG + b"u\xc3", "line 5002: not UTF-8 (byte 0xc3 at column 2)"),
        ("csv", (HEADER + LOG).decode().encode("utf-16"), "line 1: not UTF-8 (byte 0xff at column 1)"),
        ("tsv", (HEADER + LOG).replace(b",", b"\t").replace(b"u7\t", b"\xe9\t"), "line 9: not UTF-8 (byte 0xe9 at"),
        ("inter", (HEADER + LOG).replace(b",", b"\t").replace(b"u7\t", b"\xe9\t"), "line 9: not UTF-8 (byte 0xe9 at"),
        ("jsonl", JSON.replace(b'u4000"', b'\xed\xa0\x80"'), "line 4001: not UTF-8 (byte 0xed at column 14)"),
        ("csv", HEADER + b"x" * 200_000 + b"\xe9,a,1\n", "line 2: not UTF-8 (byte 0xe9 at column 200001)"),
    ],
)
def test_the_first_byte_that_is_not_utf8_is_named(error, kind, content, place, packed):
    message = error(f"log.{kind}{'.gz' * packed}", gzip.compress(content) if packed else content)
    assert message.startswith(f", {place}")
    assert message.endswith(": save the file as UTF-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", gzip.compress(HEADER + LOG), " is a gzip file: name it log.csv.gz, or unpack it"),
        ("log.jsonl", gzip.compress(JSON), " is a gzip file: name it log.jsonl.gz, or unpack it"),
        ("log.parquet", gzip.compress(parquet()), " is a gzip file: unpack it"),
        ("log.csv.gz", gzip.compress(gzip.compress(HEADER + LOG)), " unpacks to a gzip file: unpack it"),
        ("log.csv.gz", HEADER + LOG, " is no gzip file: take .gz off its name, or compress it"),
        ("log.csv", archive("log.csv"), " is a zip archive: unpack it"),
        ("log.csv.gz", archive("log.csv"), " is a zip archive: unpack it"),
        ("log.zip", archive("log.csv"), " is a zip archive: unpack it"),
        ("log.csv", archive("xl/workbook.xml"), " is an Excel workbook: save its sheet as CSV (UTF-8)"),
        ("log.xlsx", archive("xl/workbook.xml"), " is an Excel workbook: save its sheet as CSV (UTF-8)"),
        ("log.xls", bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512), " is an Excel workbook: save its sheet"),
        ("log.tsv", parquet(), " is a Parquet file: name it log.parquet"),
        ("log", parquet(), " is a Parquet file: name it log.parquet"),
        ("log.csv.gz", gzip.compress(parquet()), " unpacks to a Parquet file: name it log.parquet"),
        ("log.parquet", HEADER + LOG, ": not a Parquet file: write it again, or name it as what it is (.csv"),
        ("log.csv", bz2.compress(LOG), " is a bzip2 file: unpack it"),
        ("log.csv", lzma.compress(LOG), " is an xz file: unpack it"),
    ],
)
def test_a_file_of_another_kind_than_its_name(error, name, content, message):
    assert error(name, content).startswith(message)


def test_sequence_files_of_another_kind(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": "a"}\n')
    (tmp_path / "sequences.txt").write_bytes(gzip.compress(b"u a a a\n"))
    with pytest.raises(ValueError, match=r"sequences\.txt is a gzip file: name it sequences\.txt\.gz"):
        sequence_files.load(str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "log.csv").write_bytes(HEADER + LOG)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
        with pytest.raises(OSError, match=r"File too large: raise the limit .* by HF_DATASETS_CACHE") as error:
            tabular.load(str(tmp_path / "log.csv"), cache_dir=str(tmp_path / "cache"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).startswith(str(tmp_path / "cache"))
