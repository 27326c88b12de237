"""The log that tests train on: even users like even items, odd users odd ones."""

import numpy as np

USERS, ITEMS = 40, 24


def even_and_odd_log(rng: np.random.Generator) -> str:
    """As CSV, eight items a user."""
    log = ["member,film,seen_at"]
    for user in range(USERS):
        for place, item in enumerate(rng.permutation(np.arange(user % 2, ITEMS, 2))[:8]):
            log.append(f"u{user:02d},f{item:02d},{1_600_000_000 + 1000 * place}")
    return "\n".join(log) + "\n"
