"""Training targets per second on a data set's own lengths: packed rows against one row per target.

    python -m benchmarks.packing --data ../data/amazon2014_beauty

Three ways to train on the same targets with the same loss and gradients (checked on a batch of users first): the
published one (a row per prefix, random batches padded to the longest), rows of similar length together, and packed. A
step is forward, backward and AdamW. Batches of like rows are drawn evenly from all lengths, so that the few long ones
count as often as in an epoch.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.generation import build
from benchmarks.measure import alternate, arguments, threads, write_result
from hf_genrec.data.collator import NextItemCollator, PackedCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.data.packing import PackedExamples

TARGETS = 256  # per step, in every way


def main() -> None:
    options = arguments(
        __doc__, data=Path("data/amazon2014_beauty"), history=[50, 20], layers=4, hidden=128, row_tokens=256, batches=16
    )
    users = [line.split()[1:-2] for line in (options.data / "sequences.txt").read_text(encoding="utf-8").splitlines()]
    row_of = {item: row for row, item in enumerate(sorted({item for user in users for item in user}))}
    sequences = [np.array([row_of[item] for item in user], dtype=np.int64) for user in users]

    results = {}
    for history in options.history:
        model = build(len(row_of), options.layers, options.hidden, history).train()
        check_equal(model, sequences, options.row_tokens)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        batches = make_batches(model.processor, sequences, history, options.row_tokens, options.batches)

        def step(batch, model=model, optimizer=optimizer):
            model(**batch()).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        for count in options.threads:
            # One way at a time takes its turn with one batch of each kind: a round goes through all lengths.
            with threads(count):
                ways = {
                    name: lambda drawn=drawn: [step(batch) for batch, _ in drawn] for name, drawn in batches.items()
                }
                measured = alternate(ways, options.repeats)
            for name, drawn in batches.items():
                measured[name]["targets_per_second"] = sum(n for _, n in drawn) / measured[name]["seconds"]
                measured[name]["slots_per_target"] = sum(slots(model, batch()) for batch, _ in drawn) / sum(
                    n for _, n in drawn
                )
            results[f"history {history}, {count} threads"] = measured
            report(f"history limit {history}, {count} thread(s)", measured)
    settings = vars(options) | {"data": options.data.name}
    write_result("packing", "python -m benchmarks.packing", settings, results)


def make_batches(processor, sequences, history: int, row_tokens: int, count: int) -> dict[str, list]:
    """Per way pairs of a function that makes a batch, and its number of targets."""
    rows, collate_rows = NextItemExamples(sequences, "all", history), NextItemCollator(processor)
    packed = PackedExamples(sequences, "all", history, processor.num_levels, row_tokens)
    collate_packed = PackedCollator(processor)
    at_random = np.random.default_rng(0).permutation(len(rows))[: TARGETS * (count // 4)].reshape(-1, TARGETS)
    packed_rows = round(TARGETS * len(packed) / packed.num_targets)  # rows with as many targets, on average
    by_length, in_packed = evenly(rows.lengths, TARGETS, count), evenly(packed.lengths, packed_rows, count)
    return {
        "random rows": [(lambda i=i: collate_rows([rows[j] for j in i]), TARGETS) for i in at_random],
        "rows by length": [(lambda i=i: collate_rows([rows[j] for j in i]), TARGETS) for i in by_length],
        "packed": [
            (lambda i=i: collate_packed([packed[j] for j in i]), sum(num_targets(packed, j) for j in i))
            for i in in_packed
        ],
    }


def evenly(lengths: np.ndarray, size: int, count: int) -> np.ndarray:
    """(count, size) examples: batches of neighbouring lengths, drawn evenly from the shortest to the longest."""
    order = np.argsort(lengths, kind="stable")
    batches = order[: len(order) // size * size].reshape(-1, size)
    return batches[((np.arange(count) + 0.5) * len(batches) / count).astype(int)]


def num_targets(packed: PackedExamples, row: int) -> int:
    return sum(len(items) - first for items, first in packed[row]["segments"])


def slots(model, batch: dict) -> int:
    """Positions that go through the layers, padding included."""
    seen = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2].numel()))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen[0]


def check_equal(model, sequences, row_tokens: int) -> None:
    """Loss and gradients of forty users, packed and in rows."""
    processor, some = model.processor, sequences[:: len(sequences) // 40]
    rows = NextItemExamples(some, "all", processor.max_history)
    packed = PackedExamples(some, "all", processor.max_history, processor.num_levels, row_tokens)
    found = []
    for examples, collate in ((rows, NextItemCollator(processor)), (packed, PackedCollator(processor))):
        model.zero_grad()
        loss = model(**collate([examples[i] for i in range(len(examples))])).loss
        loss.backward()
        found.append((loss.item(), [parameter.grad.clone() for parameter in model.parameters()]))
    (loss, gradients), (packed_loss, packed_gradients) = found
    difference = max((a - b).abs().max().item() for a, b in zip(gradients, packed_gradients, strict=True))
    assert abs(loss - packed_loss) < 1e-5, (loss, packed_loss)
    assert difference < 1e-5, difference
    model.zero_grad()
    print(
        f"{rows.num_targets} targets: loss {loss:.6f} / {packed_loss:.6f}, gradients differ by {difference:.1e} at most"
    )


def report(title: str, measured: dict) -> None:
    base = measured["random rows"]["targets_per_second"]
    print(f"\n{title:<40} targets/s   slots/target   times random rows   times rows by length")
    for name, figures in measured.items():
        speed = figures["targets_per_second"]
        by_length = speed / measured["rows by length"]["targets_per_second"]
        print(
            f"{name:<40} {speed:9.0f}   {figures['slots_per_target']:12.1f}   {speed / base:17.2f}   {by_length:20.2f}"
        )


if __name__ == "__main__":
    main()
