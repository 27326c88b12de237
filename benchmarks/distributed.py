"""What two processes make of small runs of every method, beside one process: DDP, ZeRO-2 and ZeRO-3 on processors.

    OMP_NUM_THREADS=1 python -m benchmarks.distributed

Per run the loss of its last step when one process trains it, and for each way the largest difference from that process:
of anything that is logged with the loss in any step, of any weight at the end, and of what evaluation finds. The runs,
the rows of a step, and the data are those of tests/training/several_runs.py. A way without its package is left out.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import write_result

sys.path[:0] = [str(Path(__file__).parents[1] / place) for place in ("tests/training", "tests")]


def main() -> None:
    from several_runs import LAUNCHERS, gaps, prepare_all, pretrain, train_all

    argparse.ArgumentParser(description=__doc__, allow_abbrev=False).parse_args()
    ways = [way for way in LAUNCHERS if not way.startswith("ZeRO") or importlib.util.find_spec("deepspeed")]
    with tempfile.TemporaryDirectory() as folder:
        configs = prepare_all(Path(folder))
        pretrain(configs)
        found = {way: train_all(way, configs, Path(folder) / way) for way in ways}
    alone, rows = found["alone"], []
    for name in alone:
        row: dict[str, Any] = {"run": name, "steps": alone[name][0]["steps"], "loss": alone[name][0]["log"][-1]["loss"]}
        for way in ways[1:]:
            row[way] = gaps(alone[name], found[way][name]) if name in found[way] else None
        rows.append(row)
    print(table(rows, ways[1:]))
    write_result("distributed", "python -m benchmarks.distributed", {"processes": 2, "threads": 1}, rows)


def table(rows: list[dict[str, Any]], ways: list[str]) -> str:
    """The rows as a table: `loss gap / weight gap`; evaluation differs by less than 1e-9 where nothing is said."""
    lines = [f"| run | loss of the last step | {' | '.join(ways)} |", "|---|---|" + "---|" * len(ways)]
    for row in rows:
        cells = []
        for way in ways:
            if row[way] is None:
                cells.append("refused")
                continue
            other = "" if row[way]["evaluation"] < 1e-9 else f", evaluation {row[way]['evaluation']:.0e}"
            cells.append(f"{row[way]['loss']:.0e} / {row[way]['weight']:.0e}{other}")
        lines.append(f"| {row['run']} | {row['loss']:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
