"""A log of any size by a stated law, as Parquet or CSV:

    python -m benchmarks.synthetic_log --rows 10_000_000 --out /tmp/log.parquet

The law, for a log of n rows over n / 100 items, or as many as `--items` says:

- an interaction is with the item of rank r with a probability in proportion to 1 / r (Zipf, exponent 1.0); which item
  has which rank is a random permutation;
- a user has as many interactions as a log-normal number says, rounded up: median 8, sigma 1.0, so about 14 on average;
  users are made until the log is full, the last one is cut;
- a user's first interaction is at a uniform time of the five years from 2015 on, and between two of them lies an
  exponential time of half a day on average, in whole seconds.

Users come in blocks of about a million rows; within a block the rows are in the order of time, so that the users'
interactions stand apart, as in a log. The same rows and seed give the same file.

Columns: user_id ("u123"), item_id ("i45"), timestamp (seconds).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from hf_genrec.files import whole_file

BLOCK = 1_000_000
MEDIAN_LENGTH, SIGMA = 8, 1.0
START, YEARS = 1_420_070_400, 5 * 365 * 24 * 3600  # seconds: from 2015-01-01
GAP = 12 * 3600
ROWS_PER_ITEM = 100
SCHEMA = pa.schema({"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()})


def blocks(rows: int, seed: int = 0, num_items: int | None = None) -> Iterator[pa.Table]:
    """The log in tables of about a million rows."""
    generator = np.random.default_rng(seed)
    num_items = num_items or max(10, rows // ROWS_PER_ITEM)
    item_of_rank = generator.permutation(num_items)
    popularity = np.cumsum(1 / np.arange(1, num_items + 1))
    users, left = 0, rows
    while left:
        size = min(BLOCK, left)
        draws = generator.lognormal(np.log(MEDIAN_LENGTH), SIGMA, size // 4 + 10)  # more than a block needs
        ends = np.cumsum(np.ceil(draws).astype(np.int64))
        lengths = np.diff(np.minimum(ends[: np.searchsorted(ends, size) + 1], size), prepend=0)
        user = np.repeat(np.arange(len(lengths)), lengths)
        gaps = generator.exponential(GAP, size).astype(np.int64)
        since = np.cumsum(gaps)
        firsts = np.cumsum(lengths) - lengths
        times = (START + generator.integers(0, YEARS, len(lengths)))[user] + since - since[firsts][user]
        ranks = np.searchsorted(popularity, generator.random(size) * popularity[-1])
        order = np.argsort(times, kind="stable")
        columns = [_named("u", user[order] + users), _named("i", item_of_rank[ranks[order]]), pa.array(times[order])]
        yield pa.table(columns, SCHEMA)
        users, left = users + len(lengths), left - size


def _named(letter: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")


def write_log(path: Path, rows: int, seed: int = 0, num_items: int | None = None) -> None:
    """Writes the log; the suffix says whether it is Parquet or CSV.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"{path}: name it .parquet or .csv")
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, SCHEMA) as writer:
                for block in blocks(rows, seed, num_items):
                    writer.write_table(block)
            return
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        with temporary.open("wb") as file:
            file.write(b"user_id,item_id,timestamp\n")
            for block in blocks(rows, seed, num_items):
                pyarrow.csv.write_csv(block, file, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, help="items that are drawn from; by default a hundredth of the rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="log.parquet or log.csv")
    given = parser.parse_args()
    write_log(given.out, given.rows, given.seed, given.items)


if __name__ == "__main__":
    main()
