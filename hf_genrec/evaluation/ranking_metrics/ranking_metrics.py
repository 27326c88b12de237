"""Recall, NDCG, MRR and precision of ranked lists as an `evaluate` module; needs hf_genrec installed."""

import datasets
import evaluate
import numpy as np

from hf_genrec.evaluation.metrics import per_user_metrics

_DESCRIPTION = """\
Recall@k, NDCG@k, MRR@k and precision@k of ranked lists of recommended items against one or more relevant items per
user, averaged over users. Recall is hits / relevant items, NDCG has the gain 1 / log2(rank + 1) and an ideal list of
min(relevant items, k) hits, MRR is 1 / rank of the first hit within k, precision is hits / k.
"""

_KWARGS_DESCRIPTION = """\
Args:
    predictions: one list of item ids per user, best first; lists may differ in length. Ids are strings or ints.
    references: one list of one or more relevant item ids per user, of the same type.
    k: the cut-offs, a list of ints (default [5, 10, 20]).
Returns:
    A dict "recall@5", "ndcg@5", "mrr@5", "precision@5", ... of floats.
Example:
    >>> metric = evaluate.load("hf_genrec/evaluation/ranking_metrics")
    >>> metric.compute(predictions=[["b", "a"], ["c"]], references=[["a"], ["c", "d"]], k=[2])
    {'recall@2': 0.75, 'ndcg@2': 0.622038473168458, 'mrr@2': 0.75, 'precision@2': 0.5}
"""


class RankingMetrics(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features(
                    {
                        "predictions": datasets.Sequence(datasets.Value(dtype)),
                        "references": datasets.Sequence(datasets.Value(dtype)),
                    }
                )
                for dtype in ("string", "int64")
            ],
        )

    def _compute(
        self, predictions: list[list[str | int]], references: list[list[str | int]], k: list[int] | None = None
    ) -> dict[str, float]:
        ks = [5, 10, 20] if k is None else k
        index: dict[str | int, int] = {}
        recommended = np.full((len(predictions), max(ks)), -1, dtype=np.int64)
        for row, items in enumerate(predictions):
            head = [index.setdefault(item, len(index)) for item in items[: max(ks)]]
            recommended[row, : len(head)] = head
        targets = [np.array([index.setdefault(item, len(index)) for item in items]) for items in references]
        return {name: float(values.mean()) for name, values in per_user_metrics(recommended, targets, ks).items()}
