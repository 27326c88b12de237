"""Residual k-means of vectors that lie on disk: fit 3 levels of 256 codes, and encode every row.

    python -m benchmarks.residual_kmeans

The vectors are a mixture of 4,000 Gaussians with a decaying spectrum, of length 1 as text embeddings are. Compared,
each in a process of its own:

- ours: `fit_residual_kmeans` and `encode_parts` of a memory map.
- faiss: `faiss.Kmeans`, 25 iterations per level on the residuals of the rows that ours draws as its sample, then a flat
  index per level over all rows in chunks. This is fairer than `faiss.ResidualQuantizer`, which trains in another way:
  same algorithm, same rows.
- semantic-id: `RQKMeans` with 1 start and 25 iterations per level, which takes an array in memory, on the first 100,000
  rows only. Left out where it is not installed.
- lloyd: scikit-learn's k-means, 25 full iterations per level on the rows of ours' sample; the error to compare with.

Errors are mean squared distances to the reconstruction, with the codebooks of each method and exact nearest centroids:
`sample` on the rows of ours' sample (which faiss and lloyd are fitted on, too), `held-out` on 50,000 rows that are not
in the file. Memory is the largest `RssAnon`, Python and libraries included; pages of the mapped file, which the system
takes back when it needs them, are in `resident` only.
"""

import hashlib
import multiprocessing
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import arguments, peak_memory_mib, threads, write_result
from hf_genrec.item_tokenizers.modeling_residual_kmeans import nearest_centroid
from hf_genrec.semantic_ids import residual_kmeans
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans

SIZES = [256, 256, 256]
ITERATIONS = 25
SEMANTIC_ID_ROWS = 100_000
HELD_OUT_ROWS = 50_000
CHUNK_ROWS = 20_000
MAX_SECONDS = 120
MAX_ERROR_RATIO = 1.01


def write_vectors(path: Path, rows: int, dim: int) -> np.ndarray:
    """Write (rows, dim) float32 vectors chunk by chunk, and return (HELD_OUT_ROWS, dim) of the same mixture."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, dim + 1) ** -0.5
    basis = (spectrum[:, None] * np.linalg.qr(rng.normal(size=(dim, dim)))[0]).astype(np.float32)
    centres = rng.standard_normal((4_000, dim), dtype=np.float32) @ basis
    share = np.arange(1, len(centres) + 1) ** -0.7

    def draw(count: int) -> np.ndarray:
        around = centres[rng.choice(len(centres), count, p=share / share.sum())]
        vectors = around + 0.8 * rng.standard_normal((count, dim), dtype=np.float32) @ basis
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for start in range(0, rows, CHUNK_ROWS):
        file[start : start + CHUNK_ROWS] = draw(min(CHUNK_ROWS, rows - start))
    file.flush()
    return draw(HELD_OUT_ROWS)


class PeakOfAnonymousMemory(threading.Thread):
    """`with` it: the largest RssAnon of this process meanwhile, in MiB, as `peak`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
            self.peak = max(self.peak, int(line.split()[1]) / 1024)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *details):
        self.done.set()
        self.join()


# Each method takes the (memory-mapped) vectors and returns the mean that it takes off, its codebooks in the units of
# the vectors, and the codes (N, L) of the rows that it encodes.


def ours(vectors: np.ndarray, num_threads: int):
    tokenizer = fit_residual_kmeans({"text": vectors}, SIZES)
    codes = tokenizer.encode_parts(text=vectors).numpy()
    scale = float(tokenizer.part_scale)
    return tokenizer.part_mean.numpy(), [codebook.numpy() * scale for codebook in tokenizer.codebooks], codes


def with_faiss(vectors: np.ndarray, num_threads: int):
    import faiss

    faiss.omp_set_num_threads(num_threads)
    residuals = vectors[residual_kmeans._sample_rows(len(vectors), seed=0)]
    mean = residuals.mean(axis=0)
    residuals = residuals - mean
    indexes = []
    for level, size in enumerate(SIZES):
        kmeans = faiss.Kmeans(residuals.shape[1], size, niter=ITERATIONS, seed=level, max_points_per_centroid=10**9)
        kmeans.train(residuals)
        residuals -= kmeans.centroids[kmeans.index.search(residuals, 1)[1][:, 0]]
        indexes.append(kmeans.index)
    codebooks = [index.reconstruct_n(0, index.ntotal) for index in indexes]
    codes = np.empty((len(vectors), len(SIZES)), dtype=np.int64)
    for start in range(0, len(vectors), CHUNK_ROWS):
        chunk = vectors[start : start + CHUNK_ROWS] - mean
        for level, index in enumerate(indexes):
            code = index.search(chunk, 1)[1][:, 0]
            codes[start : start + CHUNK_ROWS, level] = code
            chunk -= codebooks[level][code]
    return mean, codebooks, codes


def with_semantic_id(vectors: np.ndarray, num_threads: int):
    from semantic_id import RQKMeans

    vectors = np.array(vectors[:SEMANTIC_ID_ROWS])
    encoder = RQKMeans(len(SIZES), SIZES, max_iter=ITERATIONS, tol=0.0, n_init=1, random_state=0).fit(vectors)
    return np.zeros(vectors.shape[1], np.float32), encoder.codebooks_, encoder.encode(vectors, batch_size=CHUNK_ROWS)


def lloyd(vectors: np.ndarray, num_threads: int):
    from sklearn.cluster import KMeans

    residuals = vectors[residual_kmeans._sample_rows(len(vectors), seed=0)]
    mean = residuals.mean(axis=0)
    residuals = residuals - mean
    codebooks, codes = [], []
    for size in SIZES:
        kmeans = KMeans(size, n_init=1, max_iter=ITERATIONS, tol=0.0, random_state=0).fit(residuals)
        codebooks.append(kmeans.cluster_centers_)
        codes.append(nearest_centroid(residuals, codebooks[-1]))
        residuals -= codebooks[-1][codes[-1]]
    return mean, codebooks, np.stack(codes, axis=1)


METHODS = {"ours": ours, "faiss": with_faiss, "semantic-id": with_semantic_id, "lloyd": lloyd}


def measure(name: str, path: Path, held_out: np.ndarray, num_threads: int) -> dict[str, Any]:
    """Run one method, and judge its codebooks and codes."""
    vectors = np.load(path, mmap_mode="r")
    with threads(num_threads), PeakOfAnonymousMemory() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        mean, codebooks, codes = METHODS[name](vectors, num_threads)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    resident = peak_memory_mib()
    sample = vectors[residual_kmeans._sample_rows(len(vectors), seed=0)]
    return {
        "rows": len(codes),
        "seconds": wall,
        "cpu_seconds": cpu,
        "anonymous_mib": memory.peak,
        "resident_mib": resident,
        "error_sample": mean_squared_error(sample - mean, codebooks),
        "error_held_out": mean_squared_error(held_out - mean, codebooks),
        "empty": [int((np.bincount(codes[:, level], minlength=size) == 0).sum()) for level, size in enumerate(SIZES)],
        "codes_sha256": hashlib.sha256(np.ascontiguousarray(codes, dtype=np.int64)).hexdigest(),
        "codes_nearest": agreement((sample if name == "lloyd" else vectors)[:CHUNK_ROWS] - mean, codebooks, codes),
    }


def agreement(vectors: np.ndarray, codebooks: list[np.ndarray], codes: np.ndarray) -> float:
    """The share of the first rows whose codes are the nearest centroids; rounding decides near-ties."""
    nearest = []
    for codebook in codebooks:
        nearest.append(nearest_centroid(vectors, codebook))
        vectors = vectors - codebook[nearest[-1]]
    share = float((np.stack(nearest, axis=1) == codes[: len(vectors)]).all(axis=1).mean())
    if share < 0.995:
        raise RuntimeError(f"only {share:.2%} of the codes are nearest centroids; the methods are not comparable")
    return share


def mean_squared_error(vectors: np.ndarray, codebooks: list[np.ndarray]) -> float:
    for codebook in codebooks:
        vectors = vectors - codebook[nearest_centroid(vectors, codebook)]
    return float(np.square(vectors, dtype=np.float64).sum(axis=1).mean())


def main():
    args = arguments(__doc__, rows=1_000_000, dim=384)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        held_out = write_vectors(path, args.rows, args.dim)
        print(
            f"{'method':<13}{'rows':>10}{'threads':>8}{'s':>8}{'CPU s':>8}{'anonymous MiB':>15}{'resident MiB':>14}"
            f"{'sample':>10}{'held-out':>10}  empty"
        )
        for num_threads in args.threads:
            for name in METHODS:
                if name == "lloyd" and num_threads != max(args.threads):
                    continue  # one reference is enough
                if name == "semantic-id" and find_spec("semantic_id") is None:
                    print("semantic-id is not installed: pip install semantic-id -c constraints.txt")
                    continue
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    result = pool.apply(measure, (name, path, held_out, num_threads))
                results.append({"method": name, "threads": num_threads} | result)
                print(
                    f"{name:<13}{result['rows']:>10,}{num_threads:>8}{result['seconds']:>8.1f}"
                    f"{result['cpu_seconds']:>8.1f}{result['anonymous_mib']:>15.0f}{result['resident_mib']:>14.0f}"
                    f"{result['error_sample']:>10.5f}{result['error_held_out']:>10.5f}  {result['empty']}",
                    flush=True,
                )
        file_mib = path.stat().st_size / 2**20

    mine = [result for result in results if result["method"] == "ours"]
    reference = next(result for result in results if result["method"] == "lloyd")
    slowest, memory = max(result["seconds"] for result in mine), max(result["anonymous_mib"] for result in mine)
    ratios = {rows: mine[0][f"error_{rows}"] / reference[f"error_{rows}"] for rows in ("sample", "held_out")}
    bars = {
        f"fit and encode in at most {MAX_SECONDS} s: {slowest:.1f} s": slowest <= MAX_SECONDS,
        f"error at most {MAX_ERROR_RATIO} of lloyd's on the sample: {ratios['sample']:.4f}": (
            ratios["sample"] <= MAX_ERROR_RATIO
        ),
        f"error at most {MAX_ERROR_RATIO} of lloyd's on held-out rows: {ratios['held_out']:.4f}": (
            ratios["held_out"] <= MAX_ERROR_RATIO
        ),
        "no empty code": not any(sum(result["empty"]) for result in mine),
        "the same codes with every number of threads": len({result["codes_sha256"] for result in mine}) == 1,
        f"anonymous memory below the file's {file_mib:.0f} MiB: {memory:.0f} MiB": memory < file_mib,
    }
    for bar, holds in bars.items():
        print(f"{'holds' if holds else 'FAILS'}: {bar}")
    settings = {"rows": args.rows, "dim": args.dim, "threads": args.threads}
    results_and_bars = {"methods": results, "bars": bars}
    print(write_result("residual_kmeans", "python -m benchmarks.residual_kmeans", settings, results_and_bars))


if __name__ == "__main__":
    main()
