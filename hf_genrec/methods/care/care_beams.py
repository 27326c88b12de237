"""CARE's beams: with its newest code a beam appends the queries of the next stage."""

import torch
from transformers import Qwen2Model

from ...catalogue.transformers_bridge import CACHE
from ...decoding.beam_decoder import BeamDecoder, additive_mask
from .care_layout import HISTORY


class CareBeamDecoder(BeamDecoder):
    """[`BeamDecoder`] whose slots are a code and the queries of the next stage, under CARE's attention rules."""

    def __init__(self, model, num_beams: int, num_steps: int):
        super().__init__(model, num_beams, num_steps)
        self.room += num_beams * sum(model.config.num_queries[1 : num_steps + 1])
        self.stage = 0  # codes chosen so far

    def start(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix: torch.Tensor | None = None):
        self.layout = self.model.base_model.layout(input_ids, attention_mask)
        return super().start(input_ids, attention_mask, prefix)

    def look_up(self, record: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        backbone = self.model.base_model
        attention = backbone.layers[layer].self_attn
        keys, values = attention.shared.look_up(record)
        position = self.layout.position[:, : record.shape[1]]
        return attention.in_heads(keys, values, *backbone.rotary_emb(keys, position))

    def prompt_slots(self, num_tokens: int) -> int:
        return num_tokens + self.model.config.num_queries[0]

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: int) -> torch.Tensor:
        self.prompt_mask, self.position = self.layout.block >= 0, self.layout.position[:, -1]
        outputs = self.model.base_model(
            input_ids=input_ids[:, past:],
            context_ids=input_ids,
            attention_mask=attention_mask,
            cache=self.cache,
            use_cache=True,
            return_dict=True,
            logits_to_keep=1,
        )
        return outputs.last_hidden_state

    def new_slots(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        backbone, config = self.model.base_model, self.model.config
        self.stage += 1
        embeddings, prompt, inside = super().new_slots(codes)
        num_queries = config.num_queries[self.stage]
        if num_queries:
            first = sum(config.num_queries[: self.stage])
            queries = backbone.query_embeddings(torch.arange(first, first + num_queries, device=codes.device))
            queries = queries.to(embeddings.dtype).expand(*codes.shape, -1, -1)
            embeddings = torch.cat([embeddings, queries], dim=2)  # (B, W, size, H)
        size = 1 + num_queries
        prompt = prompt.repeat(1, size, 1)
        if config.progressive[self.stage]:
            too_fine = (self.layout.kind == HISTORY) & (self.layout.stage > self.stage)
            prompt[:, 1:] &= ~too_fine[:, None, :]
        inside = torch.ones(size, size, dtype=torch.bool, device=codes.device).tril()
        inside[0, 0] = config.code_sees_itself
        return embeddings, prompt, inside

    def decode(
        self, embeddings: torch.Tensor, allowed: torch.Tensor, positions: torch.Tensor, size: int
    ) -> torch.Tensor:
        read_slots = torch.arange(size - 1, embeddings.shape[1], size, device=embeddings.device)
        outputs = Qwen2Model.forward(  # past CareModel, which would insert the queries
            self.model.base_model,
            inputs_embeds=embeddings,
            attention_mask={"full_attention": additive_mask(allowed, embeddings.dtype)},
            position_ids=positions,
            use_cache=True,
            return_dict=True,
            read_slots=read_slots.expand(len(embeddings), -1),
            **{CACHE: self.cache},
        )
        return outputs.last_hidden_state
