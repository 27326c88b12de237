"""Beams behind thinking tokens: one trace a history, which is not branched."""

import torch

from ...decoding.seq2seq_beams import Seq2SeqBeamDecoder


class TraceBeamDecoder(Seq2SeqBeamDecoder):
    """
    [`Seq2SeqBeamDecoder`] whose shared row is the start token, the thinking tokens and the token that closes them.

    Args:
        trace (*optional*): (B, n) thinking tokens; by default the model writes its own, greedily.

    Attributes:
        trace: (B, n) the thinking tokens.
        hidden: (B, n + 1, d) the decoder's states behind the start token and each of them.
    """

    hidden: torch.Tensor

    def __init__(self, model, num_beams: int, num_steps: int, trace: torch.Tensor | None = None):
        super().__init__(model, num_beams, num_steps)
        self.trace = trace
        self.length = model.config.num_thinking_tokens if trace is None else trace.shape[1]
        self.closes = int(model.config.num_thinking_tokens > 0)

    def prompt_slots(self, num_tokens: int) -> int:
        return 1 + self.length + self.closes

    def first(self, start: torch.Tensor) -> torch.Tensor:
        if not self.closes:
            return super().first(start)
        config, embeddings = self.model.config, self.model.get_input_embeddings()
        depths = torch.arange(self.length + 2, device=start.device).split(1)
        states, tokens = [self.append(start, depths[0])], []
        for place in range(self.length):
            if self.trace is None:
                tokens.append(self.logits(self.model.scaled(states[-1]), place % config.num_levels).argmax(-1))
            else:
                tokens.append(self.trace[:, place : place + 1])
            states.append(self.append(embeddings(tokens[-1]), depths[place + 1]))
        close = torch.full((len(start), 1), config.answer_token_id, device=start.device)
        closed = self.append(embeddings(close), depths[-1])
        self.trace = torch.cat(tokens, 1) if tokens else close[:, :0]
        self.hidden = torch.cat(states, 1)
        self.position = self.position + self.length + 1
        return self.model.scaled(closed)

    def item_log_probs(self, states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """
        Log-probabilities of items over the full vocabulary, (B, K) float32.

        Args:
            states: (B, 1, d), which `start` has returned.
            codes: (B, K, L) of the items, at most `num_beams` for each history.
        """
        parents, found = torch.zeros_like(codes[..., 0]), torch.zeros(codes.shape[:2], device=codes.device)
        for level in range(codes.shape[2]):
            log_probs = self.logits(states, level).float().log_softmax(-1).expand(-1, codes.shape[1], -1)
            found = found + log_probs.gather(2, codes[..., level, None]).squeeze(-1)
            if level + 1 < codes.shape[2]:
                states = self.extend(codes[..., level], parents)
                parents = torch.arange(codes.shape[1], device=codes.device).expand_as(parents)
        return found
