"""What the library asks of CARE."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method, PostTraining
from hf_genrec.methods.care.arguments import CareArguments


def build_trainer(config):
    from hf_genrec.methods.care.training_care import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A generative recommender (CARE) over {num_items:,} items: it reads a history as semantic IDs of "
        f"{len(config['codebook_sizes'])}\ncodes and writes the codes of the next item, under a trie, so that every "
        f"answer is an item of the catalogue.",
        tags=["generative-recommendation", "semantic-ids"],
        facts={"codes per level": config["codebook_sizes"], "queries before each code": config["num_queries"]},
    )


def post_training() -> PostTraining:
    from hf_genrec.post_training.aligned_logits import aligned_logits

    # The queries are a table that no adapter of a linear layer reaches.
    return aligned_logits(lambda config: ["query_embeddings"] if sum(config.num_queries) else [])


def explain(model, history, item, exclude_seen):
    from hf_genrec.methods.care.explain_care import explain

    return explain(model, history, item, exclude_seen)


METHOD = Method(
    title="CARE",
    summary="Qwen2 with query tokens before each code and a progressive attention mask",
    arguments=CareArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    score_name="log-probability",
    post_training=post_training,
    explain=explain,
    soft_targets=True,
)
