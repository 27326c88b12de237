"""What the library asks of an ensemble."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method, load_method
from hf_genrec.methods.ensemble.arguments import EnsembleArguments


def build_trainer(config):
    from hf_genrec.methods.ensemble.training_ensemble import build_trainer

    return build_trainer(config)


def join(models, validation, weights, exclude_seen):
    from hf_genrec.methods.ensemble.join_models import join

    return join(models, validation, weights, exclude_seen)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    titles = [load_method(name).title for name in config["member_types"]]
    weighted = [f"{weight:g} x {title}" for weight, title in zip(config["weights"], titles, strict=True)]
    return Card(
        about=f"{len(titles)} trained recommenders ({', '.join(titles)}) as one, over {num_items:,} items: an item's "
        f"score is the sum of their scores,\nand an item that any of them finds can be in a list.",
        tags=["ensemble"],
        facts={"members": " + ".join(weighted), "candidates of each member": config["num_candidates"]},
    )


def explain(model, history, item, exclude_seen):
    weighted = zip(model.members, model.config.weights, strict=True)
    members = [member for member, weight in weighted if weight]
    explained = (load_method(one.config.model_type).explain(one, history, item, exclude_seen) for one in members)
    return [part for parts in explained for part in parts]


METHOD = Method(
    title="Ensemble",
    summary="several trained models as one: their scores added up, with weights chosen on validation",
    arguments=EnsembleArguments,
    build_trainer=build_trainer,
    codes=None,
    card=card,
    search_options=("num_beams",),
    score_name="sum of weighted log-probabilities",
    explain=explain,
    join=join,
)
