"""What the library asks of S2GR."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.s2gr.arguments import S2grArguments


def build_trainer(config):
    from hf_genrec.methods.s2gr.training_s2gr import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A generative recommender (S2GR) over {num_items:,} items: an encoder reads a history as semantic IDs "
        f"of {len(config['codebook_sizes'])}\ncodes, and a decoder thinks before it writes each code of the next item, "
        f"under a trie, so that every answer is an item of the catalogue.",
        tags=["generative-recommendation", "semantic-ids"],
        facts={
            "codes per level": config["codebook_sizes"],
            "encoder layers": config["num_layers"],
            "decoder layers": config["num_decoder_layers"],
            "thinking vector before each code": config["thinking"],
            "clusters per level": config["num_clusters"],
        },
    )


def explain(model, history, item, exclude_seen):
    from hf_genrec.semantic_ids.written_codes import explain_written_codes

    return explain_written_codes(model, history, item, exclude_seen)


METHOD = Method(
    title="S2GR",
    summary="TIGER with a thinking vector before each code, taught the cluster of the code to come",
    arguments=S2grArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    score_name="log-probability",
    explain=explain,
    soft_targets=True,
    unused_keys=frozenset({"packing", "packed_row_tokens"}),
)
