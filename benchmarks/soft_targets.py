"""What soft targets add to a training step, and what they cost before the first one, on a data set's own lengths.

    OMP_NUM_THREADS=1 python -m benchmarks.soft_targets --data ../data/amazon2014_beauty --threads 1

A model of codes (3 x 256, random) trains on packed rows: on the labels, with soft targets, and over legal codes only. A
step is making the batch, forward, backward and AdamW; the ways take turns, and the ratios are of the medians of CPU
time. Before the first step the shares of each target's codes are made from item scores. That is timed for recommenders
whose vectors have 64 and 256 numbers (random ones: the work is the same), without the reading of the histories, over
2,560 targets.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.generation import build
from benchmarks.measure import alternate, arguments, threads, write_result
from benchmarks.packing import evenly
from hf_genrec.data.collator import PackedCollator
from hf_genrec.data.examples import target_positions
from hf_genrec.data.packing import PackedExamples
from hf_genrec.training.code_shares import CodeShares
from hf_genrec.training.soft_targets import SoftTargetCollator, SoftTargetMaker

LEVELS = 3


def main() -> None:
    options = arguments(
        __doc__, data=Path("data/amazon2014_beauty"), history=50, layers=2, hidden=128, rows=12, batches=8
    )
    users = [line.split()[1:-2] for line in (options.data / "sequences.txt").read_text(encoding="utf-8").splitlines()]
    row_of = {item: row for row, item in enumerate(sorted({item for user in users for item in user}))}
    sequences = [np.array([row_of[item] for item in user], dtype=np.int64) for user in users]

    model = build(len(row_of), options.layers, options.hidden, options.history, LEVELS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    packed = PackedExamples(sequences, "all", options.history, LEVELS, row_tokens=256)
    drawn = evenly(packed.lengths, options.rows, options.batches)
    per_step = np.mean([sum(len(packed[i]["target_numbers"]) for i in rows) for rows in drawn])
    codes, token_ids = CodeShares(model.processor.trie), ids_of_targets(model.processor, sequences)
    shares = torch.rand(len(token_ids), sum(codes.widths), generator=torch.Generator().manual_seed(0))
    collate = PackedCollator(model.processor)
    ways = {
        "labels alone": collate,
        "soft targets": SoftTargetCollator(collate, SoftTargetMaker(codes, token_ids, shares, 0.1)),
        "soft targets, legal codes only": SoftTargetCollator(
            collate, SoftTargetMaker(codes, token_ids, shares, 0.1, legal_temperature=1.0)
        ),
    }

    def steps(make_batch) -> None:
        for rows in drawn:
            model(**make_batch([packed[i] for i in rows])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def before(width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        states, vectors = (torch.randn(n, width, generator=generator) for n in (2560, len(row_of)))
        for start in range(0, 2560, 256):
            part = slice(start, start + 256)
            codes.shares(vectors[codes.order] @ states[part].T, codes.path(token_ids[part]))

    results = {}
    for count in options.threads:
        with threads(count):
            measured = alternate({name: lambda w=way: steps(w) for name, way in ways.items()}, options.repeats)
            made = alternate({str(width): lambda w=width: before(w) for width in (64, 256)}, options.repeats)
        plain = measured["labels alone"]["cpu_seconds"]
        print(f"\n{count} thread(s), {per_step:.0f} targets a step")
        for name, figures in measured.items():
            figures["ratio"] = figures["cpu_seconds"] / plain
            print(f"{name:<32} {1000 * figures['cpu_seconds'] / len(drawn):7.1f} CPU ms   {figures['ratio']:.3f}")
        for width, figures in made.items():
            per_target = figures["cpu_seconds"] / 2560
            print(
                f"before, {width} numbers: {1e6 * per_target:.0f} CPU us a target, {per_target * len(token_ids):.1f} s"
            )
            measured[f"before, {width} numbers"] = figures | {"seconds_of_all": per_target * len(token_ids)}
        results[f"{count} threads"] = measured
    settings = vars(options) | {"data": options.data.name, "items": len(row_of)}
    write_result("soft_targets", "python -m benchmarks.soft_targets", settings, results)


def ids_of_targets(processor, sequences) -> torch.Tensor:
    users, positions = target_positions(sequences, "all")
    rows = [sequences[user][position] for user, position in zip(users, positions, strict=True)]
    return torch.from_numpy(processor.token_ids[rows])


if __name__ == "__main__":
    main()
