"""What the library asks of COBRA."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.cobra.arguments import CobraArguments


def build_trainer(config):
    from hf_genrec.methods.cobra.training_cobra import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    both = f"fusion, dense weight {config['dense_weight']:g}"
    return Card(
        about=f"A generative recommender (COBRA) over {num_items:,} items: it reads a history as codes and dense "
        f"vectors of text,\nwrites the {len(config['codebook_sizes'])} codes of the next item and then its vector, and "
        f"ranks by both.",
        tags=["generative-recommendation", "semantic-ids", "dense-retrieval"],
        facts={
            "codes per level": config["codebook_sizes"],
            "retrieval": both if config["retrieval"] == "fusion" else config["retrieval"],
            "own vectors of items": "yes" if config["item_embeddings"] else "no, of text alone",
        },
    )


def encode_items(model, folder, items):
    from hf_genrec.training.text_vectors import new_text_vectors

    return new_text_vectors(folder, items)


METHOD = Method(
    title="COBRA",
    summary="a decoder that writes an item's codes and then its dense vector, and ranks by both",
    arguments=CobraArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    reads_text=lambda arguments: True,
    encode_items=encode_items,
    unused_keys=frozenset({"packed_row_tokens"}),
)
