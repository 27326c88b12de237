"""Fitting: determinism, no empty code, parts, and the collaborative vectors against a hand-worked example."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from hf_genrec.item_tokenizers import item_tokenizer, nearest_centroid
from hf_genrec.semantic_ids import codebooks
from hf_genrec.semantic_ids import parts as part_statistics
from hf_genrec.semantic_ids.codebooks import fill_empty, sample_rows
from hf_genrec.semantic_ids.collaborative import collaborative_vectors, cooccurrence_counts, positive_pmi
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans


def vectors(rows=200, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def test_two_fits_with_one_seed_are_bit_equal_and_another_seed_differs():
    parts = {"text": vectors(), "collaborative": vectors(dim=3, seed=1)}
    first, second = (fit_residual_kmeans(parts, [16, 16], seed=5) for _ in range(2))
    for name, buffer in first.named_buffers():
        assert torch.equal(second.get_buffer(name), buffer), name
    joined = first.join(**parts)
    assert torch.equal(first.encode(joined), second.encode(joined))
    other = fit_residual_kmeans(parts, [16, 16], seed=6)
    assert not torch.equal(other.codebooks[0], first.codebooks[0])


def test_every_code_is_used_and_levels_lower_the_error():
    tokenizer = fit_residual_kmeans({"text": vectors()}, [32, 32, 32])
    joined = tokenizer.join(text=vectors())
    codes = tokenizer.encode(joined)
    assert all(len(column.unique()) == 32 for column in codes.T)
    errors = [(joined - tokenizer.decode(codes[:, :level])).square().sum().item() for level in range(4)]
    assert errors[0] == pytest.approx(200, rel=1e-4)  # scaled to a mean squared norm of 1
    assert errors == sorted(errors, reverse=True)


def test_as_many_distinct_vectors_as_codes_suffice_and_one_less_is_refused():
    distinct = vectors(rows=10)
    repeated = distinct[np.arange(60) % 10]
    tokenizer = fit_residual_kmeans({"text": repeated}, [10])
    assert len(tokenizer.encode(tokenizer.join(text=repeated)).unique()) == 10
    with pytest.raises(ValueError, match=r"level 0 has 10 distinct vectors for 11 codes; lower codebook_sizes\[0\]"):
        fit_residual_kmeans({"text": repeated}, [11])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30), st.data())
def test_fill_empty_leaves_no_code_unused(values, data):
    size = data.draw(st.integers(1, len(set(values))))
    centroids = data.draw(st.lists(st.integers(-9, 9), min_size=size, max_size=size))
    points = np.array(values, dtype=np.float32)[:, None]
    filled, codes = fill_empty(points, np.array(centroids, dtype=np.float32)[:, None])
    assert np.unique(codes).tolist() == list(range(size))
    assert np.array_equal(codes, np.abs(points - filled[:, 0]).argmin(axis=1))


def test_weights_say_how_much_a_part_counts_whatever_its_scale():
    text, collaborative = vectors() * 1000 + 7, vectors(dim=3, seed=1)
    tokenizer = fit_residual_kmeans({"text": text, "collaborative": collaborative}, [4], weights={"collaborative": 2.0})
    joined = tokenizer.join(text=text, collaborative=collaborative)
    squared_norms = [part.square().sum(dim=1).mean().item() for part in joined.split([8, 3], dim=1)]
    assert squared_norms == pytest.approx([1.0, 4.0], rel=1e-4)
    assert joined.mean(dim=0).abs().max() < 1e-5


def test_missing_rows_do_not_move_the_mean_of_a_part():
    part = vectors(rows=50) + 3
    with_missing = np.concatenate([part, np.zeros((25, 8), np.float32)])
    tokenizer = fit_residual_kmeans({"text": with_missing}, [4])
    assert torch.allclose(tokenizer.part_mean, torch.from_numpy(part.mean(axis=0)), atol=1e-5)
    assert not tokenizer.join(text=with_missing)[50:].any()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (np.zeros((0, 3)), "the catalogue is empty"),
        (np.zeros((4, 3)), "'text' is zero for every item"),
        (np.ones((4, 3)), "'text' is the same for every item"),
        (np.array([[1.0], [np.inf]]), "'text', row 1 holds NaN or infinity"),
    ],
)
def test_parts_that_cannot_be_fitted_are_refused(part, message):
    with pytest.raises(ValueError, match=message):
        fit_residual_kmeans({"text": part}, [2])


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"different numbers of rows \({'text': 200, 'collaborative': 199}\)"):
        fit_residual_kmeans({"text": vectors(), "collaborative": vectors(199)}, [2])


@pytest.mark.parametrize("projection_dim", [None, 3])
def test_chunks_of_a_memory_map_give_what_the_whole_array_gives(tmp_path, monkeypatch, projection_dim):
    part = vectors(rows=300) * 3 + 5
    part[[4, 250]] = 0  # missing
    whole = fit_residual_kmeans({"text": part}, [8, 8], projection_dim=projection_dim)
    present = np.delete(part, [4, 250], axis=0).astype(np.float64)
    assert np.allclose(whole.part_mean, present.mean(axis=0), rtol=1e-6)
    assert float(whole.part_scale) == pytest.approx(np.sqrt(present.var(axis=0).sum()), rel=1e-6)

    np.save(tmp_path / "part.npy", part)
    for module in (item_tokenizer, nearest_centroid, part_statistics):
        monkeypatch.setattr(module, "MAX_NUMBERS", 8 * 7)  # chunks of seven rows
    mapped = np.load(tmp_path / "part.npy", mmap_mode="r")
    chunked = fit_residual_kmeans({"text": mapped}, [8, 8], projection_dim=projection_dim)
    for name, buffer in whole.named_buffers():
        assert torch.allclose(chunked.get_buffer(name), buffer, atol=1e-5), name
    assert torch.equal(chunked.encode_parts(text=mapped), chunked.encode(chunked.join(text=part)))
    part[123, 1] = np.nan
    with pytest.raises(ValueError, match="part 'text', row 123 holds NaN"):
        fit_residual_kmeans({"text": part}, [2])


def test_a_large_catalogue_is_fitted_on_a_sample_and_scaled_by_all(monkeypatch):
    """The codebooks are those of a fit on the sampled rows, with the mean and scale of all; no code is unused."""
    monkeypatch.setattr(codebooks, "SAMPLE_ROWS", 400)
    monkeypatch.setattr(codebooks, "LARGE_ROWS", 300)
    part = vectors(rows=3000) + 1
    first, second = (fit_residual_kmeans({"text": part}, [32, 32], seed=3) for _ in range(2))
    assert all(torch.equal(second.get_buffer(name), buffer) for name, buffer in first.named_buffers())
    assert np.allclose(first.part_mean, part.mean(axis=0), atol=1e-5)
    codes = first.encode_parts(text=part)
    assert all(len(column.unique()) == 32 for column in codes.T)

    sample = sample_rows(3000, seed=3)
    assert len(np.unique(sample)) == 400
    assert not np.array_equal(sample, sample_rows(3000, seed=4))
    joined = first.join(text=part[sample])
    nearest = first.encode(joined)[:, 0]
    means = torch.stack([joined[nearest == code].mean(dim=0) for code in range(32)])
    assert (means - first.codebooks[0]).norm(dim=1).mean() < 0.05  # Lloyd on the sample has come to rest, or nearly


@pytest.mark.parametrize("projection_dim", [None, 24])
def test_the_number_of_threads_does_not_change_the_fit(projection_dim):
    part, threads = vectors(rows=3000, dim=48), torch.get_num_threads()
    fits = []
    for number in (1, 2):
        torch.set_num_threads(number)
        with threadpool_limits(limits=number):
            tokenizer = fit_residual_kmeans({"text": part}, [32, 32], projection_dim=projection_dim)
            fits.append((tokenizer, tokenizer.encode_parts(text=part)))
    torch.set_num_threads(threads)
    (one, one_codes), (two, two_codes) = fits
    assert all(torch.equal(two.get_buffer(name), buffer) for name, buffer in one.named_buffers())
    assert torch.equal(one_codes, two_codes)


def test_pmi_of_three_items_by_hand():
    # Sequence 0 1 2 with window 1 gives the pairs 01, 12; sequence 0 1 the pair 01.
    counts = cooccurrence_counts([np.array([0, 1, 2]), np.array([0, 1])], 3, window=1)
    assert counts.toarray().tolist() == [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    # Row sums 2, 3, 1, total 6: log(2*6 / (2*3)) = log 2 and log(1*6 / (3*1)) = log 2
    log2 = np.log(2)
    assert np.allclose(positive_pmi(counts).toarray(), [[0, log2, 0], [log2, 0, log2], [0, log2, 0]])
    # That matrix has the singular values sqrt(2) log 2 twice and 0; items 0 and 2 are alike.
    vectors = collaborative_vectors([np.array([0, 1, 2]), np.array([0, 1])], 3, dim=3, window=1)
    gram = vectors @ vectors.T
    assert np.allclose(gram, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6)


def test_window_counts_pairs_within_a_user_only():
    sequences = [np.array([0, 1, 0, 2]), np.array([3]), np.array([3, 0])]
    # window 2: 01, 10, 02 at distance 1; 0-0 is no pair, 12 at distance 2; then 30
    expected = np.zeros((4, 4))
    for i, j in [(0, 1), (0, 1), (0, 2), (1, 2), (0, 3)]:
        expected[i, j] += 1
        expected[j, i] += 1
    assert np.array_equal(cooccurrence_counts(sequences, 4, window=2).toarray(), expected)


def test_negative_pmi_is_cut_off_and_unseen_items_are_zero():
    # Items 0 and 1 are everywhere and meet once less than chance; item 4 is never seen
    sequences = [np.array(pair) for pair in [(0, 2), (0, 2), (0, 2), (1, 3), (1, 3), (1, 3), (0, 1)]]
    matrix = positive_pmi(cooccurrence_counts(sequences, 5, window=1)).toarray()
    assert matrix[0, 1] == 0  # log(1*14 / (4*4)) < 0
    assert matrix[0, 2] == pytest.approx(np.log(3 * 14 / (4 * 3)))
    result = collaborative_vectors(sequences, 5, dim=8, window=1)
    assert result.shape == (5, 8)
    assert not result[4].any()
    assert not result[:, 5:].any()
    assert result[:4].any(axis=1).all()
    assert np.array_equal(result, collaborative_vectors(sequences, 5, dim=8, window=1))


def test_collaborative_vectors_refuse_an_unknown_item_and_no_pair_at_all():
    with pytest.raises(ValueError, match=r"sequence 1 holds item index 3, not in 0\.\.2"):
        collaborative_vectors([np.array([0, 1]), np.array([3])], 3)
    with pytest.raises(ValueError, match="no two items co-occur"):
        collaborative_vectors([np.array([0]), np.array([1])], 3)


def test_projection_keeps_the_principal_components():
    """Quantizing the projection equals quantizing numpy's principal components, up to their signs."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5)) * np.array([9.0, 4.0, 1.0, 0.3, 0.1]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    tokenizer = fit_residual_kmeans({"text": vectors}, [6, 4], projection_dim=2)
    joined = tokenizer.side_by_side(text=vectors).numpy()
    _, _, directions = np.linalg.svd(joined, full_matrices=False)
    projected = tokenizer.join(text=vectors).numpy()
    np.testing.assert_allclose(np.abs(projected), np.abs(joined @ directions[:2].T), atol=1e-4)
    assert tokenizer.decode(tokenizer.encode(projected)).shape == (60, 2)
    whole = fit_residual_kmeans({"text": vectors}, [6, 4], projection_dim=5)
    assert whole.config.projection_dim is None
