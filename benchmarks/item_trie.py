"""The item trie at scale: what it costs to build, to keep, to open, and to change by 10,000 items.

    python -m benchmarks.item_trie

Codes are drawn uniformly, from codebooks of 256 and from codebooks of 152,000 tokens, where hardly any prefix is
shared. Every measurement has a process of its own, so that the peaks of memory are its own; peaks hold Python, torch
and the input (int32). "open" is of a file that is not in the page cache, "again" of one that is. Changes are compared
with a trie built anew.
"""

import gc
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.measure import alternate, arguments, peak_memory_mib, threads, write_result
from hf_genrec.catalogue.item_trie import ItemTrie

CODEBOOKS = {"4 x 256": 256, "4 x 152,000": 152_000}
LEVELS = 4
CHANGED = 10_000


def draw(items: int, codebook: int, seed: int) -> np.ndarray:
    """(items, 4) int32 token ids; small codebooks have tokens of their own for each level."""
    ids = np.random.default_rng(seed).integers(0, codebook, (items, LEVELS), dtype=np.int32)
    if codebook == 256:
        ids += codebook * np.arange(LEVELS, dtype=np.int32)
    return ids


def build(items: int, codebook: int, path: Path, num_threads: int) -> dict[str, Any]:
    """Build a trie and save it."""
    ids = draw(items, codebook, seed=0)
    before = peak_memory_mib()
    with threads(num_threads):
        start = time.perf_counter()
        trie = ItemTrie.from_token_ids(ids)
        seconds = time.perf_counter() - start
    peak = peak_memory_mib()
    tensors = trie.state_dict()
    save_file(tensors, path)
    return {
        "build_seconds": seconds,
        "build_peak_mib": peak,
        "peak_before_mib": before,
        "nodes": [len(tokens) for tokens in trie.tokens],
        "memory_bytes_per_item": sum(tensor.nbytes for tensor in tensors.values()) / items,
        "disk_bytes_per_item": path.stat().st_size / items,
    }


def open_file(path: Path) -> dict[str, Any]:
    """Open a saved trie that is not in the page cache, walk in it, and open it once more."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with threads(1):
        before = resident_mib()
        start = time.perf_counter()
        trie = ItemTrie.from_state_dict(load_file(path))
        opened = time.perf_counter()
        grown = resident_mib() - before
        trie.walk(trie.token_ids(torch.tensor([0, len(trie) // 2])))
        walked = time.perf_counter()
        ItemTrie.from_state_dict(load_file(path))
        return {
            "open_seconds": opened - start,
            "open_resident_mib": grown,
            "first_walk_seconds": walked - opened,
            "open_again_seconds": time.perf_counter() - walked,
        }


def change(items: int, codebook: int, path: Path, num_threads: int, repeats: int) -> dict[str, Any]:
    """Insert, remove and pick out 10,000 items of an opened trie, and compare each result with a trie built anew."""
    rng = np.random.default_rng(1)
    new_ids, new_rows = draw(CHANGED, codebook, seed=2), np.arange(items, items + CHANGED)
    gone = rng.choice(items, CHANGED, replace=False)
    with threads(num_threads):
        trie = ItemTrie.from_state_dict(load_file(path))
        measured = alternate(
            {
                "insert": lambda: trie.insert(new_ids, new_rows),
                "remove": lambda: trie.remove(gone),
                "restrict": lambda: trie.restrict(gone),
            },
            repeats,
        )
    ids = draw(items, codebook, seed=0)
    left = np.setdiff1d(np.arange(items), gone)
    picked = np.sort(gone)
    assert_equal(trie.insert(new_ids, new_rows), ItemTrie.from_token_ids(np.concatenate([ids, new_ids])))
    assert_equal(trie.remove(gone), ItemTrie.from_token_ids(ids[left], left))
    assert_equal(trie.restrict(gone), ItemTrie.from_token_ids(ids[picked], picked))
    return {f"{name}_seconds": times["seconds"] for name, times in measured.items()} | {
        f"{name}_seconds_max": times["seconds_max"] for name, times in measured.items()
    }


def assert_equal(trie: ItemTrie, anew: ItemTrie):
    mine, others = trie.state_dict(), anew.state_dict()
    assert mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, others[name]), f"{name} differs from that of a trie built anew"


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_a_process(function, *args) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main():
    args = arguments(__doc__, items=[12_000, 200_000, 1_000_000, 10_000_000])
    print(
        f"{'codes':<12}{'items':>11}{'threads':>8}{'build s':>9}{'peak MiB':>10}{'B/item':>8}{'on disk':>8}"
        f"{'open s':>9}{'again s':>9}{'insert s':>10}{'remove s':>10}{'restrict s':>11}"
    )
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "item_trie.safetensors"
        for codes, codebook in CODEBOOKS.items():
            for items in args.items:
                for num_threads in args.threads:
                    case = {"codes": codes, "items": items, "threads": num_threads}
                    case |= in_a_process(build, items, codebook, path, num_threads)
                    case |= in_a_process(open_file, path)
                    case |= in_a_process(change, items, codebook, path, num_threads, args.repeats)
                    results.append(case)
                    print(
                        f"{codes:<12}{items:>11,}{num_threads:>8}{case['build_seconds']:>9.3f}"
                        f"{case['build_peak_mib']:>10.0f}{case['memory_bytes_per_item']:>8.1f}"
                        f"{case['disk_bytes_per_item']:>8.1f}{case['open_seconds']:>9.4f}{case['open_again_seconds']:>9.4f}"
                        f"{case['insert_seconds']:>10.3f}{case['remove_seconds']:>10.3f}{case['restrict_seconds']:>11.3f}",
                        flush=True,
                    )
    print("Every change equals the trie built anew, array by array.")
    print(write_result("item_trie", "python -m benchmarks.item_trie", vars(args), results))


if __name__ == "__main__":
    main()
