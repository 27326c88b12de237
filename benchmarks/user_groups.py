"""The users of a split in groups, to see where a model is ahead: by the target, by the history."""

import numpy as np

from hf_genrec.data.prepared import EvaluationSplit, PreparedData

RARE = "target seen fewer than 5 times"  # interactions of the training sequences


def user_groups(prepared: PreparedData, split: EvaluationSplit) -> dict[str, np.ndarray]:
    """
    A mask (users,) per group; a user with several targets belongs where the newest one does.

    Returns:
        three groups by the training interactions of the target, three by the length of the history, and whether the
        history holds the target already.
    """
    targets = np.array([targets[-1] for targets in split.targets])
    seen = prepared.item_popularity()[targets]
    lengths = np.array([len(history) for history in split.histories])
    repeated = np.array([target in history for target, history in zip(targets, split.histories, strict=True)])
    return {
        RARE: seen < 5,
        "5 to 19 times": (seen >= 5) & (seen < 20),
        "20 times or more": seen >= 20,
        "history of up to 5 items": lengths <= 5,
        "6 to 10 items": (lengths > 5) & (lengths <= 10),
        "more than 10 items": lengths > 10,
        "target new to the user": ~repeated,
        "target had before": repeated,
    }
