"""ReaRec (arXiv 2503.22675)."""
