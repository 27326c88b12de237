"""What S3-Rec's settings may be."""

POSITIONS = ("newest", "oldest")
LOSSES = ("bce", "softmax")
PREFIXES = ("one", "all")
TERMS = ("aap", "mip", "map", "sp")  # the tasks of the pretraining
