"""COBRA's beams: behind the last code they go on by one step, in which the dense vector is read."""

import torch

from ...decoding.beam_decoder import BeamDecoder


class CobraBeamDecoder(BeamDecoder):
    """
    [`BeamDecoder`] that reads the state behind the last code, too, and begins anew from the same prompts, to follow
    codes that no search has found.

    `num_steps` is L: a prompt grows by L + 1 tokens with each item of the history, as the user cache counts them.
    """

    def __init__(self, model, num_beams: int, num_steps: int):
        super().__init__(model, num_beams, model.config.num_levels)

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix: torch.Tensor | None = None):
        self.first = super().start(input_ids, attention_mask, prefix)
        self._begin = self.layers[0].filled, self.position, self.ancestors
        return self.first

    def look_up(self, record: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        decoder_layer = self.model.base_model.layers[layer]
        keys, values = decoder_layer.shared.look_up(record)
        return decoder_layer.attention.heads(keys), decoder_layer.attention.heads(values)

    def new_slots(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        embeddings = self.model.base_model.embed_codes(codes).unsqueeze(2)
        return embeddings, self.prompt_mask[:, None], torch.ones(1, 1, dtype=torch.bool, device=codes.device)

    def logits(self, states: torch.Tensor, level: int) -> torch.Tensor:
        return self.model.logits_at(states, level)

    def follow(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Of items' codes (B, M, L), as many items as the decoder has room for beams: the sums of their log-probabilities
        and the states behind them, (B, M) and (B, M, d).
        """
        filled, self.position, self.ancestors = self._begin
        for layer in self.layers:
            layer.filled = filled
        states, count = self.first, codes.shape[1]
        parents, total = torch.zeros_like(codes[..., 0]), torch.zeros(codes.shape[:2], device=codes.device)
        for level in range(codes.shape[2]):
            first = self.model.level_tokens(level).start
            log_probs = self.model.level_logits(states, level).log_softmax(-1).expand(-1, count, -1)
            total = total + log_probs.gather(2, codes[..., level : level + 1] - first).squeeze(-1)
            states = self.extend(codes[..., level], parents)
            parents = torch.arange(count, device=codes.device).expand(codes.shape[:2])
        return total, states
