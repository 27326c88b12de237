"""A run, a saved model or a repository, opened for the demo: its model, its method's record, the users of its data."""

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.explanation import Explanation
from hf_genrec.method import Method, load_method, open_model
from hf_genrec.serving.explanations import explanations

logger = logging.getLogger(__name__)


@dataclass
class Answer:
    """
    Attributes:
        items: catalogue rows, best first.
        scores: of the items.
        history: the rows that the model was given, oldest first.
        left_out: how many items of the history it does not know.
        exclude_seen: whether the items of the history were left out.
    """

    items: list[int]
    scores: list[float]
    history: np.ndarray
    left_out: int
    exclude_seen: bool


@dataclass
class OpenedRun:
    """
    Attributes:
        name: of the run's folder, or of the repository.
        model: with its processor.
        method: its method's record.
        users: the item ids of each user of the run's data, oldest first; empty where there are no data.
    """

    name: str
    model: Any
    method: Method
    users: dict[str, list[str]] = field(default_factory=dict)

    @property
    def item_ids(self) -> list[str]:
        return self.model.processor.item_ids

    @cached_property
    def titles(self) -> list[str]:
        """(N,) titles in catalogue order, ids where there are none."""
        return self.model.processor.shown_titles()

    def recommend(self, item_ids: list[str], k: int, exclude_seen: bool) -> Answer:
        """As `model.recommend` does; ids that this model does not know are counted, not silently dropped."""
        processor = self.model.processor
        known = [item_id for item_id in item_ids if item_id in processor]
        found, scores = self.model.recommend(known, k=k, exclude_seen=exclude_seen)
        return Answer(
            processor.rows(found).tolist(), scores, processor.rows(known), len(item_ids) - len(known), exclude_seen
        )

    def explain(self, answer: Answer, item: int) -> list[Explanation]:
        """What is to be shown of how the model came to an item."""
        return explanations(self.method, self.model, answer.history, item, answer.exclude_seen)


def open_run(folder_or_repo: str, **place: Any) -> OpenedRun:
    """
    Args:
        folder_or_repo: a run folder, a saved model, or a repository on the Hub.
        place: `revision`, `token`, ... of a repository.

    Raises:
        ValueError: for a damaged model, or data with items that the model does not have.
        OSError: if there is nothing of that name.
    """
    folder = Path(folder_or_repo)
    model = open_model(folder_or_repo, **place)
    name = folder.resolve().name if folder.exists() else folder_or_repo
    if folder.exists() and name == "model":
        name = folder.resolve().parent.name
    opened = OpenedRun(name, model, load_method(model.config.model_type))
    if (folder / "model/config.json").is_file() and (folder / "data/prepare.json").is_file():
        opened.users = _users(folder / "data", opened)
    return opened


def _users(folder: Path, opened: OpenedRun) -> dict[str, list[str]]:
    try:
        from hf_genrec.data.prepared import PreparedData
    except ImportError as error:
        logger.warning('no users are offered, to read %s needs pip install "hf_genrec[data]" (%s)', folder, error)
        return {}
    prepared = PreparedData.load(folder)
    foreign = [item_id for item_id in prepared.item_ids if item_id not in opened.model.processor]
    if foreign:
        raise ValueError(
            f"{folder} holds items that {opened.name} was not trained on ({foreign[0]!r} is one of {len(foreign)}): "
            f"run `hf-genrec train` again"
        )
    item_ids = prepared.item_ids
    return {
        user: [item_ids[row] for row in sequence.tolist()]
        for user, sequence in zip(prepared.user_ids, prepared.sequences, strict=True)
    }
