"""Soft targets of a training: what a finished recommender gives to each target's alternatives, code by code."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from hf_genrec.catalogue.best_columns import MAX_SCORES
from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.catalogue.sound_scores import require_sound_weights
from hf_genrec.data.examples import Targets, target_positions
from hf_genrec.decoding.code_loss import SoftTargets
from hf_genrec.hub import model_fingerprint
from hf_genrec.method import load_model, recommender_folder
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.code_shares import CodeShares
from hf_genrec.training.trainer import GenRecTrainer

logger = logging.getLogger(__name__)


class SoftTargetMaker:
    """
    Makes the [`SoftTargets`] of batches: 1 - `weight` on the label, `weight` on all codes by their shares.

    Args:
        codes: of the catalogue.
        token_ids: (T, L) of the training targets.
        shares: (T, sum of `codes.widths`) of the training targets; `None` with a weight of 0.
        weight: from 0, the label alone, to 1.
        legal_temperature: that of a softmax over legal codes only; `None` for one over the whole vocabulary.
        cross_entropy: whether all codes with a share are asked for, see [`SoftTargets`].
    """

    def __init__(
        self,
        codes: CodeShares,
        token_ids: torch.Tensor,
        shares: torch.Tensor | None = None,
        weight: float = 0.0,
        legal_temperature: float | None = None,
        cross_entropy: bool = False,
    ):
        self.codes, self.path = codes, codes.path(token_ids)
        self.shares, self.weight, self.legal_temperature = shares, weight, legal_temperature
        self.cross_entropy = cross_entropy

    def __call__(self, numbers: torch.Tensor) -> SoftTargets:
        """
        Of the L codes of each target, target by target.

        Args:
            numbers: (n,) places among the training targets.
        """
        trie, widths = self.codes.trie, self.codes.widths
        path = self.path[numbers]
        first, end = self.codes.next_codes(path)  # (n, L)
        weights = torch.zeros(*path.shape, max(widths), dtype=None if self.shares is None else self.shares.dtype)
        if self.shares is not None:
            for level, part in enumerate(self.shares[numbers].split(widths, 1)):
                torch.mul(part, self.weight, out=weights[:, level, : widths[level]])
        label = torch.full_like(weights[..., :1], 1 - self.weight)
        weights.scatter_add_(2, (path - first)[..., None], label)
        nodes = first[..., None] + torch.arange(max(widths))  # behind the end those of others, without weight
        tokens = torch.stack(
            [of_level[nodes[:, level].clamp(max=len(of_level) - 1)] for level, of_level in enumerate(trie.tokens)], 1
        )
        made: SoftTargets = {"tokens": tokens.long().flatten(0, 1), "log_weights": weights.log_().flatten(0, 1)}
        if self.cross_entropy:
            made["cross_entropy"] = True
        if self.legal_temperature is not None:
            made["legal"] = (nodes < end[..., None]).flatten(0, 1)
            made["temperature"] = self.legal_temperature
        return made


class SoftTargetCollator:
    """
    A collator whose batches have `soft_targets`, too.

    Args:
        collator: of examples with `target_numbers`; its labels are the codes of these, one target after the other.
        maker: of the soft targets.
    """

    def __init__(self, collator: Callable, maker: SoftTargetMaker):
        self.collator, self.maker = collator, maker

    def __call__(self, examples: Sequence[dict]) -> dict[str, Any]:
        numbers = np.concatenate([np.atleast_1d(example["target_numbers"]) for example in examples])
        return {**self.collator(examples), "soft_targets": self.maker(torch.from_numpy(numbers))}


def set_soft_targets(trainer: GenRecTrainer) -> None:
    """
    Have a trainer compare codes with soft targets, where its arguments say so. A weight of 0 leaves the plain loss.

    The recommender reads the items before each training target, as far back as it reads any, once. Items of the
    training sequences alone are candidates: others have no vector that was learned.

    Raises:
        ValueError: for a run without a recommender that scores every item, or of another catalogue.
    """
    arguments = cast(GenRecTrainingArguments, trainer.args)
    legal_temperature = arguments.legal_codes_temperature if arguments.legal_codes_only else None
    run = arguments.soft_targets_run
    weight = 0.0 if run is None else arguments.soft_targets_weight
    if not weight and legal_temperature is None:
        return
    start = time.perf_counter()
    processor = trainer.accelerator.unwrap_model(trainer.model).processor
    sequences = cast(Any, trainer.train_dataset).sequences
    users, positions = target_positions(sequences, cast(Targets, arguments.targets))
    targets = np.array([sequences[user][position] for user, position in zip(users, positions, strict=True)])
    token_ids = torch.from_numpy(processor.token_ids[targets])
    report: dict[str, Any] = {"legal_codes_only": arguments.legal_codes_only}
    if legal_temperature is not None:
        report["legal_codes_temperature"] = legal_temperature
    codes, shares = CodeShares(processor.trie), None
    if run is not None and weight:
        temperature, candidates = arguments.soft_targets_temperature, np.unique(np.concatenate(sequences))
        model = open_recommender(run, processor.item_ids).to(arguments.device)
        longest = model.processor.max_history
        histories = [
            sequences[user][max(position - longest, 0) : position]
            for user, position in zip(users, positions, strict=True)
        ]
        shares = recommender_shares(model, histories, token_ids, processor.trie, candidates, temperature)
        report |= {"run": run, "recommender": model_fingerprint(recommender_folder(run, "soft_targets_run"))}
        report |= {"weight": weight, "temperature": temperature, "candidates": len(candidates)}
        report["loss"] = arguments.soft_targets_loss
    cross_entropy = arguments.soft_targets_loss == "cross_entropy"
    maker = SoftTargetMaker(codes, token_ids, shares, weight, legal_temperature, cross_entropy)
    trainer.data_collator = SoftTargetCollator(trainer.data_collator, maker)
    trainer.soft_targets_report = report | {"seconds": time.perf_counter() - start}
    logger.info("soft targets of %s items made in %.0f s", f"{len(targets):,}", time.perf_counter() - start)


def open_recommender(run: str, item_ids: list[str]) -> Any:
    """
    The model of a run, which scores every item.

    Raises:
        ValueError: if there is none, or it is of other items.
    """
    folder = recommender_folder(run, "soft_targets_run")
    model = load_model(folder)
    if model.processor.item_ids != item_ids:
        raise ValueError(f"soft_targets_run: {folder} was trained on another catalogue; train it on the same data")
    require_sound_weights(model)
    return model


@torch.no_grad()
def recommender_shares(
    model: Any,
    histories: Sequence[np.ndarray],
    token_ids: torch.Tensor,
    trie: Any,
    candidates: np.ndarray,
    temperature: float,
) -> torch.Tensor:
    """
    What a recommender gives to the next codes of targets, (T, sum of widths) as [`CodeShares.shares`] has it.

    Args:
        histories: catalogue rows before each of T targets.
        token_ids: (T, L) of the targets.
        candidates: the rows whose scores count.
        temperature: scores are divided by it.

    Raises:
        ValueError: for scores that are no numbers.
    """
    device = model.device
    codes = CodeShares(trie.to(device), candidates)
    order = codes.order.cpu().numpy()
    found = torch.empty(len(histories), sum(codes.widths))
    size = min(256, max(1, MAX_SCORES // len(order)))
    by_length = np.argsort([len(history) for history in histories], kind="stable")  # little of a batch is padding
    with evaluation_mode(model):
        for start in range(0, len(histories), size):
            batch = by_length[start : start + size]
            scores = model.score_rows([histories[place] for place in batch], order).T / temperature
            found[batch] = codes.shares(scores, codes.path(token_ids[batch].to(device))).cpu()
    return found
