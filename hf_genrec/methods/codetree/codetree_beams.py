"""Beams of CodeTree: a beam is the codes it has written, and nothing else is kept of it."""

import torch

from ...decoding.beam_decoder import BeamDecoder


class CodeTreeBeamDecoder(BeamDecoder):
    """
    [`BeamDecoder`] of a [`CodeTreeForConditionalGeneration`]. The states of a beam are what its next code is scored by.

    Attributes:
        codes: (B, W, l) of each beam so far.
    """

    codes: torch.Tensor

    def start(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, encoder_outputs=None
    ) -> torch.Tensor:
        """
        Encode the histories.

        Args:
            input_ids, attention_mask: (B, S), prompts of the processor.
            encoder_outputs (*optional*): encoded histories, instead.

        Returns:
            (B, 1, d), the states that predict the first code.
        """
        self.tree = self.model.tree()
        if encoder_outputs is None:
            encoder_outputs = self.model.encode(input_ids, attention_mask, self.tree)
        self.histories = encoder_outputs.last_hidden_state
        self.codes = torch.empty(len(self.histories), 1, 0, dtype=torch.long, device=self.histories.device)
        return self._read()

    def extend(self, codes: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        before = self.codes.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.codes.shape[2]))
        self.codes = torch.cat([before, codes.unsqueeze(-1)], -1)
        return self._read()

    def _read(self) -> torch.Tensor:
        head = self.model.heads[self.codes.shape[2]]
        states = self.histories.expand(-1, self.codes.shape[1], -1)
        return head(states, self.model.prefix_of(self.codes))

    def logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        nodes = self.tree.trie.walk(self.codes.flatten(0, 1)).view(self.codes.shape[:2])
        log_probs, children = self.tree.log_probs(states, nodes, level)
        rows = torch.full((*states.shape[:2], self.model.config.vocab_size), -torch.inf, device=states.device)
        rows = spread(rows, self.tree.trie.tokens[level][children].long(), log_probs)
        # A dead beam, whose codes no item has, may be given anything but what is no number.
        return rows.masked_fill((nodes < 0).unsqueeze(-1), 0.0)


def spread(rows: torch.Tensor, tokens: torch.Tensor, log_probs: torch.Tensor) -> torch.Tensor:
    """Rows (..., V) with log-probabilities (..., K) at their tokens, where they are not -inf."""
    places = torch.where(log_probs == -torch.inf, rows.shape[-1], tokens)  # those go behind the last one
    return torch.nn.functional.pad(rows, (0, 1)).scatter(-1, places, log_probs)[..., :-1]
