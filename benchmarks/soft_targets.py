"""What soft targets add to a training step, on a data set's own lengths.

    OMP_NUM_THREADS=1 python -m benchmarks.soft_targets --data ../data/amazon2014_beauty

A model of codes (3 x 256, random) trains on packed rows: on the labels, with soft targets of recommenders whose vectors
have 64 and 256 numbers (random ones: the work is the same), and over legal codes only. A step is making the batch,
forward, backward and AdamW; the ways take turns, and the ratios are of the medians of CPU time. *crowded*: a tenth of
all items share their first code, so that many have to be read again below it.
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
from hf_genrec.training.soft_targets import NumberedTargets, SoftTargetMaker

LEVELS = 3


def main() -> None:
    options = arguments(
        __doc__, data=Path("data/amazon2014_beauty"), history=50, layers=2, hidden=128, rows=12, batches=12
    )
    users = [line.split()[1:-2] for line in (options.data / "sequences.txt").read_text(encoding="utf-8").splitlines()]
    row_of = {item: row for row, item in enumerate(sorted({item for user in users for item in user}))}
    sequences = [np.array([row_of[item] for item in user], dtype=np.int64) for user in users]

    model = build(len(row_of), options.layers, options.hidden, options.history, LEVELS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    packed = PackedExamples(sequences, "all", options.history, LEVELS, row_tokens=256)
    collate = NumberedTargets(PackedCollator(model.processor))
    drawn = evenly(packed.lengths, options.rows, options.batches)
    numbers = [packed[i]["target_numbers"] for batch in drawn for i in batch]
    makers = {
        "labels alone": None,
        "64 numbers": maker(model, sequences, 64),
        "256 numbers": maker(model, sequences, 256),
        "64 numbers, legal codes only": maker(model, sequences, 64, legal_temperature=1.0),
        "64 numbers, crowded": maker(model, sequences, 64, crowded=True),
    }

    def epoch(make) -> None:
        for rows in drawn:
            batch = collate([packed[i] for i in rows])
            targets = batch.pop("target_numbers")
            soft = None if make is None else make(targets)
            model(**batch, soft_targets=soft).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    results = {}
    for count in options.threads:
        with threads(count):
            measured = alternate({name: lambda m=m: epoch(m) for name, m in makers.items()}, options.repeats)
        plain = measured["labels alone"]["cpu_seconds"]
        print(f"\n{count} thread(s), {len(np.concatenate(numbers)) / len(drawn):.0f} targets a step")
        for name, figures in measured.items():
            figures["ratio"] = figures["cpu_seconds"] / plain
            print(f"{name:<32} {1000 * figures['cpu_seconds'] / len(drawn):7.1f} CPU ms   {figures['ratio']:.3f}")
        results[f"{count} threads"] = measured
    settings = vars(options) | {"data": options.data.name, "items": len(row_of)}
    write_result("soft_targets", "python -m benchmarks.soft_targets", settings, results)


def maker(model, sequences, width: int, legal_temperature: float | None = None, crowded: bool = False):
    """Soft targets of all training targets, of random states and item vectors."""
    token_ids = model.processor.token_ids.copy()
    if crowded:
        token_ids[: len(token_ids) // 10, 0] = token_ids[0, 0]
    users, positions = target_positions(sequences, "all")
    targets = np.array([sequences[user][position] for user, position in zip(users, positions, strict=True)])
    generator = torch.Generator().manual_seed(0)
    states, vectors = (torch.randn(n, width, generator=generator) for n in (len(targets), len(token_ids)))
    return SoftTargetMaker(
        CodeShares(token_ids),
        torch.from_numpy(token_ids),
        torch.from_numpy(targets),
        states,
        vectors,
        weight=0.1,
        legal_temperature=legal_temperature,
    )


if __name__ == "__main__":
    main()
