"""CARE (arXiv 2602.03692)."""
