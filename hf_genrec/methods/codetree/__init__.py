"""CodeTree: items are read whole, and the next one's codes are written down the tree of the catalogue."""
