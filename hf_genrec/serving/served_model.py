"""A trained model ready to be asked: what the server, and whoever else answers requests, holds of it."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.files import restore_folder
from hf_genrec.method import load_method, model_place, open_model
from hf_genrec.serving.own_thread import in_own_thread
from hf_genrec.training.run_folder import RunFolder


@dataclass(frozen=True)
class Question:
    """
    Histories of one request, in catalogue rows, and what is asked about them.

    Attributes:
        histories: (n,) int64 each, oldest item first.
        k: items for each history.
        exclude_seen: leave out the items of the history.
        candidates: the rows to choose from, if not all.
        keep: whether the encoded histories are kept for the next request.
        catalogue: the state of the catalogue (`ServedModel.catalogue`) whose rows these are.
    """

    histories: list[np.ndarray]
    k: int
    exclude_seen: bool = False
    candidates: tuple[int, ...] | None = None
    keep: bool = False
    catalogue: int = 0

    @property
    def asked(self) -> tuple[Any, ...]:
        """What is asked; questions that differ in their histories alone are answered by one call."""
        return self.k, self.exclude_seen, self.candidates, self.keep


Answer = tuple[list[list[str]], list[list[float]]]


class ServedModel:
    """
    Args:
        run_or_repo: a run folder, a saved model, or a repository on the Hub. Opened by the library's own classes.
        name: what requests call it; by default the name of the folder or repository.
        cache_bytes: what the encoded histories of a model that keeps some may take.
        index: lists are made by the run's [`ItemIndex`].

    Attributes:
        model: with its processor.
        folder: where the model was opened from.
        method: its method's record.
        cache: the user cache, or `None` for a model that has none.
        item_tokenizer: what gives new items their codes, once it was needed.
        num_trained: how many items the model was opened with. They stay; others come behind them and may go.
        catalogue: a number that is another one once rows have moved.

    Raises:
        ValueError, OSError: as [`hf_genrec.load`].
    """

    def __init__(self, run_or_repo: str | Path, name: str | None = None, cache_bytes: int = 0, index: bool = False):
        run = RunFolder(Path(run_or_repo))
        restore_folder(run.model)
        self.folder = model_place(run_or_repo)
        if self.folder == run_or_repo and run.path.is_dir() and not (run.path / "config.json").is_file():
            run.require_model()
        self.model = in_own_thread(partial(open_model, run_or_repo))
        if index:
            from hf_genrec.serving.item_index import ItemIndex  # needs faiss

            ItemIndex.load(run).attach(self.model)
        self.name = name or Path(run_or_repo).resolve().name
        self.method = load_method(self.model.config.model_type)
        self.item_tokenizer: Any = None
        self.num_trained = len(self.processor.item_ids)
        self.catalogue = 0
        has_cache = "user_cache" in inspect.signature(self.model.recommend_rows).parameters
        self.cache = self.model.user_cache(cache_bytes) if has_cache and cache_bytes else None

    @property
    def processor(self) -> Any:
        """Histories and catalogue."""
        return self.model.processor

    def answer(self, questions: Sequence[Question]) -> list[Answer | None]:
        """
        Item ids and scores of each question, equal to `model.recommend`; like questions are asked in one call. `None`
        for one whose rows are of an earlier catalogue: it is to be asked again.
        """
        answers: list[Any] = [None] * len(questions)
        alike: dict[tuple[Any, ...], list[int]] = {}
        for place, question in enumerate(questions):
            if question.catalogue == self.catalogue:
                alike.setdefault(question.asked, []).append(place)
        for (k, exclude_seen, candidates, keep), places in alike.items():
            rows, scores = self.model.recommend_rows(
                [history for place in places for history in questions[place].histories],
                k,
                exclude_seen,
                None if candidates is None else np.array(candidates),
                **({"user_cache": self.cache} if keep and self.cache is not None else {}),
            )
            item_ids, values = self.processor.as_lists(rows, scores)
            begin = 0
            for place in places:
                end = begin + len(questions[place].histories)
                answers[place] = item_ids[begin:end], values[begin:end]
                begin = end
        return answers
