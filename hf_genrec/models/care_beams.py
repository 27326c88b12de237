"""CARE's beams as extra slots of the history's own row: nothing is copied or reordered when beams branch.

All beams of a user share one row of keys and values. A step appends, for each beam, the slot of its newest code and the
queries of the next stage; an ancestry mask lets them see the history and the slots of the codes they descend from.
"""

from dataclasses import dataclass

import torch
from transformers import Cache, DynamicCache, Qwen2Model

from .care_layout import HISTORY, CareLayout


@dataclass
class CareBeams:
    """The state of a search over B prompts; `ancestors` is the only part that depends on which beams survive."""

    cache: Cache  # keys and values of the prompts and of all beams so far
    layout: CareLayout  # slots of the prompts, (B, E)
    ancestors: torch.Tensor  # (B, W, S) boolean: which of the S beam slots so far each beam descends from
    position: torch.Tensor  # (B,) rotary position of the newest slot, the same for all beams of a prompt
    stage: int  # codes chosen so far


def start_beams(model, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[CareBeams, torch.Tensor]:
    """Encode each prompt once. Returns the state and the logits (B, 1, vocab_size) of the first code."""
    cache = DynamicCache(config=model.config)
    outputs = model(
        input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    layout = model.model.layout(input_ids, attention_mask)
    ancestors = torch.ones(len(input_ids), 1, 0, dtype=torch.bool, device=input_ids.device)
    return CareBeams(cache, layout, ancestors, layout.position[:, -1], 0), outputs.logits


def extend_beams(model, beams: CareBeams, codes: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """
    Append one code to each beam and read the next.

    Args:
        codes: (B, W) token ids of the codes chosen.
        parents: (B, W) index of the beam of the step before that each one continues.

    Returns:
        logits (B, W, vocab_size) of the next code; `beams` now holds the new beams.
    """
    backbone, config = model.model, model.config
    stage = beams.stage + 1
    width, num_queries = codes.shape[1], config.num_queries[stage]
    size = 1 + num_queries  # slots a beam appends: its code, then the queries of the next stage

    embeddings = backbone.embed_tokens(codes).unsqueeze(2)  # (B, W, 1, H)
    if num_queries:
        first = sum(config.num_queries[:stage])
        queries = backbone.query_embeddings(torch.arange(first, first + num_queries, device=codes.device))
        queries = queries.to(embeddings.dtype).expand(*codes.shape, -1, -1)
        embeddings = torch.cat([embeddings, queries], dim=2)  # (B, W, size, H)

    # What the slots of a beam may see. Of the prompt: as a code or a query of this stage would in one row.
    prompt = (beams.layout.block >= 0)[:, None, :].expand(-1, size, -1).clone()  # (B, size, E)
    if config.progressive[stage]:
        too_fine = (beams.layout.kind == HISTORY) & (beams.layout.stage > stage)
        prompt[:, 1:] &= ~too_fine[:, None, :]
    prompt = prompt[:, None].expand(-1, width, -1, -1)  # (B, W, size, E)
    # Of earlier beam slots: those it descends from.
    ancestors = beams.ancestors.gather(1, parents[..., None].expand(-1, -1, beams.ancestors.shape[2]))
    earlier = ancestors[:, :, None, :].expand(-1, -1, size, -1)
    # Of the new slots: its own, causally; a code not itself.
    inside = torch.ones(size, size, dtype=torch.bool, device=codes.device).tril()
    inside[0, 0] = config.code_sees_itself
    own_beam = torch.eye(width, dtype=torch.bool, device=codes.device)
    new = (own_beam[:, None, :, None] & inside[None, :, None, :]).reshape(width, size, width * size)
    new = new.expand(len(codes), -1, -1, -1)
    allowed = torch.cat([prompt, earlier, new], dim=-1).flatten(1, 2)  # (B, W * size, E + S + W * size)

    position = beams.position[:, None, None] + torch.arange(1, size + 1, device=codes.device)
    outputs = Qwen2Model.forward(
        backbone,
        inputs_embeds=embeddings.flatten(1, 2),
        attention_mask={"full_attention": backbone.attention_mask(allowed, embeddings.dtype)},
        position_ids=position.expand(-1, width, -1).flatten(1, 2),
        past_key_values=beams.cache,
        use_cache=True,
    )
    own_slots = own_beam.repeat_interleave(size, dim=1).expand(len(codes), -1, -1)
    beams.ancestors = torch.cat([ancestors, own_slots], dim=-1)
    beams.position = beams.position + size
    beams.stage = stage
    return model.lm_head(outputs.last_hidden_state.unflatten(1, (width, size))[:, :, -1])
