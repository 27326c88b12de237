"""REG4Rec (arXiv 2508.15308)."""
