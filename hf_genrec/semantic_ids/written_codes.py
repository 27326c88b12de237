"""How sure a model of ordered codes was of each code of an item, and which items each code left."""

from typing import Any

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.decoding.beam_decoder import BeamDecoder
from hf_genrec.explanation import Explanation
from hf_genrec.semantic_ids.code_path import code_path


def explain_written_codes(model: Any, history: np.ndarray, item: int, exclude_seen: bool = False) -> list[Explanation]:
    """An item's codes as the model writes them. What is left out of lists plays no part."""
    processor = model._require_processor()
    chosen, surest = written_codes(model, history, item)
    notes = [
        f"probability {own:.1%}" + ("" if own == best else f", the surest code had {best:.1%}")
        for own, best in zip(np.exp(chosen), np.exp(surest), strict=True)
    ]
    about = "The codes from the first written to the last, how sure the model was of each, and the items still left."
    return [Explanation("How the codes were written", about, code_path(processor, processor.trie, item, notes=notes))]


@torch.no_grad()
def written_codes(model: Any, history: np.ndarray, item: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        model: one that writes ordered codes by a [`BeamDecoder`].
        history: (n,) catalogue rows.
        item: catalogue row.

    Returns:
        the log-probability of each of the item's codes behind those before it (L,), which sum to the item's score; and
        that of the code of the catalogue the model was surest of there (L,).
    """
    processor = model._require_processor()
    prompt = {name: tensor.to(model.device) for name, tensor in processor.prompts([np.asarray(history)]).items()}
    token_ids, levels = processor.token_ids, processor.num_levels
    chosen, surest = [], []
    left = np.ones(len(token_ids), dtype=bool)  # items that have all codes so far
    with evaluation_mode(model):
        decoder = getattr(model, "beam_decoder_class", BeamDecoder)(model, 1, levels - 1)
        states = decoder.start(**prompt)
        for level in range(levels):
            log_probs = decoder.logits(states, level)[0, 0].float().log_softmax(-1)
            token = int(token_ids[item, level])
            chosen.append(float(log_probs[token]))
            surest.append(float(log_probs[np.unique(token_ids[left, level])].max()))
            left &= token_ids[:, level] == token
            if level + 1 < levels:
                code = torch.tensor([[token]], device=model.device)
                states = decoder.extend(code, torch.zeros_like(code))
    return np.array(chosen), np.array(surest)
