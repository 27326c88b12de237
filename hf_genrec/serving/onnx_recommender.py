"""Recommendations by onnxruntime alone, from a folder that `hf-genrec export-onnx` has written. A copy lies in there.

from onnx_recommender import OnnxRecommender

recommender = OnnxRecommender("exported")
item_ids, scores = recommender.recommend([["50", "172", "181"], []], k=10)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MODEL_FILE, CATALOGUE_FILE = "model.onnx", "catalogue.json"
BATCH_SIZE = 256  # histories scored at once


class OnnxRecommender:
    """
    Args:
        folder: with `model.onnx` and `catalogue.json`.
        threads (*optional*): of onnxruntime; its own choice by default.
    """

    def __init__(self, folder: str | Path, threads: int | None = None):
        import onnxruntime

        catalogue = json.loads((Path(folder) / CATALOGUE_FILE).read_text(encoding="utf-8"))
        self.item_ids: list[str] = catalogue["item_ids"]
        self.max_history: int = catalogue["max_history"]
        self.exclude_seen: bool = catalogue.get("exclude_seen", False)
        self.row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        path = str(Path(folder) / MODEL_FILE)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def scores(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(B, N) float32 of histories of catalogue rows, oldest first."""
        rows = [history[-self.max_history :] for history in rows]
        width = max(1, *map(len, rows))
        input_ids = np.full((len(rows), width), len(self.item_ids), dtype=np.int64)  # padded on the left
        for line, history in enumerate(rows):
            input_ids[line, width - len(history) :] = history
        mask = (input_ids < len(self.item_ids)).astype(np.int64)
        return self.session.run(["scores"], {"input_ids": input_ids, "attention_mask": mask})[0]

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, exclude_seen: bool | None = None
    ) -> tuple[list[list[str]], list[list[float]]]:
        """
        The best k items of each history of item ids, and their scores; equal scores in catalogue order.

        Args:
            exclude_seen: leave out the items of the history; by default what the model did that was exported.

        Raises:
            ValueError: for an item that is not in the catalogue, or k below 1.
        """
        if k < 1:
            raise ValueError(f"k={k}: give 1 or more.")
        exclude_seen = self.exclude_seen if exclude_seen is None else exclude_seen
        unknown = [item_id for history in histories for item_id in history if item_id not in self.row_of]
        if unknown:
            raise ValueError(f"Item {unknown[0]!r} in a history is not in the catalogue.")
        item_ids: list[list[str]] = []
        found: list[list[float]] = []
        for start in range(0, len(histories), BATCH_SIZE):
            batch = histories[start : start + BATCH_SIZE]
            rows = [[self.row_of[item_id] for item_id in history] for history in batch]
            for history, scores in zip(rows, self.scores(rows), strict=True):
                best = np.argsort(-scores, kind="stable")
                if exclude_seen:
                    best = best[~np.isin(best, history)]
                item_ids.append([self.item_ids[row] for row in best[:k]])
                found.append(scores[best[:k]].tolist())
        return item_ids, found
