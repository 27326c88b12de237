"""JSON of any depth, size or shape is read, or refused in one line that names the file."""

import pytest

from hf_genrec.catalogue.json_files import DamagedFile, number, read_json

DAMAGED = {
    "deep list": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "cut": b'{"a": ',
    "empty": b"",
    "not UTF-8": b'{"a": "\xff"}',
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "two": b"{} {}",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named_in_one_line(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"some\.json is damaged \([^\n]+\): make it again\.\Z") as error:
        read_json(path, remedy="make it again")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('[{"a": 1, "a": 2}, NaN]')
    pairs, value = read_json(path, list, pairs=list, finite=False)
    assert pairs == [("a", 1), ("a", 2)]
    assert value != value


@pytest.mark.parametrize("value", [None, True, "1", [1], {}])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="stands where a number is expected"):
        number(value)
