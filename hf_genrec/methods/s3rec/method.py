"""What the library asks of S3-Rec."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.s3rec.arguments import S3RecArguments


def build_trainer(config):
    from hf_genrec.methods.s3rec.training_s3rec import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A sequential recommender (S3-Rec) over {num_items:,} items: its encoder has learned from masked items, "
        f"their attributes\nand segments of histories, if it was pretrained, and then to score every item as the next "
        f"one.",
        tags=["sequential-recommendation"],
        facts={
            "layers": config["num_hidden_layers"],
            "attributes of the pretraining": config["num_attributes"],
            "fine-tuned by": config["loss_type"],
        },
    )


METHOD = Method(
    title="S3-Rec",
    summary="SASRec that is first pretrained on masked items, attributes and segments",
    arguments=S3RecArguments,
    build_trainer=build_trainer,
    codes=None,
    card=card,
    item_vectors=True,
)
