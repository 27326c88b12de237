"""Where a trained run loses its hits: code by code, in the beam, and between validation and test.

    python -m benchmarks.diagnose runs/care-beauty --users 2000 --exact 200

Prints and writes `results/diagnosis.json` in the run folder:
- each code given the right codes before it: cross-entropy, and how often it is the first or among the first ten legal
  ones, on training targets and on both held-out splits (a large gap between them is over-fitting of that level);
- how many targets are still in the beam after each code, for several widths, and what scoring of every item finds;
- both held-out splits by how often the target was bought in training.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.prepared import EvaluationSplit, PreparedData
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.evaluation.metrics import ndcg_at_k, recall_at_k
from hf_genrec.files import write_json
from hf_genrec.method import load_model
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.trainer import subsample

WIDTHS = (20, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=2000, help="users of each split")
    parser.add_argument("--exact", type=int, default=200, help="users for whom every item is scored")
    options = parser.parse_args()
    run = RunFolder(options.run)
    model, prepared = load_model(run.require_model()), PreparedData.load(run.data)
    splits = {"training": training_targets(prepared, model.processor.max_history, options.users)}
    splits |= {name: subsample(prepared.split(name), options.users, seed=0) for name in ("validation", "test")}

    result: dict = {"codes": {name: by_code(model, split) for name, split in splits.items()}}
    print(
        f"{'given the right codes before it':<36}"
        + "".join(f"code {i + 1:<7}" for i in range(model.processor.num_levels))
    )
    for name, table in result["codes"].items():
        for figure, values in table.items():
            print(f"{name + ', ' + figure:<36}" + "".join(f"{value:<12.3f}" for value in values))

    result["beam"] = {name: in_the_beam(model, splits[name]) for name in ("validation", "test")}
    print("\ntargets still in the beam after each code, then Recall@10 and NDCG@10")
    for name, table in result["beam"].items():
        for width, figures in table.items():
            print(f"{name + ', ' + width:<36}" + "".join(f"{value:<12.4f}" for value in figures.values()))
    result["exact"] = {
        name: exactly(model, subsample(splits[name], options.exact, 0)) for name in ("validation", "test")
    }
    print(f"\nevery item scored, {options.exact} users: Recall@10 and NDCG@10, then those of the widest beam for them")
    for name, figures in result["exact"].items():
        print(f"{name:<36}" + "".join(f"{value:<12.4f}" for value in figures.values()))

    result["popularity"] = {name: by_popularity(model, splits[name], prepared) for name in ("validation", "test")}
    print("\ntargets by purchases in training: share of the users, Recall@10")
    for name, table in result["popularity"].items():
        for group, figures in table.items():
            print(f"{name + ', ' + group:<36}{figures['share']:<12.3f}{figures['recall@10']:<12.4f}")
    write_json(result, run.results / "diagnosis.json")


def training_targets(prepared: PreparedData, max_history: int, users: int) -> EvaluationSplit:
    """Random training targets in the form of a split."""
    examples = NextItemExamples(prepared.train_sequences(), "all", max_history)
    chosen = np.sort(np.random.default_rng(0).choice(len(examples), min(users, len(examples)), replace=False))
    drawn = [examples[int(i)] for i in chosen]
    return EvaluationSplit(
        "training",
        [prepared.user_ids[examples.users[i]] for i in chosen],
        [example["history"] for example in drawn],
        [np.array([example["target"]]) for example in drawn],
    )


@torch.no_grad()
def by_code(model, split: EvaluationSplit, batch_size: int = 100) -> dict[str, list[float]]:
    """Per code: mean cross-entropy over the full vocabulary, and the share that is first, or in the first ten."""
    processor = model.processor
    levels, losses, ranks = processor.num_levels, [], []
    for start in range(0, len(split.histories), batch_size):
        prompts = processor.prompts(split.histories[start : start + batch_size])
        targets = np.array([target[0] for target in split.targets[start : start + batch_size]])
        codes = torch.from_numpy(processor.token_ids[targets])
        logits = model(
            torch.cat([prompts["input_ids"], codes], dim=1),
            attention_mask=torch.cat([prompts["attention_mask"], torch.ones_like(codes)], dim=1),
            logits_to_keep=levels + 1,
        ).logits[:, :-1]
        log_probs = logits.float().log_softmax(-1)
        own = log_probs.gather(2, codes[..., None])
        losses.append(-own[..., 0])
        for level in range(levels):
            tokens, _, mask = processor.trie.allowed(processor.trie.walk(codes[:, :level]), level)
            scores = processor.trie.gather(log_probs[:, level], tokens, level) + mask
            ranks.append((scores > own[:, level]).sum(-1))
    rank = torch.cat([torch.stack(ranks[i : i + levels], 1) for i in range(0, len(ranks), levels)])
    return {
        "cross-entropy": torch.cat(losses).mean(0).tolist(),
        "first": (rank == 0).float().mean(0).tolist(),
        "in the first ten": (rank < 10).float().mean(0).tolist(),
    }


def in_the_beam(model, split: EvaluationSplit, batch_size: int = 50) -> dict[str, dict[str, float]]:
    """Per width: the share of the targets whose first l codes are a beam after l codes, Recall@10 and NDCG@10."""
    processor, table = model.processor, {}
    targets = np.array([target[0] for target in split.targets])
    for width in WIDTHS:
        kept = np.zeros(processor.num_levels)
        for start in range(0, len(targets), batch_size):
            ids = torch.from_numpy(processor.token_ids[targets[start : start + batch_size]])
            prompts = processor.prompts(split.histories[start : start + batch_size])
            beams = beams_by_level(model, prompts, width)
            for level, nodes in enumerate(beams):
                own = processor.trie.walk(ids[:, : level + 1])
                kept[level] += (nodes == own[:, None]).any(-1).sum().item()
        rows, _ = model.recommend_rows(split.histories, 10, num_beams=width)
        figures = {f"code {level + 1}": share for level, share in enumerate((kept / len(targets)).tolist())}
        table[f"{width} beams"] = figures | metrics(rows, split)
    return table


def beams_by_level(model, prompts, width: int) -> list[torch.Tensor]:
    """Nodes (B, w) of the beams after each code: the search over the trie cut off at that code."""
    trie, beams = model.processor.trie, []
    for level in range(1, trie.num_levels + 1):
        shorter = type(trie).from_token_ids(trie.token_ids()[:, :level])
        beams.append(beam_search(model, prompts, shorter, width)[0])
    return beams


def exactly(model, split: EvaluationSplit) -> dict[str, float]:
    """Recall@10 and NDCG@10 by exact scores of all items, and those of the widest beam for the same users."""
    ids = model.processor.item_ids
    histories = [[ids[row] for row in history] for history in split.histories]
    best = [torch.topk(model.score_items(history), 10).indices for history in histories]
    rows, _ = model.recommend_rows(split.histories, 10, num_beams=WIDTHS[-1])
    beam = {f"{name}, {WIDTHS[-1]} beams": value for name, value in metrics(rows, split).items()}
    return metrics(torch.stack(best).numpy(), split) | beam


def by_popularity(model, split: EvaluationSplit, prepared: PreparedData) -> dict[str, dict[str, float]]:
    """The users and their Recall@10 by how often their target stands in the training sequences."""
    counts = prepared.item_popularity()[[target[0] for target in split.targets]]
    rows, _ = model.recommend_rows(split.histories, 10)
    hits = recall_at_k(rows, split.targets, 10)
    table, bounds = {}, [0, 5, 10, 20, 50, int(counts.max()) + 1]
    for low, high in itertools.pairwise(bounds):
        group = (counts >= low) & (counts < high)
        recall = float(hits[group].mean()) if group.any() else 0.0
        table[f"{low} to {high - 1}"] = {"share": float(group.mean()), "recall@10": recall}
    return table


def metrics(rows: np.ndarray, split: EvaluationSplit) -> dict[str, float]:
    return {
        "recall@10": float(recall_at_k(rows, split.targets, 10).mean()),
        "ndcg@10": float(ndcg_at_k(rows, split.targets, 10).mean()),
    }


if __name__ == "__main__":
    main()
