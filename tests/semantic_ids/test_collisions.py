"""Collision policies: what moves, what stays, and where to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.item_tokenizers.configuration_residual_kmeans import ResidualKMeansConfig
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.semantic_ids.collisions import (
    count_collisions,
    extra_code,
    place_new_items,
    resolve,
    settle_collisions,
    spread,
)
from hf_genrec.semantic_ids.ids import SemanticIds


def line_tokenizer(*codebooks):
    """A tokenizer of one-dimensional vectors with these centroids per level."""
    tokenizer = ResidualKMeansTokenizer(
        ResidualKMeansConfig(codebook_sizes=[len(codebook) for codebook in codebooks], input_dim=1, part_dims=[1])
    )
    for level, codebook in enumerate(codebooks):
        buffer = tokenizer.get_buffer(f"codebook_{level}")
        buffer.copy_(buffer.new_tensor(codebook)[:, None])
    tokenizer.part_mean.zero_()
    tokenizer.part_scale.fill_(1.0)
    return tokenizer


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def encode(tokenizer, vectors):
    return tokenizer.encode(vectors).numpy()


def test_counts_by_hand():
    codes = np.array([[0, 1], [0, 1], [0, 1], [2, 2], [3, 0], [3, 0]])
    assert count_collisions(codes) == {"items": 5, "groups": 2, "largest_group": 3, "unique": 3}


def test_the_closest_item_stays_and_the_others_take_the_nearest_free_code():
    tokenizer = line_tokenizer([0, 100], [0, 1, 2, 3])
    vectors = column(0.3, 0.1, 0.4, 1.0)  # the first three share [0, 0]; 0.1 is closest; [0, 1] is taken by 1.0
    codes = encode(tokenizer, vectors)
    assert codes.tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]
    assert resolve(codes, vectors, tokenizer).tolist() == [[0, 2], [0, 0], [0, 3], [0, 1]]


def test_a_full_prefix_sends_items_to_the_nearest_other_code_above():
    tokenizer = line_tokenizer([-50, 0, 10], [0, 1])
    vectors = column(0.0, 0.1, 0.2)
    codes = encode(tokenizer, vectors)
    assert codes.tolist() == [[1, 0]] * 3
    # [1, 1] goes to the second; the third goes below 10, the nearer of the other two, to 10 + 0
    settled, sizes, report = settle_collisions(codes, vectors, tokenizer, "resolve")
    assert settled.tolist() == [[1, 0], [1, 1], [2, 0]]
    assert sizes == [3, 2]
    assert report == {
        "policy": "resolve",
        "before": {"items": 3, "groups": 1, "largest_group": 3, "unique": 1},
        "moved": 2,
        "moved_above_last_level": 1,
        "after": {"items": 0, "groups": 0, "largest_group": 1, "unique": 3},
    }


def test_no_room_at_all_is_one_line_with_the_remedy():
    tokenizer = line_tokenizer([0, 10], [0])
    with pytest.raises(ValueError, match=r"row 2 with codes \[0, 0\] finds no free code.*extra_code"):
        resolve(np.array([[0, 0]] * 3), column(0, 0, 0), tokenizer)


def test_extra_code_counts_within_the_group():
    codes = np.array([[1, 1], [0, 0], [1, 1], [1, 1], [0, 2]])
    assert extra_code(codes).tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 1, 2], [0, 2, 0]]
    tokenizer = line_tokenizer([0, 10], [0, 1, 2])
    _, sizes, report = settle_collisions(codes, column(0, 0, 0, 0, 0), tokenizer, "extra_code")
    assert sizes == [2, 3, 3]
    assert report["after"]["items"] == 0


def test_keep_changes_nothing():
    codes = np.array([[1, 1], [0, 0], [1, 1]])
    settled, sizes, report = settle_collisions(codes, column(0, 0, 0), line_tokenizer([0, 10], [0, 1]), "keep")
    assert np.array_equal(settled, codes)
    assert sizes == [2, 2]
    assert report["before"] == report["after"] == {"items": 2, "groups": 1, "largest_group": 2, "unique": 2}


vector_lists = st.lists(st.integers(-20, 60), min_size=1, max_size=20)  # as many as there are codes


def test_spread_parts_a_group_and_leaves_what_is_equal_together():
    tokenizer = line_tokenizer([0, 100], [0, -1, 1])
    vectors = column(-0.2, 0.2, 0.2, 100.0)
    codes = encode(tokenizer, vectors)
    assert codes.tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]
    settled, sizes, report = settle_collisions(codes, vectors, tokenizer, "spread")
    assert settled[:, 0].tolist() == [0, 0, 0, 1]  # only the last code moves
    assert settled[0].tolist() != settled[1].tolist() == settled[2].tolist()
    assert settled[3].tolist() == [1, 0]
    assert sizes == [2, 3]
    assert report["after"] == {"items": 2, "groups": 1, "largest_group": 2, "unique": 3}
    assert report["moved"] == int((settled != codes).any(axis=1).sum()) > 0
    assert np.array_equal(spread(settled[[0, 1, 3]], vectors[[0, 1, 3]], tokenizer), settled[[0, 1, 3]])  # none shared
    old = SemanticIds(list("abcd"), settled, sizes, {"collisions": report})
    taken = settled[0].tolist()
    placed = place_new_items(np.array([taken]), vectors[:1], tokenizer, old)
    assert placed.tolist() not in [[row] for row in settled.tolist()]


@settings(deadline=None, max_examples=100)
@given(vector_lists)
def test_resolve_invariants(values):
    tokenizer = line_tokenizer([0, 10, 20, 30], [-4, -2, 0, 2, 4])
    vectors = column(*values) / 2
    codes = encode(tokenizer, vectors)
    settled = resolve(codes, vectors, tokenizer)
    assert count_collisions(settled)["items"] == 0
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    alone = size[group] == 1
    assert np.array_equal(settled[alone], codes[alone])
    moved = (settled != codes).any(axis=1)
    assert moved.sum() == len(codes) - len(size)  # one of each group stays
    # Exactly the items for which the prefix has no last-level code leave it
    left = (settled[:, 0] != codes[:, 0]).sum()
    assert left == np.maximum(np.bincount(codes[:, 0]) - 5, 0).sum()
    assert np.array_equal(settled, resolve(codes, vectors, tokenizer))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_resolve_finds_a_code_for_every_item_as_long_as_there_are_any(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    number = st.integers(-9, 9)
    codebooks = [data.draw(st.lists(number, min_size=size, max_size=size)) for size in sizes]
    most = int(np.prod(sizes))
    values = data.draw(st.lists(st.integers(-30, 30), min_size=1, max_size=min(most, 60)))
    if data.draw(st.booleans()):
        values = [data.draw(st.integers(-30, 30)) for _ in range(min(most, 60))]  # every code, if there are so few
    tokenizer = line_tokenizer(*codebooks)
    vectors = column(*values) / 2
    codes = encode(tokenizer, vectors)
    settled = resolve(codes, vectors, tokenizer)
    assert count_collisions(settled)["items"] == 0
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    assert np.array_equal(settled[size[group] == 1], codes[size[group] == 1])
    assert (settled != codes).any(axis=1).sum() == len(codes) - len(size)
    with pytest.raises(ValueError, match="more items than codes"):
        resolve(np.zeros((most + 1, len(sizes)), dtype=np.int64), column(*[0] * (most + 1)), tokenizer)


def test_an_item_leaves_as_few_of_its_first_codes_as_it_must():
    tokenizer = line_tokenizer([0, 100, 1000], [0, 10], [0, 1])
    vectors = column(0, 0.1, 0.2, 0.3, 0.4, 0.5)  # four places below [0]; the others go below 100, the nearer one
    codes = np.array([[0, 0, 0]] * 6)
    assert resolve(codes, vectors, tokenizer).tolist() == [
        *([0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]),
        *([1, 0, 0], [1, 0, 1]),
    ]


def catalogue(codes, sizes, policy):
    item_ids = [f"old{row}" for row in range(len(codes))]
    return SemanticIds(item_ids, np.array(codes), sizes, {"collisions": {"policy": policy}})


def test_a_new_item_takes_the_nearest_code_that_is_still_free():
    tokenizer = line_tokenizer([0, 100], [0, 1, 2, 3])
    old = catalogue([[0, 0], [0, 1]], [2, 4], "resolve")
    vectors = column(0.2, 0.1, 100.0)
    assert place_new_items(encode(tokenizer, vectors), vectors, tokenizer, old).tolist() == [[0, 2], [0, 3], [1, 0]]


def test_a_new_item_takes_the_next_number_of_its_group_or_the_nearest_group_with_room():
    tokenizer = line_tokenizer([0, 100], [0, 1])
    old = catalogue([[0, 0, 0], [0, 1, 0], [0, 1, 1]], [2, 2, 2], "extra_code")
    vectors = column(0.0, 0.0, 1.0)  # the first fills [0, 0]; then both groups of prefix 0 are full
    placed = place_new_items(encode(tokenizer, vectors), vectors, tokenizer, old)
    assert placed.tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 1]]


def test_keep_lets_new_items_share():
    tokenizer = line_tokenizer([0, 100], [0, 1])
    old = catalogue([[0, 0]], [2, 2], "keep")
    assert place_new_items(np.array([[0, 0]]), column(0), tokenizer, old).tolist() == [[0, 0]]


def test_codes_of_another_tokenizer_are_refused():
    tokenizer = line_tokenizer([0, 100], [0, 1])
    for old in (catalogue([[0, 2]], [2, 4], "resolve"), catalogue([[0, 0]], [2, 2], "extra_code")):
        with pytest.raises(ValueError, match=r"were not made by this tokenizer \(codebook_sizes \[2, 2\]\)"):
            place_new_items(np.array([[0, 0]]), column(0), tokenizer, old)
