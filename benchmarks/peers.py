"""What others do, in our own words, where it cannot be installed: each class says whose method it is."""

import numpy as np


class DictTrie:
    """
    A trie of nested dicts, walked from the root for every beam at every step: the `prefix_allowed_tokens_fn` of the
    published CARE, MiniOneRec and LC-Rec code.
    """

    def __init__(self, token_ids: np.ndarray):
        self.root: dict = {}
        for ids in token_ids.tolist():
            node = self.root
            for token in ids:
                node = node.setdefault(token, {})

    def allowed(self, prefix: list[int]) -> list[int]:
        """Tokens that may follow a prefix; none if no item begins so."""
        node = self.root
        for token in prefix:
            node = node.get(token)
            if node is None:
                return []
        return list(node)
