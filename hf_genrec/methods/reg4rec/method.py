"""What the library asks of REG4Rec."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method, PostTraining
from hf_genrec.methods.reg4rec.arguments import Reg4RecArguments


def build_trainer(config):
    from hf_genrec.methods.reg4rec.training_reg4rec import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    theta = config["reflection_threshold"]
    return Card(
        about=f"A generative recommender (REG4Rec) over {num_items:,} items: it reads a history as sets of "
        f"{len(config['codebook_sizes'])} codes\nand writes the codes of the next item in the order in which it is "
        f"sure of them. Every answer is an item of the catalogue.",
        tags=["generative-recommendation", "semantic-ids"],
        facts={
            "encoder layers": config["num_encoder_layers"],
            "codes per codebook": config["codebook_sizes"],
            "item categories": config["num_categories"],
            "reflection (CORP)": "off" if theta is None else f"theta {theta}",
        },
    )


def details(config) -> dict[str, str]:
    """Codes that the reflection took back, on all paths of a user."""
    return {} if config.reflection_threshold is None else {"return_rollbacks": "mean_rollbacks"}


def post_training() -> PostTraining:
    from hf_genrec.methods.reg4rec.set_grpo_trainer import POST_TRAINING

    return POST_TRAINING


def explain(model, history, item, exclude_seen):
    from hf_genrec.methods.reg4rec.explain_reg4rec import explain

    return explain(model, history, item, exclude_seen)


METHOD = Method(
    title="REG4Rec",
    summary="an encoder-decoder over unordered codes that writes the surest code first and takes it back when it errs",
    arguments=Reg4RecArguments,
    build_trainer=build_trainer,
    codes="set",
    card=card,
    search_options=("num_beams",),
    details=details,
    score_name="log-probability",
    post_training=post_training,
    explain=explain,
    unused_keys=frozenset({"packing", "packed_row_tokens"}),
)
