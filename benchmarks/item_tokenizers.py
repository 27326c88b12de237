"""Item tokenizers on the text vectors of a catalogue: error, use of the codes, collisions, cost.

    OMP_NUM_THREADS=1 python -m benchmarks.item_tokenizers --data data/amazon2014_beauty
    OMP_NUM_THREADS=1 python -m benchmarks.item_tokenizers --data data/ml-100k

Residual k-means of the 64 principal components (the default) and of whole vectors, RQ-VAE, and MPQ with 2 to 12
codebooks; or, for a small catalogue, the tokenizers of ordered codes with 3 codebooks of 64. Each is fitted with the
arguments that `hf-genrec tokenize` would take. `error` is the share of the whole vectors' variance that the codes do
not tell, what a projection drops included; with an MPQ, `own gate` is what it would be if the codes came with the
item's gate. Usage (of the worst codebook), perplexity and collisions are those of the codes as the tokenizer gives
them, before collisions are settled. `next` is how much oftener than by chance two successive items of a training
history have the same first code. Each tokenizer must give an item alone the codes that it gives it among the others.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import threads, write_result
from hf_genrec.data.prepared import PreparedData
from hf_genrec.item_tokenizers.item_tokenizer import ItemTokenizer
from hf_genrec.item_tokenizers.modeling_mpq import MpqTokenizer
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.build import item_collaborative_vectors, item_parts
from hf_genrec.semantic_ids.collisions import count_collisions
from hf_genrec.semantic_ids.health import health_report
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans
from hf_genrec.trainers import prepare_data
from hf_genrec.training.config import parse_config
from hf_genrec.training.item_tokenizer import train_item_tokenizer

BASES = {"amazon2014_beauty": "care/beauty-published", "ml-100k": "care/ml-100k"}
TEXT_CASES: dict[str, dict[str, Any]] = {
    "residual k-means, 3 x 256": {"item_tokenizer": "residual_kmeans"},
    "residual k-means, 4 x 256": {"item_tokenizer": "residual_kmeans", "codebook_sizes": [256] * 4},
    "residual k-means, 3 x 256, whole": {"item_tokenizer": "residual_kmeans", "projection_dim": None},
    "residual k-means, 4 x 256, whole": {
        "item_tokenizer": "residual_kmeans",
        "codebook_sizes": [256] * 4,
        "projection_dim": None,
    },
    "RQ-VAE, 4 x 256": {"item_tokenizer": "rq_vae"},
    "MPQ, 2 x 300": {"item_tokenizer": "mpq", "codebook_sizes": [300] * 2},
    "MPQ, 4 x 300": {"item_tokenizer": "mpq", "codebook_sizes": [300] * 4},
    "MPQ, 8 x 300": {"item_tokenizer": "mpq"},
    "MPQ, 12 x 300": {"item_tokenizer": "mpq", "codebook_sizes": [300] * 12},
}

SMALL = {"codebook_sizes": [64] * 3}
SMALL_CASES: dict[str, dict[str, Any]] = {
    "residual k-means": {"item_tokenizer": "residual_kmeans"},
    "residual k-means, propagated": {"item_tokenizer": "residual_kmeans", "vectors": "propagated"},
    "residual k-means, both": {"item_tokenizer": "residual_kmeans", "vectors": "both"},
    "RQ-VAE": {"item_tokenizer": "rq_vae"},
    "RQ-VAE, propagated": {"item_tokenizer": "rq_vae", "vectors": "propagated"},
    "LETTER": {"item_tokenizer": "letter"},
    "LETTER, 300 epochs": {"item_tokenizer": "letter", "tokenizer_epochs": 300},
    "LETTER, 300 epochs, alignment_weight 1": {
        "item_tokenizer": "letter",
        "tokenizer_epochs": 300,
        "alignment_weight": 1.0,
    },
    "LETTER, alignment_weight 0": {"item_tokenizer": "letter", "alignment_weight": 0.0},
    "LETTER, diversity_weight 0": {"item_tokenizer": "letter", "diversity_weight": 0.0},
    "LETTER, sinkhorn_epsilon 0": {"item_tokenizer": "letter", "sinkhorn_epsilon": 0.0},
    "CoBa RQ-VAE": {"item_tokenizer": "coba"},
    "CoBa RQ-VAE, text": {"item_tokenizer": "coba", "vectors": "text"},
}
CASES = {
    "amazon2014_beauty": TEXT_CASES,
    "ml-100k": {name: case | SMALL for name, case in SMALL_CASES.items()},
}


def measure(
    parts: dict[str, np.ndarray],
    arguments: TokenizerArguments,
    train_sequences: list[np.ndarray],
    collaborative: np.ndarray | None,
) -> dict[str, Any]:
    """Fit one tokenizer, and judge its codes."""
    start, record = time.process_time(), {}
    if arguments.item_tokenizer == "residual_kmeans":
        tokenizer: ItemTokenizer = fit_residual_kmeans(
            parts, arguments.codebook_sizes, projection_dim=arguments.projection_dim
        )
    else:
        tokenizer, record = train_item_tokenizer(parts, arguments, collaborative, use_cpu=True, disable_tqdm=True)
    fitted = time.process_time()
    vectors = tokenizer.join(**parts).numpy()
    codes = tokenizer.encode(vectors).numpy()
    encoded = time.process_time()
    alone = np.random.default_rng(0).choice(len(vectors), 200, replace=False)
    if not all(np.array_equal(tokenizer.encode(vectors[row : row + 1])[0], codes[row]) for row in alone):
        raise RuntimeError(f"{arguments.item_tokenizer} gives an item other codes alone than among others")

    whole = tokenizer.side_by_side(**parts).numpy()
    ids = SemanticIds([str(row) for row in range(len(codes))], codes, arguments.codebook_sizes)
    levels = health_report(ids)["levels"]
    result = {
        "error": error(whole, in_whole_space(tokenizer, tokenizer.decode(codes))),
        "usage": min(level["usage"] for level in levels),
        "perplexity": [level["perplexity"] for level in levels],
        "collisions": count_collisions(codes),
        "next": same_first_code(codes[:, 0], train_sequences),
        "fit_cpu_seconds": fitted - start,
        "encode_cpu_seconds": encoded - fitted,
        "num_weights": tokenizer.num_parameters(),
        **{name: record[name] for name in ("revived_codes", "filled_codes") if name in record},
    }
    if isinstance(tokenizer, MpqTokenizer):
        with torch.no_grad():
            gate = tokenizer.route(torch.from_numpy(vectors))
            words = torch.stack(
                [book[column] for book, column in zip(tokenizer.codebooks, codes.T, strict=True)], dim=1
            )
            decoded = tokenizer.decoder(torch.einsum("nr,nrd->nd", gate, words))
        result |= {"error_own_gate": error(whole, decoded.numpy()), "mean_gate": tokenizer.mean_gate.tolist()}
    return result


def same_first_code(first: np.ndarray, train_sequences: list[np.ndarray]) -> float:
    """How often successive items share it, over how often two interactions drawn at random do."""
    pairs = [np.stack([items[:-1], items[1:]]) for items in train_sequences if len(items) > 1]
    before, after = first[np.concatenate(pairs, axis=1)]
    share = np.bincount(first[np.concatenate(train_sequences)]) / sum(map(len, train_sequences))
    return float((before == after).mean() / np.square(share).sum())


def in_whole_space(tokenizer: ItemTokenizer, vectors: torch.Tensor) -> np.ndarray:
    if tokenizer.config.projection_dim is not None:
        vectors = vectors @ tokenizer.get_buffer("projection").T
    return vectors.numpy()


def error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.square(vectors - decoded).sum() / np.square(vectors - vectors.mean(axis=0)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of a data set: {', '.join(BASES)}")
    parser.add_argument("--cases", nargs="+", metavar="CASE")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.data.name not in BASES:
        parser.error(f"--data: name a folder called {' or '.join(BASES)}")
    cases = CASES[options.data.name]
    chosen = options.cases or list(cases)
    if not cases.keys() >= set(chosen):
        parser.error(f"--cases: choose some of {', '.join(cases)}")
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(BASES[options.data.name], ["--source_path", str(options.data), "--output_dir", folder])
        prepare_data.main(config)
        prepared = PreparedData.load(config.run.data)
    sequences = prepared.train_sequences()

    results = {}
    with threads(options.threads):
        for name in chosen:
            arguments = TokenizerArguments(**cases[name], text_columns=config.tokenizer.text_columns)
            parts, collaborative = item_parts(prepared.items, sequences, arguments), None
            if arguments.aligned:
                collaborative = item_collaborative_vectors(prepared.items, sequences, arguments)
            results[name] = measure(parts, arguments, sequences, collaborative)
    header = (
        f"{'tokenizer':<39}{'error':>7}{'own gate':>9}{'used':>6}  {'perplexity':<12}{'share ids':>10}{'largest':>8}"
    )
    print(f"{header}{'next':>7}{'fit CPU s':>11}{'encode':>8}")
    for name, result in results.items():
        low, high = (round(pick(result["perplexity"])) for pick in (min, max))
        own = f"{result['error_own_gate']:.3f}" if "error_own_gate" in result else ""
        shared = result["collisions"]
        print(
            f"{name:<39}{result['error']:>7.3f}{own:>9}{result['usage']:>6.0%}  {f'{low} to {high}':<12}"
            f"{shared['items']:>10,}{shared['largest_group']:>8}{result['next']:>7.2f}"
            f"{result['fit_cpu_seconds']:>11.0f}{result['encode_cpu_seconds']:>8.1f}"
        )
    if chosen == list(cases):
        command = f"OMP_NUM_THREADS={options.threads} python -m benchmarks.item_tokenizers --data {options.data.name}"
        settings = {"items": len(prepared.item_ids), "threads": options.threads, "vectors": "MiniLM, 384 numbers"}
        place = "item_tokenizers" if cases is TEXT_CASES else f"item_tokenizers_{options.data.name}"
        print(write_result(place, command, settings, results))


if __name__ == "__main__":
    main()
