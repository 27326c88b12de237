"""What settings of COBRA may be, for its configuration and the keys of its training."""

RETRIEVAL = ("fusion", "sparse", "dense")
NEGATIVES = ("catalogue", "batch", "other_users")
