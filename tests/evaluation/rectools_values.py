"""
Novelty and serendipity of random lists by RecTools 0.19 (PyPI `rectools`), which needs an environment of its own:

    python tests/evaluation/rectools_values.py > tests/evaluation/rectools_values.json
"""

import json

import numpy as np

ITEMS, USERS, K = 20, 12, 6


def case() -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Training sequences without repeats, lists of different lengths, and targets; some items are in no sequence."""
    rng = np.random.default_rng(7)
    chances = np.append(np.arange(1.0, ITEMS - 2) ** -0.8, [0, 0, 0])
    train = [
        rng.choice(ITEMS, rng.integers(1, 8), replace=False, p=chances / chances.sum()).tolist() for _ in range(USERS)
    ]
    lists = [rng.choice(ITEMS, rng.integers(1, K + 1), replace=False).tolist() for _ in range(USERS)]
    targets = [
        np.unique([*rng.choice(ITEMS, rng.integers(1, 4)), *own[: rng.integers(0, 3)]]).tolist() for own in lists
    ]
    return train, lists, targets


def values() -> dict[str, list[float]]:
    import pandas as pd
    from rectools.metrics import MeanInvUserFreq, Serendipity

    train, lists, targets = case()

    def pairs(rows: list[list[int]]) -> pd.DataFrame:
        found = [(user, item, rank) for user, row in enumerate(rows) for rank, item in enumerate(row, start=1)]
        return pd.DataFrame(found, columns=["user_id", "item_id", "rank"])

    reco, prev, test = pairs(lists), pairs(train)[["user_id", "item_id"]], pairs(targets)[["user_id", "item_id"]]
    found = {}
    for k in (1, 3, K):
        novelty = MeanInvUserFreq(k=k).calc_per_user(reco, prev)
        serendipity = Serendipity(k=k).calc_per_user(reco, test, prev, catalog=list(range(ITEMS)))
        found[f"novelty@{k}"] = novelty.sort_index().tolist()
        found[f"serendipity@{k}"] = serendipity.sort_index().tolist()
    return found


if __name__ == "__main__":
    print(json.dumps(values(), indent=1))
