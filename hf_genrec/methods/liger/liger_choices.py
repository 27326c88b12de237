"""What settings of LIGER may be, for its configuration and the keys of its training."""

RETRIEVAL = ("hybrid", "sparse", "dense")
