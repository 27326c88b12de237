"""What the library asks of LIGER."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.liger.arguments import LigerArguments


def build_trainer(config):
    from hf_genrec.methods.liger.training_liger import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A generative and dense recommender (LIGER) over {num_items:,} items: it reads a history as texts and "
        f"semantic IDs\nof {len(config['codebook_sizes'])} codes, finds items by writing codes, and ranks them, and "
        f"items that nobody has had yet, by a dense vector.",
        tags=["generative-recommendation", "semantic-ids", "dense-retrieval"],
        facts={"codes per level": config["codebook_sizes"], "retrieval": config["retrieval"]},
    )


def encode_items(model, folder, items):
    from hf_genrec.training.text_vectors import new_text_vectors

    return new_text_vectors(folder, items)


METHOD = Method(
    title="LIGER",
    summary="T5 over codes and texts: codes find the candidates, a dense vector of the encoder ranks them",
    arguments=LigerArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    reads_text=lambda arguments: True,
    encode_items=encode_items,
    unused_keys=frozenset({"packing", "packed_row_tokens"}),
)
