"""Item tokenizers on the text vectors of a catalogue: error, use of the codes, collisions, cost.

    OMP_NUM_THREADS=1 python -m benchmarks.item_tokenizers --data data/amazon2014_beauty

Residual k-means of the 64 principal components (the default) and of whole vectors, RQ-VAE, and MPQ with 2 to 12
codebooks, each fitted with the arguments that `hf-genrec tokenize` would take. `error` is the share of the whole
vectors' variance that the codes do not tell, what a projection drops included; with an MPQ, `own gate` is what it would
be if the codes came with the item's gate. Usage (of the worst codebook), perplexity and collisions are those of the
codes as the tokenizer gives them, before collisions are settled. Each tokenizer must give an item alone the codes that
it gives it among the others.
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
from hf_genrec.semantic_ids.build import item_parts
from hf_genrec.semantic_ids.collisions import count_collisions
from hf_genrec.semantic_ids.health import health_report
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans
from hf_genrec.trainers import prepare_data
from hf_genrec.training.config import parse_config
from hf_genrec.training.item_tokenizer import train_item_tokenizer

BASES = {"amazon2014_beauty": "care/beauty"}
CASES: dict[str, dict[str, Any]] = {
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


def measure(parts: dict[str, np.ndarray], arguments: TokenizerArguments) -> dict[str, Any]:
    """Fit one tokenizer, and judge its codes."""
    start, record = time.process_time(), {}
    if arguments.item_tokenizer == "residual_kmeans":
        tokenizer: ItemTokenizer = fit_residual_kmeans(
            parts, arguments.codebook_sizes, projection_dim=arguments.projection_dim
        )
    else:
        tokenizer, record = train_item_tokenizer(parts, arguments, use_cpu=True, disable_tqdm=True)
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


def in_whole_space(tokenizer: ItemTokenizer, vectors: torch.Tensor) -> np.ndarray:
    if tokenizer.config.projection_dim is not None:
        vectors = vectors @ tokenizer.get_buffer("projection").T
    return vectors.numpy()


def error(vectors: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.square(vectors - decoded).sum() / np.square(vectors - vectors.mean(axis=0)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of a data set: {', '.join(BASES)}")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.data.name not in BASES:
        parser.error(f"--data: name a folder called {' or '.join(BASES)}")
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(BASES[options.data.name], ["--source_path", str(options.data), "--output_dir", folder])
        prepare_data.main(config)
        prepared = PreparedData.load(config.run.data)
    texts = {"text_columns": config.tokenizer.text_columns}
    parts = item_parts(prepared.items, prepared.train_sequences(), TokenizerArguments(**texts))

    results = {}
    with threads(options.threads):
        for name in options.cases:
            results[name] = measure(parts, TokenizerArguments(**CASES[name], **texts))
    header = (
        f"{'tokenizer':<33}{'error':>7}{'own gate':>9}{'used':>6}  {'perplexity':<12}{'share ids':>10}{'largest':>8}"
    )
    print(f"{header}{'fit CPU s':>11}{'encode':>8}")
    for name, result in results.items():
        low, high = (round(pick(result["perplexity"])) for pick in (min, max))
        own = f"{result['error_own_gate']:.3f}" if "error_own_gate" in result else ""
        shared = result["collisions"]
        print(
            f"{name:<33}{result['error']:>7.3f}{own:>9}{result['usage']:>6.0%}  {f'{low} to {high}':<12}"
            f"{shared['items']:>10,}{shared['largest_group']:>8}{result['fit_cpu_seconds']:>11.0f}"
            f"{result['encode_cpu_seconds']:>8.1f}"
        )
    if options.cases == list(CASES):
        command = f"OMP_NUM_THREADS={options.threads} python -m benchmarks.item_tokenizers --data {options.data.name}"
        settings = {"items": len(prepared.item_ids), "threads": options.threads, "vectors": "MiniLM, 384 numbers"}
        print(write_result("item_tokenizers", command, settings, results))


if __name__ == "__main__":
    main()
