"""In which order REG4Rec writes an item's codes, how sure it is of each, and which items each leaves."""

import numpy as np
import torch

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.explanation import Explanation
from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecForConditionalGeneration
from hf_genrec.methods.reg4rec.path_decoder import PathDecoder
from hf_genrec.methods.reg4rec.reg4rec_search import next_codebooks
from hf_genrec.semantic_ids.code_path import code_path


def explain(
    model: Reg4RecForConditionalGeneration, history: np.ndarray, item: int, exclude_seen: bool = False
) -> list[Explanation]:
    """The model's path to the item, along which it is scored. What is left out of lists plays no part."""
    processor = model._require_processor()
    order, chosen, surest = written_order(model, history, item)
    notes = [
        f"codebook {codebook + 1}, probability {own:.1%}" + ("" if own == best else f", its surest code had {best:.1%}")
        for codebook, own, best in zip(order, np.exp(chosen), np.exp(surest), strict=True)
    ]
    fixed = model.config.code_order == "fixed"
    about = "The codes from the first written to the last, and the items that still had all of them. " + (
        "This model writes codebook after codebook." if fixed else "Next comes the codebook it is surest of."
    )
    path = code_path(processor, processor.item_sets, item, order, notes)
    return [Explanation("The order in which the codes were written", about, path)]


@torch.no_grad()
def written_order(
    model: Reg4RecForConditionalGeneration, history: np.ndarray, item: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """
    The model's path to an item.

    Args:
        history: (n,) catalogue rows.
        item: catalogue row.

    Returns:
        the codebook of each step (M,); the log-probability of the item's code in it (M,), which sum to the item's
        score; and that of the code the model was surest of there (M,).
    """
    processor, config = model._require_processor(), model.config
    inputs = {name: tensor.to(model.device) for name, tensor in processor.prompts([np.asarray(history)]).items()}
    tokens = torch.from_numpy(processor.token_ids[item]).to(model.device)
    used = torch.zeros(1, len(tokens), dtype=torch.bool, device=model.device)
    order, chosen, surest = [], [], []
    with evaluation_mode(model):
        decoder = PathDecoder(model, model.get_encoder()(**inputs))
        log_probs = model.code_log_probs(decoder.start()[:, 0])  # (1, V)
        for step in range(len(tokens)):
            codebook = int(next_codebooks(log_probs, used, config.codebook_sizes, config.code_order))
            of_codebook = log_probs[0].split(list(config.codebook_sizes))[codebook]
            order.append(codebook)
            chosen.append(float(log_probs[0, tokens[codebook]]))
            surest.append(float(of_codebook.max()))
            used[0, codebook] = True
            if step + 1 < len(tokens):
                log_probs = model.code_log_probs(decoder.extend(tokens[codebook].view(1, 1))[:, 0])
    return order, np.array(chosen), np.array(surest)
