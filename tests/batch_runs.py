"""Small run folders for tests of what is made for all users."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

from hf_genrec.data.prepared import PreparedData

MODELS = {
    "care": lambda: make_model(make_processor()),
    "rearec": tiny_rearec,
    "reg4rec": lambda: make_reg4rec(make_set_processor()),
}


def make_run(folder: Path, model, users: int = 23, longest: int = 12) -> list[list[str]]:
    """A run of `users` users whose model is `model`; returns their histories, the first one is empty."""
    model.save_pretrained(folder / "model")
    item_ids, rng = model.processor.item_ids, np.random.default_rng(0)
    rows = [rng.integers(0, len(item_ids), rng.integers(0, longest + 1)) for _ in range(users)]
    rows[0] = rows[0][:0]
    items = pa.table({"item_id": item_ids, "title": [f"Film {item_id}" for item_id in item_ids]})
    none = np.zeros(users, dtype=np.int64)
    PreparedData([f"u{user}" for user in range(users)], item_ids, items, rows, none, none, {}).save(folder / "data")
    return [[item_ids[row] for row in history] for history in rows]


def write_histories(path: Path, histories, users=None, **options) -> Path:
    users = [f"u{user}" for user in range(len(histories))] if users is None else users
    pq.write_table(pa.table({"user_id": users, "item_ids": histories}), path, **options)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, hidden ones among them."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
