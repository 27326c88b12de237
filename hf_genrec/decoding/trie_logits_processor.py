"""The catalogue's trie as a logits processor of `model.generate`."""

from collections.abc import Callable

import torch

from ..catalogue.item_trie import ItemTrie
from ..catalogue.sound_scores import illegal_scores, require_choice, require_sound_codes
from .item_logits_processor import ItemLogitsProcessor


class TrieLogitsProcessor(ItemLogitsProcessor):
    """
    Lets `model.generate` (greedy, beam search, sampling) write items of the catalogue only.

    The codes already written are what follows the last answer token. Scores of tokens that lead to no item become
    -inf, without renormalising. After L codes every row is finished and its scores are left as they are.

    A code that the model itself rules out (-inf) is not written. Where it competes, what leads to no item has the
    lowest finite score: a row that nothing else is left to becomes no item's, and `batch_decode_items` gives `None`.

    Args:
        trie ([`ItemTrie`]): the catalogue, or a part of it.
        answer_token_id (`int`): the token that ends the history.
        is_end_of_history (*optional*): from tokens (boolean, of any shape) to which of them end a history, where others
            do, too.

    Raises:
        ValueError: for a row without an answer token, or scores that are NaN or infinite.
    """

    def __init__(self, trie: ItemTrie, answer_token_id: int, is_end_of_history: Callable | None = None):
        self.trie = trie
        self.answer_token_id = answer_token_id
        self.is_end_of_history = is_end_of_history or (lambda token_ids: token_ids == answer_token_id)

    @property
    def num_answers(self) -> int:
        """How many different answers it lets through."""
        return self.trie.num_leaves

    @property
    def num_paths(self) -> int:
        """How many beams can be alive."""
        return self.trie.num_leaves

    @property
    def num_codes(self) -> int:
        """How many tokens an answer has."""
        return self.trie.num_levels

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # One assignment: threads that move it at once both go on with a trie on their device.
        trie = self.trie = self.trie.to(input_ids.device)
        tail = input_ids[:, -(trie.num_levels + 1) :]  # a row with its answer token further left is finished
        width = tail.shape[1]
        place = torch.arange(1, width + 1, device=tail.device)
        last = (self.is_end_of_history(tail) * place).amax(-1)  # (rows,) counted from 1, 0 where there is none
        lowest, highest = torch.stack(last.aminmax()).tolist()
        if lowest == 0 and not self.is_end_of_history(input_ids).any(-1).all():
            raise ValueError(
                f"A row holds no answer token ({self.answer_token_id}): end each prompt with it, as GenRecProcessor "
                f"does."
            )
        if lowest == highest:  # in `generate` all rows have written as many codes
            return self._masked(trie, input_ids, scores, width - highest)
        written = width - last
        masked = torch.empty_like(scores)
        for level in written.unique().tolist():
            at = (written == level).nonzero().squeeze(-1)
            masked[at] = self._masked(trie, input_ids[at], scores[at], level)
        return masked

    def _masked(self, trie: ItemTrie, input_ids: torch.Tensor, scores: torch.Tensor, level: int) -> torch.Tensor:
        """The scores (rows, V) of rows that have all written `level` codes."""
        if level >= trie.num_levels:
            return scores
        nodes = trie.walk(input_ids[:, input_ids.shape[1] - level :])
        tokens, _, mask = trie.allowed(nodes if level > 0 else nodes[:1], level)  # all rows share the root
        illegal, table = mask.bool(), trie._tables[level]
        if table is not None:
            chosen = scores[:, table.span]
            legal = chosen.masked_fill(illegal, -torch.inf)
            closed = ((chosen == -torch.inf) & ~illegal).any(-1)
            masked = illegal_scores(scores, closed)
            masked[:, table.span] = legal
        else:
            # What is not legal repeats the first legal token, so that every score is written with the same value.
            tokens = torch.where(illegal, tokens[:, :1], tokens).long().expand(len(scores), -1)
            legal = scores.gather(1, tokens)
            closed = (legal == -torch.inf).any(-1)
            masked = illegal_scores(scores, closed)
            masked.scatter_(1, tokens, legal)
        require_sound_codes(legal)
        # A row that left the catalogue (a beam that was never alive) keeps its scores: all -inf is not a distribution.
        dead = nodes < 0
        if self.sampled_beams:
            require_choice((legal > -torch.inf).any(-1) | dead, closed & ~dead, self.sampled_beams)
        if dead.any():
            masked[dead] = scores[dead]
        return masked
