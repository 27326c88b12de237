"""STREAM (arXiv 2504.09627)."""
