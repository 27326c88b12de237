"""What CARE's queries read before they wrote an item's codes."""

import copy

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.catalogue.processing_codes import code_token
from hf_genrec.explanation import Explanation, HeatMap
from hf_genrec.methods.care.care_layout import HISTORY, QUERY
from hf_genrec.methods.care.modeling_care import CareForCausalLM


def explain(model: CareForCausalLM, history: np.ndarray, item: int, exclude_seen: bool = False) -> list[Explanation]:
    """The attention of each stage over the history, when `item` is written. What is left out of lists plays no part."""
    if not len(history):
        return []
    limited = [stage + 1 for stage, limits in enumerate(model.config.progressive) if limits]
    about = (
        "How much the queries of each stage read of each item: mean over layers and heads, a column with its last line "
        "sums to 100 %. Above it the code that the stage wrote, and its probability."
    )
    if limited:
        about += f" Queries of stage {', '.join(map(str, limited))} see the codes up to their own level only."
    return [Explanation("What each stage attended to", about, stage_attention(model, history, item))]


@torch.no_grad()
def stage_attention(model: CareForCausalLM, history: np.ndarray, item: int) -> HeatMap:
    """
    The attention of every stage's queries over the items of a history; of a stage without queries, that of the token
    its code is read from.

    Args:
        history: (n,) catalogue rows, at least one; the newest `max_history` are read.
        item: catalogue row of the item that is written.

    Returns:
        the mean over layers and heads, an item's codes summed.
    """
    processor, levels = model._require_processor(), model.config.num_levels
    read = np.asarray(history, dtype=np.int64)[-processor.max_history :]
    prompt = processor.prompts([read])["input_ids"].to(model.device)
    codes = torch.from_numpy(processor.token_ids[item]).to(model.device)
    twin = _eager_twin(model)
    with evaluation_mode(twin):
        # The last code is read from the row before it.
        output = twin(torch.cat([prompt, codes[None, :-1]], dim=1), output_attentions=True)
    layout = twin.model.layout(torch.cat([prompt, codes[None, :-1]], dim=1))
    kind, stage, reading = layout.kind[0], layout.stage[0], layout.reading_slot[0, -levels:]
    weights = torch.stack([layer[0].float().mean(0) for layer in output.attentions]).mean(0)  # (E, E)
    log_probs = output.logits[0, -levels:].float().log_softmax(-1).gather(1, codes[:, None])[:, 0]

    names, notes, slots = [], [], []
    for level, number in enumerate(model.config.num_queries):
        own = ((kind == QUERY) & (stage == level)).nonzero()[:, 0] if number else reading[level : level + 1]
        code = code_token(level, int(processor.codes[item, level]))
        for place in range(len(own)):
            which = f", query {place + 1}" if len(own) > 1 else ""
            names.append(f"stage {level + 1}{which}")
            notes.append(f"{code} {float(log_probs[level].exp()):.1%}")
        slots.append(own)
    of_queries = weights[torch.cat(slots)]
    of_items = of_queries[:, kind == HISTORY].unflatten(1, (len(read), levels)).sum(2)
    rest = of_queries[:, kind != HISTORY].sum(1)
    return HeatMap(names, notes, read, of_items.cpu().numpy(), rest.cpu().numpy(), "the answer so far")


def _eager_twin(model: CareForCausalLM) -> CareForCausalLM:
    """The same weights, not copied, in a model whose attention can be looked at; others go on using `model`."""
    shared = [*model.parameters(), *model.buffers(), model.processor]
    twin = copy.deepcopy(model, {id(part): part for part in shared})
    twin.set_attn_implementation("eager")
    return twin
