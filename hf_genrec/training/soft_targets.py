"""Soft targets of a training: what a finished recommender gives to each target's alternatives, code by code."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from hf_genrec.catalogue.best_columns import MAX_SCORES
from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.catalogue.sound_scores import require_sound, require_sound_weights
from hf_genrec.data.examples import Targets, target_positions
from hf_genrec.decoding.code_loss import SoftTargets
from hf_genrec.decoding.recommend_by_scores import ItemRecommenderMixin
from hf_genrec.files import weights_fingerprint
from hf_genrec.method import load_model, method_of, recommender_folder
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.code_shares import CodeShares
from hf_genrec.training.trainer import GenRecTrainer

logger = logging.getLogger(__name__)

BATCH = 256  # histories that the recommender reads at a time


class SoftTargetMaker:
    """
    Makes the [`SoftTargets`] of batches: 1 - `weight` on the label, `weight` on all codes as a recommender has them.

    Args:
        shares: of the catalogue's codes.
        token_ids: (N, L) token ids of the catalogue's items.
        targets: (T,) catalogue rows of the training targets.
        states, item_vectors: (T, d) of the targets' histories and (N, d) of the items; a recommender's scores are their
            products. `None` with a weight of 0, which leaves the labels as they are.
        temperature: the scores are divided by it.
        legal_temperature: that of a softmax over legal codes only; `None` for one over the whole vocabulary.
    """

    def __init__(
        self,
        shares: CodeShares,
        token_ids: torch.Tensor,
        targets: torch.Tensor,
        states: torch.Tensor | None = None,
        item_vectors: torch.Tensor | None = None,
        weight: float = 0.0,
        temperature: float = 1.0,
        legal_temperature: float | None = None,
    ):
        self.shares, self.token_ids, self.targets = shares, token_ids, targets
        self.columns = shares.columns(token_ids)  # (N, L)
        self.states = None if states is None else states / temperature
        self.item_vectors = None if item_vectors is None else item_vectors[shares.order]  # (C, d)
        self.weight, self.legal_temperature = weight, legal_temperature

    @torch.no_grad()
    def __call__(self, numbers: torch.Tensor) -> SoftTargets:
        """
        Of the L codes of each target, target by target.

        Args:
            numbers: (n,) places in `targets`.
        """
        rows = self.targets[numbers]
        token_ids = self.token_ids[rows]  # (n, L)
        shape = (len(rows), *self.shares.tokens.shape)
        weights = torch.zeros(shape, dtype=torch.float32 if self.states is None else self.states.dtype).to(rows.device)
        if self.states is not None and self.item_vectors is not None:
            size = max(1, MAX_SCORES // len(self.item_vectors))
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                with torch.autocast(rows.device.type, enabled=False):
                    scores = self.item_vectors @ self.states[numbers[part]].T  # (C, n)
                weights[part] = self.weight * self.shares.shares(scores, token_ids[part])
        label = torch.full_like(weights[..., :1], 1 - self.weight)
        weights.scatter_add_(2, self.columns[rows][..., None], label)
        legal = None if self.legal_temperature is None else self.shares.legal(token_ids).flatten(0, 1)
        tokens = self.shares.tokens.expand(shape).flatten(0, 1)
        return SoftTargets(tokens, weights.log_().flatten(0, 1), legal, self.legal_temperature or 1.0)


class NumberedTargets:
    """
    A collator whose batches say which training targets they hold.

    Args:
        collator: of examples with `target_numbers`.
    """

    def __init__(self, collator: Callable):
        self.collator = collator

    def __call__(self, examples: Sequence[dict]) -> dict[str, Any]:
        numbers = np.concatenate([np.atleast_1d(example["target_numbers"]) for example in examples])
        return {**self.collator(examples), "target_numbers": torch.from_numpy(numbers)}


def set_soft_targets(trainer: GenRecTrainer) -> None:
    """
    Have a trainer compare codes with soft targets, where its arguments say so. A weight of 0 leaves the plain loss.

    The recommender reads the items before each training target, as far back as it reads any, once. Items of the
    training sequences alone are candidates: others have no vector that was learned.

    Raises:
        FileNotFoundError, ValueError: for a run without a recommender of all items by products of vectors, or one of
            another catalogue.
    """
    arguments = cast(GenRecTrainingArguments, trainer.args)
    legal_temperature = arguments.legal_codes_temperature if arguments.legal_codes_only else None
    run, weight = arguments.soft_targets_run, arguments.soft_targets_weight
    weight = 0.0 if run is None else weight
    if not weight and legal_temperature is None:
        return
    start, device = time.perf_counter(), arguments.device
    processor = trainer.accelerator.unwrap_model(trainer.model).processor
    sequences = cast(Any, trainer.train_dataset).sequences
    users, positions = target_positions(sequences, cast(Targets, arguments.targets))
    targets = np.array([sequences[user][position] for user, position in zip(users, positions, strict=True)])
    report: dict[str, Any] = {"legal_codes_only": arguments.legal_codes_only}
    if legal_temperature is not None:
        report["legal_codes_temperature"] = legal_temperature
    states = vectors = candidates = None
    if run is not None and weight:
        model = open_recommender(run, processor.item_ids).to(device)
        candidates = np.unique(np.concatenate(sequences))
        longest = model.processor.max_history
        histories = [
            sequences[user][max(position - longest, 0) : position]
            for user, position in zip(users, positions, strict=True)
        ]
        states, vectors = user_states(model, histories)
        report |= {"run": run, "recommender": weights_fingerprint(recommender_folder(run, "soft_targets_run"))}
        report |= {"weight": weight, "temperature": arguments.soft_targets_temperature, "candidates": len(candidates)}
    trainer.soft_targets = SoftTargetMaker(
        CodeShares(processor.token_ids, candidates, device),
        torch.from_numpy(processor.token_ids).to(device),
        torch.from_numpy(targets).to(device),
        states,
        vectors,
        weight,
        arguments.soft_targets_temperature,
        legal_temperature,
    )
    trainer.data_collator = NumberedTargets(trainer.data_collator)
    trainer.soft_targets_report = report | {"seconds": time.perf_counter() - start}
    logger.info("soft targets of %s codes, made in %.0f s", f"{len(targets):,}", time.perf_counter() - start)


def open_recommender(run: str, item_ids: list[str]) -> Any:
    """
    The model of a run, whose scores of items are products of vectors.

    Raises:
        FileNotFoundError, ValueError: if there is none, or it is of other items.
    """
    folder = recommender_folder(run, "soft_targets_run")
    model = load_model(folder)
    if not isinstance(model, ItemRecommenderMixin):
        raise ValueError(f"soft_targets_run: {folder} ({method_of(folder)}) does not score items by vectors of users")
    if model.processor.item_ids != item_ids:
        raise ValueError(f"soft_targets_run: {folder} was trained on another catalogue; train it on the same data")
    require_sound_weights(model)
    return model


@torch.no_grad()
def user_states(model: Any, histories: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What a recommender knows of histories of catalogue rows, (T, d), and of its items, (N, d): scores are products.

    Raises:
        ValueError: for numbers that are none.
    """
    by_length = np.argsort([len(history) for history in histories], kind="stable")  # little of a batch is padding
    with evaluation_mode(model):
        vectors = model.item_vectors()
        states = torch.empty(len(histories), vectors.shape[1], device=vectors.device)
        for start in range(0, len(histories), BATCH):
            batch = by_length[start : start + BATCH]
            inputs = model.processor.prompts([histories[place] for place in batch])
            inputs = {name: tensor.to(vectors.device) for name, tensor in inputs.items()}
            found = model.user_vectors(**inputs, item_vectors=vectors).float()
            states[torch.from_numpy(batch).to(vectors.device)] = found
    return require_sound(model, states), vectors[: len(model.processor.item_ids)].float()
