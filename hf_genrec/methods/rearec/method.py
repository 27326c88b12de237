"""What the library asks of ReaRec."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.rearec.arguments import ReaRecArguments


def build_trainer(config):
    from hf_genrec.methods.rearec.training_rearec import build_trainer

    return build_trainer(config)


def onnx_scores(model):
    from hf_genrec.methods.rearec.onnx_scores import ItemScores

    return ItemScores(model)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    steps = 0 if config["reasoning"] == "none" else config["num_reasoning_steps"]
    return Card(
        about=f"A sequential recommender (ReaRec) over {num_items:,} items: it encodes a history, feeds its last state "
        f"back {steps}\ntimes to reason before it answers, and scores every item of the catalogue.",
        tags=["sequential-recommendation"],
        facts={
            "backbone": config["backbone"],
            "reasoning, steps": f"{config['reasoning']}, {steps}",
            "temperature": config["temperature"],
        },
    )


def encode_items(model, folder, items):
    from hf_genrec.methods.rearec.training_rearec import new_vectors

    return new_vectors(model, folder, items)


def explain(model, history, item, exclude_seen):
    from hf_genrec.methods.rearec.explain_rearec import explain

    return explain(model, history, item, exclude_seen)


METHOD = Method(
    title="ReaRec",
    summary="sequential recommenders (SASRec, BERT4Rec, UniSRec, MoRec) that feed their state back and think",
    arguments=ReaRecArguments,
    build_trainer=build_trainer,
    codes=None,
    card=card,
    item_vectors=True,
    reads_text=lambda arguments: arguments.reads_text,
    encode_items=encode_items,
    explain=explain,
    onnx_scores=onnx_scores,
)
