"""Trained models -> one ensemble."""

from collections.abc import Sequence
from typing import Any

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.prepared import EvaluationSplit
from hf_genrec.methods.ensemble.choose_weights import choose_weights
from hf_genrec.methods.ensemble.configuration_ensemble import EnsembleConfig
from hf_genrec.methods.ensemble.modeling_ensemble import EnsembleForNextItem


def build_ensemble(models: Sequence[Any], num_candidates: int = 100) -> EnsembleForNextItem:
    """
    An ensemble of weights 1. Members that are ensembles themselves are taken apart.

    Raises:
        ValueError: for fewer than two models, or models of different catalogues.
    """
    members = [part for model in models for part in getattr(model, "members", [model])]
    if len(members) < 2:
        raise ValueError("one model alone has nothing to be added to: name two runs or more")
    first = members[0].processor
    if any(member.processor.item_ids != first.item_ids for member in members):
        raise ValueError("the models are of different catalogues: train them on the same prepared data")
    config = EnsembleConfig(
        members=[f"member_{place + 1}" for place in range(len(members))],
        member_types=[member.config.model_type for member in members],
        weights=[1.0] * len(members),
        num_candidates=num_candidates,
        num_items=len(first.item_ids),
        max_history=max(member.processor.max_history for member in members),
    )
    ensemble = EnsembleForNextItem(config, members).eval().to(members[0].device)  # the others come from their files
    ensemble.processor = ItemProcessor(config.max_history).set_catalogue(first.item_ids, first.titles, first.popularity)
    return ensemble


def join(
    models: Sequence[Any],
    validation: EvaluationSplit,
    weights: Sequence[float] | None = None,
    exclude_seen: bool | None = None,
) -> tuple[EnsembleForNextItem, list[dict[str, Any]]]:
    """
    An ensemble with given weights, or those chosen on the validation split, and what was tried.

    Raises:
        ValueError: as [`build_ensemble`].
    """
    ensemble = build_ensemble(models)
    if weights is None:
        return ensemble, choose_weights(ensemble, validation, exclude_seen)
    ensemble.set_weights(weights)
    return ensemble, []
