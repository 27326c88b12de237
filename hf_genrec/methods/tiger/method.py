"""What the library asks of TIGER."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.tiger.arguments import TigerArguments


def build_trainer(config):
    from hf_genrec.methods.tiger.modeling_tiger import TigerForConditionalGeneration
    from hf_genrec.training.code_t5_training import build_code_t5_trainer

    return build_code_t5_trainer(config, TigerForConditionalGeneration)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A generative recommender (TIGER) over {num_items:,} items: an encoder reads a history as semantic IDs "
        f"of {len(config['codebook_sizes'])}\ncodes, and a decoder writes the codes of the next item, under a trie, so "
        f"that every answer is an item of the catalogue.",
        tags=["generative-recommendation", "semantic-ids"],
        facts={
            "codes per level": config["codebook_sizes"],
            "encoder layers": config["num_layers"],
            "decoder layers": config["num_decoder_layers"],
        },
    )


def explain(model, history, item, exclude_seen):
    from hf_genrec.semantic_ids.written_codes import explain_written_codes

    return explain_written_codes(model, history, item, exclude_seen)


METHOD = Method(
    title="TIGER",
    summary="T5: an encoder reads the codes of the history, a decoder writes those of the next item",
    arguments=TigerArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    score_name="log-probability",
    explain=explain,
    soft_targets=True,
    unused_keys=frozenset({"packing", "packed_row_tokens"}),
)
