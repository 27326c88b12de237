"""
A seeded mutator of exported folders, and what must come of a mutated one:

    python tests/damaged_folders.py --mutations 5000 --seed 0

Opening and asking ends in one line (ValueError or OSError) that names the folder or a file in it, or in the very
answers of the undamaged folder.
"""

import argparse
import collections
import contextlib
import json
import logging
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from conftest import make_model, make_processor
from learned_tokenizers import make_mpq, make_opq, make_rq_vae
from safetensors.torch import load_file, save_file
from tiny_cobra import make_cobra, make_cobra_processor
from tiny_codetree import make_codetree
from tiny_ensemble import tiny_ensemble
from tiny_liger import make_liger
from tiny_mdgr import make_code_set_processor, make_mdgr
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from tiny_s2gr import make_s2gr
from tiny_s3rec import tiny_s3rec
from tiny_stream import make_stream
from tiny_tiger import make_tiger
from transformers.utils.logging import disable_progress_bar

import hf_genrec
from hf_genrec.hub import save_model
from hf_genrec.item_tokenizers import load_item_tokenizer

MAKERS = {
    "care": (lambda seed: make_model(make_processor(unique=seed % 2 == 0, seed=seed)), make_rq_vae),
    "ensemble": (lambda seed: tiny_ensemble(seed=seed), make_rq_vae),
    "cobra": (lambda seed: make_cobra(make_cobra_processor(unique=seed % 2 == 0, seed=seed), seed), make_rq_vae),
    "codetree": (lambda seed: make_codetree(make_processor(unique=seed % 2 == 0, seed=seed), seed), make_rq_vae),
    "liger": (lambda seed: make_liger(unique=seed % 2 == 0, seed=seed), make_rq_vae),
    "rearec": (lambda seed: tiny_rearec(seed=seed), make_rq_vae),
    "s3rec": (lambda seed: tiny_s3rec(seed=seed), make_rq_vae),
    "s2gr": (lambda seed: make_s2gr(make_processor(unique=seed % 2 == 0, seed=seed), seed), make_rq_vae),
    "stream": (lambda seed: make_stream(make_processor(unique=seed % 2 == 0, seed=seed), seed), make_rq_vae),
    "tiger": (lambda seed: make_tiger(make_processor(unique=seed % 2 == 0, seed=seed), seed), make_rq_vae),
    "mdgr": (lambda seed: make_mdgr(make_code_set_processor(unique=seed % 2 == 0, seed=seed), seed), make_opq),
    "reg4rec": (lambda seed: make_reg4rec(make_set_processor(unique=seed % 2 == 0, seed=seed)), make_mpq),
}
SECONDS = 20  # of one mutation
HOSTILE = [-1, 0, 1, 2, 10**6, 10**9, 10**18, 1e308, -1e308, 0.5, "", "x", "../..", None, True, [], {}, [-1], [[]], "1"]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "[" * 5000, '"\\ud800"', "0" * 20]


def export(method: str, folder: Path, seed: int) -> None:
    make, make_tokenizer = MAKERS[method]
    with tempfile.TemporaryDirectory() as temporary:
        make_tokenizer().save_pretrained(Path(temporary) / "item_tokenizer")
        save_model(make(seed), folder, Path(temporary) / "item_tokenizer")


def answers(folder: Path) -> list:
    """What a folder recommends, items and scores by turns, and the codes that its item tokenizer gives."""
    model = hf_genrec.load(folder)
    items = model.processor.item_ids
    histories, candidates = [items[:3], [], items[5:6], items[:12]], items[4:20]
    found = [
        *model.recommend(histories, k=10),
        *model.recommend(histories, k=10, exclude_seen=True),
        *model.recommend(histories, k=5, candidates=candidates),
    ]
    tokenizer = load_item_tokenizer(folder / "item_tokenizer")
    vectors = torch.linspace(-1, 1, 5 * tokenizer.config.vector_dim).reshape(5, -1)
    return [*found, tokenizer.encode(vectors).tolist()]


def are_same(found: list, expected: list) -> bool:
    """Scores to within the rounding of sums, which depends on where a tensor lies in memory."""
    scores = zip(found[1::2], expected[1::2], strict=True)
    return found[::2] == expected[::2] and all(
        len(a) == len(b) and np.allclose(a, b, rtol=0, atol=1e-5)
        for ours, theirs in scores
        for a, b in zip(ours, theirs, strict=True)
    )


# ---- mutations: each changes a folder and says what it did ----


def data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors"))


def catalogue_tensors(folder: Path) -> list[Path]:
    return [path for path in data_files(folder) if path.suffix == ".safetensors" and path.name != "model.safetensors"]


def flip_bits(folder, rng, _other):
    """Of a JSON file anywhere; of a safetensors file in its header, or in the data of trie, sets and codes."""
    path = data_files(folder)[rng.integers(len(data_files(folder)))]
    content = bytearray(path.read_bytes())
    end = len(content)
    if path.name == "model.safetensors":
        end = 8 + struct.unpack("<Q", content[:8])[0]
    for place in rng.integers(0, end, rng.integers(1, 4)):
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    return f"bits of {path.name}"


def truncate(folder, rng, _other):
    path = data_files(folder)[rng.integers(len(data_files(folder)))]
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(0, len(content))])
    return f"{path.name} cut"


def lengthen(folder, rng, _other):
    path = data_files(folder)[rng.integers(len(data_files(folder)))]
    path.write_bytes(path.read_bytes() + rng.bytes(rng.integers(1, 40)))
    return f"{path.name} longer"


def remove(folder, rng, _other):
    path = data_files(folder)[rng.integers(len(data_files(folder)))]
    path.unlink()
    if rng.integers(3) == 0:
        path.mkdir()
    return f"{path.name} away"


def swap_file(folder, rng, other):
    path = data_files(folder)[rng.integers(len(data_files(folder)))]
    if path.name == "model.safetensors" and path.parent.name != "item_tokenizer":
        path = path.parent / "catalogue.json"
    if path.parent.name == "item_tokenizer":
        path = folder / "catalogue.safetensors"
    shutil.copy(other / path.relative_to(folder), path)
    return f"{path.name} of another catalogue"


def change_json(folder, rng, _other):
    """A value of a JSON file becomes a hostile one."""
    paths = [path for path in data_files(folder) if path.suffix == ".json"]
    path = paths[rng.integers(len(paths))]
    content = json.loads(path.read_text())
    places = list(_places(content))
    parent, key = places[rng.integers(len(places))]
    free = "free, " if path.name == "config.json" and (key in FREE or parent is not content) else ""
    value = HOSTILE[rng.integers(len(HOSTILE))]
    if path.name == "catalogue.json" and parent is content.get("titles"):
        value = "another title"
    if rng.integers(4) == 0 and path.name != "catalogue.json":
        parent[key] = "@@"
        raw = RAW[rng.integers(len(RAW))]
        path.write_text(json.dumps(content).replace('"@@"', raw, 1))
        return f"{free}{path.name}: {key} is {raw[:10]}"
    parent[key] = value
    path.write_text(json.dumps(content))
    return f"{free}{path.name}: {key} is {value!r}"


def _places(content):
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


# A valid value there is another model and no damage.
FREE = {
    "backbone", "code_order", "code_sees_itself", "depth_rule", "depth_threshold", "dtype", "hidden_act",
    "initializer_range", "layer_norm_eps", "max_rollbacks", "num_attention_heads", "num_candidates",
    "num_key_value_heads", "num_queries", "num_reasoning_steps", "part_weights", "progressive", "reasoning",
    "reflection_interval", "reflection_threshold", "rms_norm_eps", "rope_parameters", "temperature", "hidden_sizes",
    "part_names", "text_columns", "text_model", "tie_word_embeddings",
}  # fmt: skip


def drop_key(folder, rng, _other):
    paths = [path for path in data_files(folder) if path.name in ("catalogue.json", "processor_config.json")]
    path = paths[rng.integers(len(paths))]
    content = json.loads(path.read_text())
    key = sorted(content)[rng.integers(len(content))]
    del content[key]
    path.write_text(json.dumps(content))
    return f"{path.name}: no {key}"


def change_tensor(folder, rng, _other):
    """One tensor of the trie, the sets or the catalogue: permuted, negated, cut, retyped, renamed, a number changed."""
    paths = catalogue_tensors(folder)
    path = paths[rng.integers(len(paths))]
    tensors = load_file(path)
    name = sorted(tensors)[rng.integers(len(tensors))]
    tensor = tensors[name].clone()
    how = int(rng.integers(9))
    if how == 0:
        tensor = tensor[torch.from_numpy(rng.permutation(len(tensor)))]
    elif how == 1:
        tensor = -tensor
    elif how == 2:
        tensor = tensor[: rng.integers(0, len(tensor))].contiguous()
    elif how == 3:
        types = (torch.int64, torch.int32, torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.uint8)
        tensor = tensor.to(types[rng.integers(len(types))])
    elif how == 4:
        del tensors[name]
        name = name + "x"
    elif how == 5:
        numbers = (-1, 0, 1, 2**31 - 1, -(2**31), int(rng.integers(0, 50)))
        tensor.view(-1)[rng.integers(tensor.numel())] = numbers[rng.integers(len(numbers))]
    elif how == 6:
        a, b = rng.integers(0, tensor.numel(), 2)
        flat = tensor.view(-1)
        flat[[a, b]] = flat[[b, a]]
    elif how == 7:
        tensor = torch.cat([tensor, tensor[-1:]])
    else:
        tensor = tensor.unsqueeze(0)
    tensors[name] = tensor
    save_file(tensors, path)
    return f"{path.name}: {name} by {how}"


def cut_trie(folder, rng, _other):
    path = folder / "item_trie.safetensors"
    if not path.is_file():
        return change_tensor(folder, rng, _other)
    tensors = load_file(path)
    last = max(name for name in tensors if name.startswith("tokens."))[-1]
    del tensors[f"tokens.{last}"], tensors[f"child_starts.{last}"]
    tensors["max_children"] = tensors["max_children"][:-1].contiguous()
    save_file(tensors, path)
    return "a trie without its last level"


def change_weights(folder, rng, _other):
    """In ways that can be seen: NaN, infinity, cut, retyped, renamed, left out, one too many."""
    path = (folder, folder / "item_tokenizer")[rng.integers(2)] / "model.safetensors"
    weights = load_file(path)
    floats = [name for name in sorted(weights) if weights[name].is_floating_point() and weights[name].numel()]
    name = floats[rng.integers(len(floats))]
    tensor = weights[name].clone()
    how = int(rng.integers(7))
    if how < 2:
        tensor.view(-1)[rng.integers(tensor.numel())] = (float("nan"), float("-inf"))[how]
    elif how == 2:
        tensor = tensor[1:].contiguous() if len(tensor) > 1 else tensor.unsqueeze(0)
    elif how == 3:
        tensor = tensor.to((torch.float16, torch.int32, torch.int64, torch.bfloat16)[rng.integers(4)])
    elif how == 4:
        del weights[name]
        name = name + "x"
    elif how == 5:
        weights["surplus"] = torch.zeros(2)
    else:
        del weights[name]
        tensor = None
    if tensor is not None:
        weights[name] = tensor
    save_file(weights, path, metadata={"format": "pt"})
    return f"{path.parent.name}/{path.name}: {name} by {how}"


MUTATIONS = [
    flip_bits, truncate, lengthen, remove, swap_file, change_json, change_json, change_json, drop_key,
    change_tensor, change_tensor, cut_trie, change_weights,
]  # fmt: skip


# ---- what comes of it ----


class TooSlow(BaseException):
    pass


@contextlib.contextmanager
def limits(seconds: int, gigabytes: float):
    """A time limit for the block, and a limit of the process's address space above what it has."""

    def stop(*_):
        raise TooSlow

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + int(gigabytes * 2**30), before[1]))
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(folder: Path, expected: list) -> tuple[str, str]:
    """`refused`, `same`, or what is wrong with it."""
    logging.disable(logging.WARNING)
    try:
        with limits(SECONDS, 1.0):
            found = answers(folder)
    except (ValueError, OSError) as error:
        text = str(error)
        if "\n" in text or str(folder) not in text or "http" in text:
            return "a line that does not name the folder", text
        return "refused", text
    except TooSlow:
        return "hung", ""
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        logging.disable(logging.NOTSET)
    return ("same", "") if are_same(found, expected) else ("accepted, other answers", "")


def fuzz(mutations: int, seed: int, temporary: Path) -> tuple[collections.Counter, list[str]]:
    """Counts of the outcomes, and a line for each that must not be."""
    torch.set_num_threads(1)
    disable_progress_bar()
    originals, expected = {}, {}
    for method in MAKERS:
        for number in range(4):
            originals[method, number] = temporary / f"{method}-{number}"
            export(method, originals[method, number], number)
        for number in range(2):
            expected[method, number] = answers(originals[method, number])
    counts, wrong = collections.Counter(), []
    for number in range(mutations):
        rng = np.random.default_rng([seed, number])
        method = list(MAKERS)[number % len(MAKERS)]
        which = int(rng.integers(2))
        folder = temporary / f"damaged-{number}"
        shutil.copytree(originals[method, which], folder, ignore=shutil.ignore_patterns("*.py"))
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        said = mutation(folder, rng, originals[method, which + 2])
        kind, text = outcome(folder, expected[method, which])
        if kind == "accepted, other answers" and said.startswith("free"):
            kind = "another model"
        counts[kind] += 1
        if kind not in ("refused", "same", "another model"):
            wrong.append(f"{number}: {method}-{which} {mutation.__name__}: {said}: {kind}: {text[:300]}")
        shutil.rmtree(folder)
    return counts, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        all_counts, all_wrong = fuzz(options.mutations, options.seed, Path(place))
    print(*all_wrong, sep="\n")
    print(dict(all_counts))
