"""Collisions of unordered codes, where whole sets collide, and of an RQ-VAE, whose codes stand for latents."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_genrec.item_tokenizers.configuration_mpq import MpqConfig
from hf_genrec.item_tokenizers.configuration_residual_kmeans import ResidualKMeansConfig
from hf_genrec.item_tokenizers.configuration_rq_vae import RqVaeConfig
from hf_genrec.item_tokenizers.modeling_mpq import MpqTokenizer
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.item_tokenizers.modeling_rq_vae import RqVaeTokenizer
from hf_genrec.semantic_ids.collisions import count_collisions, place_new_items, resolve, settle_collisions
from hf_genrec.semantic_ids.free_codes import SetRoom
from hf_genrec.semantic_ids.ids import SemanticIds


@torch.no_grad()
def set_tokenizer(*codebooks):
    """Expert r looks at number r of the vector."""
    experts = len(codebooks)
    sizes = [len(codebook) for codebook in codebooks]
    config = MpqConfig(codebook_sizes=sizes, input_dim=experts, part_dims=[experts], latent_dim=1, hidden_sizes=[])
    tokenizer = MpqTokenizer(config)
    tokenizer.experts.projection.weight.copy_(torch.eye(experts) / experts**0.5)
    for number, codebook in enumerate(codebooks):
        tokenizer.get_parameter(f"codebook_{number}").copy_(torch.tensor(codebook)[:, None])
    return tokenizer.eval()


def array(*rows):
    return np.array(rows, dtype=np.float32)


def encode(tokenizer, vectors):
    return tokenizer.encode(vectors).numpy()


def test_the_closest_item_stays_and_the_others_change_the_code_that_costs_least():
    tokenizer = set_tokenizer([0.0, 10.0], [0.0, 4.0, 30.0])
    vectors = array([1.0, 1.0], [0.1, 0.0], [3.0, 0.5])
    codes = encode(tokenizer, vectors)
    assert codes.tolist() == [[0, 0]] * 3
    # The second stays. (1, 1): to 4 in the second codebook adds 9 - 1, to 10 in the first 81 - 1. (3, 0.5): [0, 1] is
    # taken now; to 10 in the first adds 49 - 9, to 30 in the second far more.
    settled, sizes, report = settle_collisions(codes, vectors, tokenizer, "resolve")
    assert settled.tolist() == [[0, 1], [0, 0], [1, 0]]
    assert sizes == [2, 3]
    assert report == {
        "policy": "resolve",
        "before": {"items": 3, "groups": 1, "largest_group": 3, "unique": 1},
        "moved": 2,
        "most_codes_changed": 1,
        "after": {"items": 0, "groups": 0, "largest_group": 1, "unique": 3},
    }


def test_two_codes_change_only_when_no_set_with_one_change_is_free():
    tokenizer = set_tokenizer([0.0, 1.0], [0.0, 1.0])
    vectors = array([0.0, 0.0], [0.1, 0.1], [0.1, 0.2], [0.1, 0.1])
    settled, _, report = settle_collisions(encode(tokenizer, vectors), vectors, tokenizer, "resolve")
    assert settled.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]  # equal costs: the first codebook
    assert report["most_codes_changed"] == 2
    with pytest.raises(ValueError, match=r"item row 4 with codes \[0, 0\] finds no free code.*extra_code"):
        resolve(np.zeros((5, 2), dtype=np.int64), np.zeros((5, 2), dtype=np.float32), tokenizer)


def test_extra_code_and_keep():
    tokenizer = set_tokenizer([0.0, 10.0], [0.0, 4.0])
    vectors = array([0, 0], [0, 4], [0, 0])
    codes = encode(tokenizer, vectors)
    settled, sizes, _ = settle_collisions(codes, vectors, tokenizer, "extra_code")
    assert settled.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert sizes == [2, 2, 2]
    settled, sizes, report = settle_collisions(codes, vectors, tokenizer, "keep")
    assert np.array_equal(settled, codes)
    assert report["after"]["items"] == 2


def test_sets_have_no_last_code_that_could_be_spread():
    tokenizer = set_tokenizer([0, 1], [0, 1])
    with pytest.raises(ValueError, match="these have no order: use resolve"):
        settle_collisions(np.zeros((2, 2), dtype=np.int64), array((0, 0), (0, 0)), tokenizer, "spread")


def by_brute_force(codes, vectors, codebooks, taken):
    """(changes, added distance) of the nearest free set."""

    def cost(candidate):
        added = [
            (value - codebook[new]) ** 2 - (value - codebook[old]) ** 2
            for value, codebook, new, old in zip(vectors, codebooks, candidate, codes, strict=True)
        ]
        return sum(new != old for new, old in zip(candidate, codes, strict=True)), sum(added)

    return min(cost(candidate) for candidate in product(*map(range, map(len, codebooks))) if candidate not in taken)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4), data=st.data())
def test_resolve_moves_as_little_as_possible(seed, sizes, data):
    rng = np.random.default_rng(seed)
    count = data.draw(st.integers(1, min(20, int(np.prod(sizes)))))  # as many as there are sets at most
    codebooks = [np.sort(rng.normal(size=size)) for size in sizes]
    tokenizer = set_tokenizer(*(codebook.tolist() for codebook in codebooks))
    vectors = (rng.normal(size=(count, len(sizes))) * 0.5).astype(np.float32)
    codes = encode(tokenizer, vectors)
    settled = resolve(codes, vectors, tokenizer)
    assert count_collisions(settled)["items"] == 0
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    moved = (settled != codes).any(axis=1)
    assert not moved[size[group] == 1].any()
    assert moved.sum() == len(codes) - len(size)  # one of each group stays
    assert np.array_equal(settled, resolve(codes, vectors, tokenizer))

    taken = {tuple(row) for row in codes[~moved].tolist()}
    for row in np.flatnonzero(moved):
        changes, added = by_brute_force(codes[row].tolist(), vectors[row], codebooks, taken)
        distance = [np.square(vectors[row] - [book[c] for book, c in zip(codebooks, line, strict=True)]).sum()
                    for line in (settled[row], codes[row])]  # fmt: skip
        assert (settled[row] != codes[row]).sum() == changes
        assert distance[0] - distance[1] == pytest.approx(added, abs=1e-5)
        taken.add(tuple(settled[row].tolist()))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_all_sets_come_once_by_changes_and_then_by_distance(seed, sizes):
    rng = np.random.default_rng(seed)
    codebooks = [rng.normal(size=(size, 2)).astype(np.float32) for size in sizes]
    latents = rng.normal(size=(len(sizes), 2)).astype(np.float32)
    distances = [np.square(book.astype(np.float64) - v).sum(1) for book, v in zip(codebooks, latents, strict=True)]
    own = tuple(int(distance.argmin()) for distance in distances)
    found = list(SetRoom(codebooks, 1)._by_distance(own, latents))
    assert sorted(found) == sorted(product(*map(range, sizes)))
    changes = [sum(code != other for code, other in zip(codes, own, strict=True)) for codes in found]
    costs = [sum(distance[code] for distance, code in zip(distances, codes, strict=True)) for codes in found]
    for (few, low), (many, high) in pairwise(zip(changes, costs, strict=True)):
        assert few < many or (few == many and low <= high + 1e-5)


def catalogue(codes, sizes, policy):
    item_ids = [f"old{row}" for row in range(len(codes))]
    return SemanticIds(item_ids, np.array(codes), sizes, {"collisions": {"policy": policy}})


def test_new_items_take_the_nearest_free_set_or_number():
    tokenizer = set_tokenizer([0.0, 10.0], [0.0, 4.0])
    vectors = array([0.0, 0.1], [0.1, 0.0], [0.0, 0.0])
    codes = encode(tokenizer, vectors)
    old = catalogue([[0, 0]], [2, 2], "resolve")
    assert place_new_items(codes, vectors, tokenizer, old).tolist() == [[0, 1], [1, 0], [1, 1]]
    old = catalogue([[0, 0, 0]], [2, 2, 2], "extra_code")
    assert place_new_items(codes, vectors, tokenizer, old).tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 1]]
    old = catalogue([[0, 0]], [2, 2], "keep")
    assert place_new_items(codes, vectors, tokenizer, old).tolist() == [[0, 0]] * 3


@torch.no_grad()
def test_an_rq_vae_resolves_in_its_latent_space():
    """As residual k-means with the same codebooks does with the latents as its vectors."""
    torch.manual_seed(0)
    rq_vae = RqVaeTokenizer(
        RqVaeConfig(codebook_sizes=[4, 6, 12], input_dim=9, part_dims=[9], latent_dim=3, hidden_sizes=[8])
    ).eval()
    kmeans = ResidualKMeansTokenizer(ResidualKMeansConfig(codebook_sizes=[4, 6, 12], input_dim=3, part_dims=[3]))
    for level in range(3):
        codebook = rq_vae.get_parameter(f"codebook_{level}").normal_(std=0.5**level)
        kmeans.get_buffer(f"codebook_{level}").copy_(codebook)
    vectors = np.random.default_rng(0).normal(size=(80, 9)).astype(np.float32)
    latents = rq_vae.latents(vectors)
    codes = encode(rq_vae, vectors)
    assert np.array_equal(codes, encode(kmeans, latents))
    assert count_collisions(codes)["items"] > 20
    settled = resolve(codes, vectors, rq_vae)
    assert np.array_equal(settled, resolve(codes, latents, kmeans))
    old = catalogue(settled[:50], [4, 6, 12], "resolve")
    placed = place_new_items(codes[50:], vectors[50:], rq_vae, old)
    assert np.array_equal(placed, place_new_items(codes[50:], latents[50:], kmeans, old))
