"""In which order MDGR writes an item's codes, how sure it is of each, and which items each leaves."""

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.explanation import Explanation
from hf_genrec.methods.mdgr.mdgr_search import SlotDecoder, step_sizes, surest_slots
from hf_genrec.methods.mdgr.modeling_mdgr import MdgrForMaskedLM
from hf_genrec.semantic_ids.code_path import code_path


def explain(model: MdgrForMaskedLM, history: np.ndarray, item: int, exclude_seen: bool = False) -> list[Explanation]:
    """The model's path to the item, along which it is scored. What is left out of lists plays no part."""
    processor = model._require_processor()
    steps = written_steps(model, history, item)
    order, notes = [], []
    for place, step in enumerate(steps, start=1):
        for codebook, own, best in step:
            order.append(codebook)
            sure = "" if own == best else f", its surest code had {np.exp(best):.1%}"
            notes.append(f"step {place}: codebook {codebook + 1}, probability {np.exp(own):.1%}{sure}")
    about = (
        f"The codes from the first written to the last, in {len(steps)} steps, and the items that still had all of "
        "them. A step writes codes of the codebooks that the model is surest of."
    )
    path = code_path(processor, processor.item_sets, item, order, notes)
    return [Explanation("The order in which the codes were written", about, path)]


@torch.no_grad()
def written_steps(model: MdgrForMaskedLM, history: np.ndarray, item: int) -> list[list[tuple[int, float, float]]]:
    """
    The model's path to an item.

    Args:
        history: (n,) catalogue rows.
        item: catalogue row.

    Returns:
        of each step, for each code it writes: the codebook, the log-probability of the item's code in it (they sum to
        the item's score), and that of the code the model was surest of there.
    """
    processor, config = model._require_processor(), model.config
    inputs = {name: tensor.to(model.device) for name, tensor in processor.prompts([np.asarray(history)]).items()}
    tokens = torch.from_numpy(processor.token_ids[item]).to(model.device)
    steps = []
    with evaluation_mode(model):
        decoder = SlotDecoder(model, model.get_encoder()(**inputs))
        ids = decoder.start()
        for size in step_sizes(config.num_codebooks, config.warmup_codes or 0, config.parallel_width):
            log_probs = decoder.log_probs(ids)
            slots = surest_slots(log_probs, ids == config.mask_token_id, config.codebook_sizes, size)[0, 0]
            of_slots = log_probs[0, 0].split(list(config.codebook_sizes))
            steps.append(
                [(slot, float(log_probs[0, 0, tokens[slot]]), float(of_slots[slot].max())) for slot in slots.tolist()]
            )
            ids = ids.clone()
            ids[0, 0, slots] = tokens[slots]
    return steps
