"""How to compare items by the embeddings of their codes, on a trained run of a model that reads codes.

python -m benchmarks.similar_items --run runs/care-ml-100k

Of the ten items most like each item: the share of the categories that they have in common with it (Jaccard), and how
often the next item of a validation user is among those of the user's newest one. Random neighbours and item-kNN, which
counts who consumed both, stand beside them. Equal similarities are in random order, so that popular items, which stand
first in some catalogues, have no advantage.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import write_result
from hf_genrec.evaluation.baselines import ItemKNN
from hf_genrec.evaluation.report import data_set, markdown_table
from hf_genrec.run import Run

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(options.run)
    data, model = run.data, run.model
    token_ids = torch.from_numpy(model.processor.token_ids)
    codes = model.get_input_embeddings()(token_ids).detach().float()  # (N, L, d)
    unit = torch.nn.functional.normalize(codes, dim=-1)
    halved = unit * (0.5 ** torch.arange(codes.shape[1])).sqrt().unsqueeze(-1)
    generator = torch.Generator().manual_seed(0)
    counts = ItemKNN(data.train_sequences(), len(data.item_ids))
    order = torch.from_numpy(counts.rank)  # its rows and columns stand by popularity
    knn = torch.from_numpy(counts.similarity.toarray()).float()[order][:, order]
    ways = {
        "similar_items": _cosines(model.similarity_vectors().detach()),
        "unit embeddings, halving": _cosines(halved.flatten(1)),
        "unit embeddings, one behind the other": _cosines(unit.flatten(1)),
        "unit embeddings, summed": _cosines(unit.sum(1)),
        "embeddings, one behind the other": _cosines(codes.flatten(1)),
        "embeddings, summed": _cosines(codes.sum(1)),
        "random": torch.rand(len(codes), len(codes), generator=generator),
        "item-kNN": knn,
    }
    rows = [["", "categories in common", f"next item in {K}"]]
    results = {}
    for name, similarity in ways.items():
        near = _nearest(similarity, generator)
        results[name] = {"categories": _shared_categories(data.items, near), "next_item": _next_items(data, near)}
        rows.append([name, *(f"{value:.3f}" for value in results[name].values())])
    print(markdown_table(rows))
    settings = {"data": data_set(data), "method": model.config.model_type, "levels": codes.shape[1], "k": K}
    path = write_result("similar_items", f"python -m benchmarks.similar_items --run {options.run}", settings, results)
    print(Path(path))


def _cosines(vectors: torch.Tensor) -> torch.Tensor:
    vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
    return vectors @ vectors.T


def _nearest(similarity: torch.Tensor, generator: torch.Generator) -> np.ndarray:
    """(N, K) rows of the nearest other items."""
    order = torch.randperm(similarity.shape[1], generator=generator)
    others = similarity.clone().fill_diagonal_(-torch.inf)
    return order[others[:, order].topk(K).indices].numpy()


def _shared_categories(items, near: np.ndarray) -> float:
    of_items = [set(filter(None, (text or "").split(", "))) for text in items["categories"].to_pylist()]
    shares = [
        len(of_items[row] & of_items[other]) / max(1, len(of_items[row] | of_items[other]))
        for row, others in enumerate(near)
        for other in others
    ]
    return float(np.mean(shares))


def _next_items(data, near: np.ndarray) -> float:
    split = data.split("validation")
    pairs = [
        (history[-1], targets[0])
        for history, targets in zip(split.histories, split.targets, strict=True)
        if len(history)
    ]
    return float(np.mean([target in near[newest] for newest, target in pairs]))


if __name__ == "__main__":
    main()
