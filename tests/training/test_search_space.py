import pytest

from hf_genrec.training.search_space import Choices, Range, is_space, read_spaces

KINDS = {"rate": float, "width": int, "sizes": list[int] | None, "packing": bool, "name": str, "limit": int | None}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("rate=1e-4..1e-2:log", Range(0.0001, 0.01, True)),
        ("rate=0..1", Range(0.0, 1.0)),
        ("rate=.1...5", Range(0.1, 0.5)),
        ("rate=-1..-0.5", Range(-1.0, -0.5)),
        ("width=16..64", Range(16, 64)),
        ("limit=1..8:log", Range(1, 8, True)),
        ("rate=1,0.5", Choices(("1", "0.5"))),
        ("width=32, 64,128", Choices(("32", "64", "128"))),
        ("width=32", Choices(("32",))),
        ("sizes=4 4 4,8 8", Choices(("4 4 4", "8 8"))),
        ("packing=true,false", Choices(("true", "false"))),
        ("name=a..b/c,d", Choices(("a..b/c", "d"))),
    ],
)
def test_words(word, expected):
    (found,) = read_spaces([word], KINDS).values()
    assert found == expected
    assert isinstance(found, Choices) or type(found.low) is type(expected.low)
    assert read_spaces([f"{word.partition('=')[0]}={found}"], KINDS) == read_spaces([word], KINDS)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("wdth=1..2", "'wdth' is no option of the model"),
        ("rate=2..1", "the first number must be below the second"),
        ("rate=1..1", "the first number must be below the second"),
        ("rate=0..1:log", "logarithmic scale: begin above 0"),
        ("rate=0..1:lin", "only :log is known"),
        ("rate=a..b", "is not from a number to a number"),
        ("rate=0..inf", "the first number must be below the second"),
        ("rate=nan..1", "the first number must be below the second"),
        ("rate=fast", "rate: 'fast' is not a number"),
        ("width=1.5..3", "width: '1.5' is not a whole number"),
        ("width=1,2.5", "width: '2.5' is not a whole number"),
        ("width=1,1", "has an empty value, or one twice"),
        ("width=1,,2", "has an empty value, or one twice"),
        ("width=", "has an empty value, or one twice"),
        ("name=1..2", "name is no number: give its values"),
        ("packing=0..1", "packing: '0' is not true or false"),
        ("sizes=4 a", "sizes: '4 a' is not a list of whole number"),
    ],
)
def test_what_cannot_be_searched_is_said(word, message):
    with pytest.raises(ValueError, match="--space") as refused:
        read_spaces([word], KINDS)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("rate: 1e-4..1e-2:log\nwidth: [32, 64]\nsizes: [[4, 4], [8, 8, 8]]\npacking: [true, false]\n")
    found = read_spaces([str(path), "limit=1..2"], KINDS)
    assert found == {
        "rate": Range(0.0001, 0.01, True),
        "width": Choices(("32", "64")),
        "sizes": Choices(("4 4", "8 8 8")),
        "packing": Choices(("true", "false")),
        "limit": Range(1, 2),
    }
    with pytest.raises(ValueError, match="width is given twice"):
        read_spaces([str(path), "width=1,2"], KINDS)
    path.write_text("width: [1, null]\n")
    with pytest.raises(ValueError, match=r"space\.yaml: width: None cannot be written behind an option"):
        read_spaces([str(path)], KINDS)
    path.write_text("width: {low: 1}\n")
    with pytest.raises(ValueError, match=r"space\.yaml: width: .* cannot be written"):
        read_spaces([str(path)], KINDS)
    with pytest.raises(FileNotFoundError):
        read_spaces([str(tmp_path / "none.yaml")], KINDS)
    with pytest.raises(ValueError, match="name at least one key"):
        read_spaces([], KINDS)


def test_which_words_are_spaces():
    assert all(map(is_space, ("rate=1..2", "my_key=a", "space.yaml", "folder/space.yml")))
    assert not any(map(is_space, ("0.5", "--rate=1", "4", "cosine", "--rate")))
