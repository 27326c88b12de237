"""Going on from an earlier CARE model, on newer data with the same codes."""

import logging
from pathlib import Path

import numpy as np
import torch

from hf_genrec.catalogue.saved_files import load_tensors, saved_file
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.method import model_place, read_config
from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM
from hf_genrec.semantic_ids.ids import SemanticIds

logger = logging.getLogger(__name__)


def is_care(base_model: str) -> bool:
    """
    Raises:
        OSError: if there is no such model.
        ValueError: if its configuration is damaged.
    """
    return read_config(model_place(base_model)).get("model_type") == CareConfig.model_type


def require_same_codes(base_model: str, semantic_ids: SemanticIds, item_tokenizer: Path) -> None:
    """
    The codes of the data must mean what they mean to the earlier model: they are of its item tokenizer or, where one of
    them has none (published codes), the items that both know have the same.

    Raises:
        ValueError: if they do not, with what to do.
    """
    folder, remedy = model_place(base_model), f"tokenize with codes_run: {base_model}, or leave base_model out"
    processor = GenRecProcessor.from_pretrained(folder)
    if processor.codebook_sizes != semantic_ids.codebook_sizes:
        raise ValueError(
            f"base_model {base_model} has codebooks of {processor.codebook_sizes} codes, the data have "
            f"{semantic_ids.codebook_sizes}: {remedy}"
        )
    name = "model.safetensors"
    theirs = saved_file(folder, name, required=False, subfolder="item_tokenizer")
    if theirs is not None and (item_tokenizer / name).is_file():
        (before, _), (now, _) = load_tensors(theirs), load_tensors(str(item_tokenizer / name))
        if before.keys() != now.keys() or not all(torch.equal(before[key], now[key]) for key in before):
            raise ValueError(f"base_model {base_model} has another item tokenizer than the data: {remedy}")
        return
    codes = dict(zip(processor.item_ids, processor.codes, strict=True))
    both = [row for row, item_id in enumerate(semantic_ids.item_ids) if item_id in codes]
    for row in both:
        item_id = semantic_ids.item_ids[row]
        if not np.array_equal(codes[item_id], semantic_ids.codes[row]):
            raise ValueError(f"item {item_id!r} has other codes in base_model {base_model} than in the data: {remedy}")
    if not both:
        logger.warning(
            "base_model %s and the data share no item and no item tokenizer: whether codes mean the same is not known",
            base_model,
        )


@torch.no_grad()
def from_earlier(base_model: str, max_positions: int, **care_fields) -> CareForCausalLM:
    """
    A model with the weights of an earlier CARE model. Queries of a code that now has another number of them are random.

    Args:
        max_positions: slots of the longest row, for which there must be room.
        care_fields: the fields [`CareConfig`] adds; those of the codes must be the earlier model's.

    Raises:
        ValueError: for codes of other numbers or other tokens, or a shared pool that the model is not to have so.
    """
    earlier = CareForCausalLM.from_pretrained(model_place(base_model), dtype=torch.float32)
    before = earlier.config
    for name in ("codebook_sizes", "answer_token_id", "pad_token_id"):
        if getattr(before, name) != care_fields[name]:
            raise ValueError(
                f"base_model {base_model} has {name} {getattr(before, name)}, the data {care_fields[name]}: go on with "
                f"the codes of the earlier run (codes_run)"
            )
    for name in ("shared_kv_pool_size", "shared_kv_user_dim") if before.shared_kv_pool_size else ():
        if care_fields.get(name, 0) != getattr(before, name):
            raise ValueError(
                f"base_model {base_model} has {name} {getattr(before, name)}, this run {care_fields.get(name, 0)}: its "
                f"keys and values are of its pool, so give the same"
            )
    care_fields["max_position_embeddings"] = max(before.max_position_embeddings, max_positions)
    config = CareConfig.from_base(before, **care_fields)
    model = CareForCausalLM(config)
    model.load_state_dict({name: t for name, t in earlier.state_dict().items() if "query_" not in name}, strict=False)
    if config.num_queries != before.num_queries:
        logger.warning(
            "num_queries is %s, that of base_model %s is %s: the queries of codes whose numbers differ start anew",
            config.num_queries,
            base_model,
            before.num_queries,
        )
    first = first_before = 0
    for number, number_before in zip(config.num_queries, before.num_queries, strict=True):
        if number and number == number_before:
            table = earlier.model.query_embeddings.weight[first_before : first_before + number]
            model.model.query_embeddings.weight[first : first + number] = table
        first, first_before = first + number, first_before + number_before
    return model
