"""TIGER (arXiv 2305.05065)."""
