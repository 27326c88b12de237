"""What ReaRec's settings may be."""

BACKBONES = ("sasrec", "bert4rec", "unisrec", "morec")
REASONING = ("none", "naive", "rpe", "erl", "prl")
LOSSES = ("softmax", "sampled_softmax", "bce")
SAMPLING = ("uniform", "popularity")
DEPTH_RULES = ("kl", "halting", "confidence")
