import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_genrec.data.flat_sequences import FlatSequences, Ids

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)


@given(LISTS, st.data())
def test_sequences_are_read_as_a_list_of_arrays(lists, data):
    sequences, arrays = FlatSequences.of(lists), [np.array(items, dtype=np.int64) for items in lists]
    assert sequences == arrays
    assert [items.tolist() for items in sequences] == lists
    assert [sequences[place].tolist() for place in range(-len(lists), len(lists))] == lists * 2
    assert all(items.dtype == np.int64 for items in sequences)
    assert sequences.lengths.tolist() == list(map(len, lists))
    assert sequences[1:5:2] == arrays[1:5:2]
    flat = [item for items in lists for item in items]
    assert sequences.counts(10).tolist() == [flat.count(item) for item in range(10)]

    places = data.draw(st.lists(st.sampled_from(range(len(lists))), max_size=6) if lists else st.just([]))
    chosen = sequences[np.array(places, dtype=int)]
    assert chosen == [arrays[place] for place in places]
    flat = [item for place in places for item in lists[place]]
    assert [item for items in chosen.chunks(2) for item in items] == flat

    cut = np.array([data.draw(st.integers(0, len(items))) for items in lists], dtype=int)
    assert sequences.head(cut) == [items[: len(items) - n] for items, n in zip(arrays, cut, strict=True)]
    assert sequences.tail(cut) == [items[len(items) - n :] for items, n in zip(arrays, cut, strict=True)]
    assert sequences.renumbered(np.arange(10)[::-1]) == [9 - items for items in arrays]


def test_parts_share_one_array_and_elements_are_ones_own():
    sequences = FlatSequences.of([[1, 2], [3]])
    assert sequences[:1].head(np.array([1])).values is sequences.values
    sequences[0][:] = 7
    assert sequences == [[1, 2], [3]]
    with pytest.raises(IndexError):
        sequences[2]


def test_ids_are_read_as_a_list():
    for ids in (
        Ids.of(["b", "a", "é"]),
        Ids.of(pa.chunked_array([["b"], ["a", "é"]])),
        Ids.of(Ids.of(["b", "a", "é"])),
    ):
        assert ids == ["b", "a", "é"]
        assert list(ids) == ["b", "a", "é"]
        assert (ids[0], ids[np.int64(2)], ids[-1], ids[1:]) == ("b", "é", "é", ["a", "é"])
        assert "a" in ids
        assert "c" not in ids
        assert 1 not in ids
        assert ids.index("é") == 2
        assert ids.take(np.array([2, 0])) == ["é", "b"]
        assert ids != ["b", "a"]
    with pytest.raises(ValueError):  # noqa: PT011 - as of a list
        ids.index("c")
    with pytest.raises(IndexError):
        ids[3]
    assert Ids.of([]) == []
