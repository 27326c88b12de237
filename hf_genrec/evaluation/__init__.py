"""Metrics, baselines, the evaluator and its report."""

from pathlib import Path
from typing import Any


def load_ranking_metrics() -> Any:
    """The `evaluate` module of this package: Recall, NDCG, MRR and precision at k of ranked lists of item ids.

    Loaded from its folder, without a network and without files for the inputs. Example:

        load_ranking_metrics().compute(predictions=[["b", "a"]], references=[["a"]], k=[2])
        # {"recall@2": 1.0, "ndcg@2": 0.6309, "mrr@2": 0.5, "precision@2": 0.5}
    """
    import evaluate

    return evaluate.load(str(Path(__file__).parent / "ranking_metrics"), keep_in_memory=True)
