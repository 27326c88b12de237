"""What the library asks of CodeTree."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.codetree.arguments import CodeTreeArguments


def build_trainer(config):
    from hf_genrec.methods.codetree.training_codetree import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A generative recommender (CodeTree) over {num_items:,} items: it reads a history item by item and "
        f"writes the {len(config['codebook_sizes'])}\ncodes of the next item, each by a softmax over what the "
        f"catalogue's tree goes on with, so that every answer is an item of it.",
        tags=["generative-recommendation", "semantic-ids"],
        facts={"codes per level": config["codebook_sizes"], "layers": config["num_hidden_layers"]},
    )


def explain(model, history, item, exclude_seen):
    from hf_genrec.semantic_ids.written_codes import explain_written_codes

    return explain_written_codes(model, history, item, exclude_seen)


METHOD = Method(
    title="CodeTree",
    summary="SASRec that writes the next item's codes down the tree of the catalogue",
    arguments=CodeTreeArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    score_name="log-probability",
    explain=explain,
    soft_targets=True,
    unused_keys=frozenset({"packed_row_tokens", "legal_codes_only", "legal_codes_temperature"}),
    is_default=True,
)
