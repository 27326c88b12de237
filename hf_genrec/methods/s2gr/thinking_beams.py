"""Beams of a decoder that thinks: each goes through its own thinking vector, and none branches there."""

import torch

from ...decoding.seq2seq_beams import Seq2SeqBeamDecoder


class ThinkingBeamDecoder(Seq2SeqBeamDecoder):
    """[`Seq2SeqBeamDecoder`] whose beams append, behind a code, the thinking vector of the next level."""

    def __init__(self, model, num_beams: int, num_steps: int):
        super().__init__(model, num_beams, num_steps)
        self.thinking = model.config.thinking
        self.room += num_beams * sum(self.thinking[1 : num_steps + 1])
        self.level = 0  # of the code that is predicted next

    def prompt_slots(self, num_tokens: int) -> int:
        return 1 + int(self.thinking[0])

    def first(self, start: torch.Tensor) -> torch.Tensor:
        states = self.append(start, torch.zeros(1, dtype=torch.long, device=start.device))
        if self.thinking[0]:
            self.position = self.position + 1
            states = self.append(self.model.thought(states, 0), torch.ones(1, dtype=torch.long, device=start.device))
        return self.model.scaled(states)

    def extend(self, codes: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        self.level += 1
        embeddings, prompt, inside = self.new_slots(codes)
        states = self.extend_slots(embeddings, prompt, inside, parents)
        if self.thinking[self.level]:
            themselves = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
            thought = self.model.thought(states, self.level).unsqueeze(2)
            states = self.extend_slots(thought, prompt, inside, themselves)
        return self.model.scaled(states)
