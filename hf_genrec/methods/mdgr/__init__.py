"""MDGR (arXiv 2601.19501)."""
