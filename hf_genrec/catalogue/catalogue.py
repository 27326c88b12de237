"""The catalogue of a processor (ids, titles, popularity), and the processor that a recommender carries."""

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from .catalogue_files import CATALOGUE_FILE, load_items, save_items
from .evaluation_mode import evaluation_mode
from .flat_code import FlatCode, FlatModelCode
from .recommendation_frame import recommendation_frame
from .request_checks import (
    as_batch,
    checked_choice,
    checked_count,
    checked_ids,
    checked_options,
    shown,
)
from .saved_files import hub_place, naming, read_json, saved_file
from .saved_weights import read_config, require_agreement, require_finite, require_weights
from .similar_items import SimilarItems
from .sound_scores import refuse_model, require_sound, require_sound_weights

logger = logging.get_logger(__name__)

SETTINGS_FILE = "processor_config.json"


class CatalogueProcessor(FlatCode, ProcessorMixin):
    """
    What every processor does with item ids. A subclass says how histories of rows become inputs ([`prompts`]).

    Attributes:
        item_ids (`list[str]`): N ids; an item's place is its catalogue row.
        titles (`list[str]`, *optional*): N titles for people to read.
        popularity (`np.ndarray`): (N,) int64, training interactions of each item.
        exclude_seen (`bool`): whether lists leave the items of the history out where a request does not say.
    """

    exclude_seen = False
    item_ids: list[str]
    titles: list[str] | None
    popularity: np.ndarray

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"]

    # ---- items ----

    def _attach_items(self, item_ids: Sequence[str], titles: Sequence[str] | None, popularity: np.ndarray):
        self.item_ids, self.titles = list(item_ids), None if titles is None else list(titles)
        self.popularity = popularity
        self._row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}

    def _require_catalogue(self):
        if not hasattr(self, "item_ids"):
            raise ValueError("The processor has no catalogue: call its set_catalogue first.")

    def title(self, item_id: str) -> str:
        """
        The item's title, or its id where the catalogue has none.

        Raises:
            ValueError: for an id that is not in the catalogue.
        """
        (row,) = self.rows([item_id], where="title")
        return (self.titles[row] if self.titles is not None else None) or item_id

    def shown_titles(self) -> list[str]:
        """(N,) titles in catalogue order, as [`title`] says them."""
        titles = self.titles or self.item_ids
        return [title or item_id for title, item_id in zip(titles, self.item_ids, strict=True)]

    def _without(self, item_ids: Sequence[str]) -> tuple[np.ndarray, list[str], list[str] | None]:
        """Rows, ids and titles of all items but these; raises ValueError for an unknown one."""
        self._require_catalogue()
        kept = np.delete(np.arange(len(self.item_ids)), self.rows(item_ids, where="item_ids"))
        titles = None if self.titles is None else [self.titles[row] for row in kept]
        return kept, [self.item_ids[row] for row in kept], titles

    def __contains__(self, item_id: object) -> bool:
        """Whether the catalogue has an item of this id."""
        return item_id in self._row_of

    def rows(self, item_ids: Sequence[str], unknown: str = "raise", where: str = "the history") -> np.ndarray:
        """
        Catalogue rows of item ids, (n,) int64.

        Args:
            item_ids: a list, tuple, array, column of a table or generator of strings.
            unknown: `"raise"`, or `"skip"` to leave unknown ids out and say how many.
            where: what the ids are, for messages.

        Raises:
            ValueError: for an id that is no string or not in the catalogue, or for what is no list.
        """
        self._require_catalogue()
        checked_choice("unknown", unknown, ("raise", "skip"))
        ids = checked_ids(item_ids, where, ordered=where != "candidates")
        rows = np.array([self._row_of.get(item_id, -1) for item_id in ids], dtype=np.int64)
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            return rows
        first = ids[missing[0]]
        if unknown == "raise":
            history = where.endswith("history") or where.startswith("history")
            remedy = "unknown='skip' leaves such items out" if history else "leave it out"
            raise ValueError(
                f"Item {shown(first)} in {where} is not in the catalogue (position {missing[0] + 1}, from 1); {remedy}."
            )
        logger.warning(f"{len(missing)} unknown item(s) left out of {where}, the first is {shown(first)}.")
        return rows[rows >= 0]

    # ---- histories ----

    as_batch = staticmethod(as_batch)

    def batch_rows(self, histories, unknown: str = "raise") -> tuple[list[np.ndarray], bool]:
        """
        Catalogue rows of a history or a batch of them, and whether one single history was given (a flat list of ids, or
        an empty one).

        Raises:
            ValueError: for what is neither, or as [`rows`].
        """
        batch, single = self.as_batch(histories)
        names = ["the history"] if single else [f"history {place}" for place in range(1, len(batch) + 1)]
        return [self.rows(history, unknown, name) for history, name in zip(batch, names, strict=True)], single

    def as_lists(self, rows: np.ndarray, scores: np.ndarray) -> tuple[list[list[str]], list[list[float]]]:
        """Item ids and scores of recommended rows (B, k), best first; a list ends where a row is -1."""
        found = (rows >= 0).sum(-1).tolist()
        item_ids = [[self.item_ids[row] for row in line[:n]] for line, n in zip(rows.tolist(), found, strict=True)]
        return item_ids, [line[:n] for line, n in zip(scores.tolist(), found, strict=True)]

    def as_items(self, item_ids: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
        """A list of [`recommend`] for JSON: `item_id`, `title` and `score` of each item."""
        return [
            {"item_id": item_id, "title": self.title(item_id), "score": score}
            for item_id, score in zip(item_ids, scores, strict=True)
        ]

    def prompts(self, histories: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Inputs of histories given as catalogue rows, oldest first: `input_ids` and `attention_mask`, (B, S)."""
        raise NotImplementedError

    def __call__(
        self, histories=None, return_tensors: str | None = None, unknown: str = "raise", **kwargs
    ) -> BatchFeature:
        """
        Args:
            histories: a history (item ids, oldest first) or a batch of them; an empty one is allowed.
            return_tensors: `"pt"`, `"np"`, or `None` for lists.
            unknown: what to do with ids that are not in the catalogue: `"raise"` or `"skip"`.

        Returns:
            `input_ids` and `attention_mask`, (B, S).

        Raises:
            ValueError: as [`batch_rows`], or for arguments that the processor does not know.
        """
        if histories is None or kwargs:
            raise ValueError(f"Call the processor with histories=[[item ids]] (got other arguments: {sorted(kwargs)}).")
        checked_choice("return_tensors", return_tensors, ("pt", "np", None))
        prompts = self.prompts(self.batch_rows(histories, unknown)[0])
        if return_tensors is None:
            return BatchFeature({name: tensor.tolist() for name, tensor in prompts.items()})
        return BatchFeature({name: tensor.numpy() for name, tensor in prompts.items()}, tensor_type=return_tensors)

    # ---- files ----

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Settings, catalogue and what else the class keeps; with `push_to_hub=True` uploaded as well."""
        self._require_catalogue()
        files = super().save_pretrained(save_directory)
        self._save_catalogue(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)
        return files

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"exclude_seen": self.exclude_seen}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """
        Reads the settings, tokenizer and catalogue of one place. What else the settings name is not opened.

        Args:
            kwargs: where in a repository (`revision`, `token`, ...), and settings to change.

        Raises:
            OSError: if a file is missing.
            ValueError: if one is damaged.
        """
        place = hub_place(kwargs)
        path = saved_file(pretrained_model_name_or_path, SETTINGS_FILE, **place)
        names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        settings: dict[str, Any] = read_json(str(path))
        if "tokenizer" in names:
            settings["tokenizer"] = cls._load_tokenizer(pretrained_model_name_or_path, **place)
        settings |= {name: kwargs[name] for name in names if name in kwargs}
        with naming(path):
            lacking = [name for name in names if name not in settings]
            if lacking:
                raise ValueError(f"it lacks {', '.join(lacking)} of a {cls.__name__}")
            processor = cls(**{name: settings[name] for name in names})
            # Folders of earlier versions do not say.
            exclude_seen = kwargs.get("exclude_seen", settings.get("exclude_seen", False))
            processor.exclude_seen = checked_choice("exclude_seen", exclude_seen, (True, False))
        processor._load_catalogue(pretrained_model_name_or_path, **place)
        return processor

    @classmethod
    def _load_tokenizer(cls, pretrained_model_name_or_path, **place):
        raise NotImplementedError

    def _save_catalogue(self, save_directory):
        save_items(save_directory, self.item_ids, self.titles, popularity=self.popularity)

    def _load_catalogue(self, pretrained_model_name_or_path, **place):
        item_ids, titles, arrays = load_items(pretrained_model_name_or_path, place)
        self._attach_items(item_ids, titles, arrays["popularity"])


class ProcessorCarrier(SimilarItems, FlatModelCode, PreTrainedModel):
    """
    Placed before a model class: the model's processor is loaded and saved with it, and it recommends items by their
    ids. The model brings [`recommend_rows`] and [`score_rows`], which know catalogue rows alone.

    Attributes:
        processor (*optional*): of the class `processor_class`; histories and catalogue.
    """

    processor_class: type[CatalogueProcessor]
    processor: Any = None

    def recommend_rows(
        self,
        histories: Sequence[np.ndarray],
        k: int = 10,
        exclude_seen: bool = False,
        candidates: np.ndarray | None = None,
        **search,
    ) -> tuple[np.ndarray, ...]:
        """
        [`recommend`] in catalogue rows instead of item ids. Whether seen items are left out is said here: the
        processor's default is for [`recommend`] alone.

        Returns:
            rows (B, n) int64, -1 where fewer items are allowed, and scores (B, n) float32, -inf there; n is k or, if
            that is less, the number of candidates.
        """
        raise NotImplementedError

    def score_rows(self, histories: Sequence[np.ndarray], rows: np.ndarray, **search) -> torch.Tensor:
        """[`score_items`] in catalogue rows instead of item ids: (B, items) float32."""
        raise NotImplementedError

    def score_row_lists(self, histories: Sequence[np.ndarray], lists: np.ndarray) -> torch.Tensor:
        """
        [`score_rows`] of other items for each history.

        Args:
            lists: (B, C) catalogue rows, -1 where a list is shorter.

        Returns:
            (B, C) float32, -inf where a row is -1.
        """
        scores = torch.full(lists.shape, -torch.inf, device=self.device)
        for line, history in enumerate(histories):
            places = np.flatnonzero(lists[line] >= 0)
            scores[line, torch.from_numpy(places)] = self.score_rows([history], lists[line, places])[0]
        return scores

    def recommend(
        self,
        histories: Sequence[str] | Sequence[Sequence[str]],
        k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Sequence[str] | None = None,
        unknown: str = "raise",
        as_frame: bool = False,
        **search,
    ):
        """
        The k items most likely to come next.

        Args:
            histories: one history (item ids, oldest first) or a batch of them; an empty history is allowed. Lists,
                tuples, arrays, columns of pandas and pyarrow, and generators are; a string is not, it is one id.
            k: items per history.
            exclude_seen: leave out the items of the history; by default what the processor says, whose `exclude_seen`
                the training has chosen on the validation split.
            candidates (*optional*): recommend only these items; a set may be given, too.
            unknown: `"raise"`, or `"skip"` to leave ids out of a history that are not in the catalogue.
            as_frame: return a pandas DataFrame.
            search: options of this model's [`recommend_rows`], `batch_size` (histories at a time) among them.

        Returns:
            `(item_ids, scores)`, best first; lists of lists for a batch. Scores are those of [`score_items`], in
            float32, and do not depend on k. Fewer than k items only where fewer are allowed. With `as_frame`, a row per
            item with the columns `user` (the history's place, from 0), `item`, `rank` (from 1), `score` and `title`.

        Raises:
            ValueError: for an item that is unknown or no string, no candidate, a k below 1, an option the model
                refuses, a model whose scores are NaN, or one without a processor.
            TypeError: for an option the model does not have.
            ImportError: for `as_frame` without pandas.
        """
        processor = self._require_processor()
        checked_choice("as_frame", as_frame, (True, False))
        exclude_seen = processor.exclude_seen if exclude_seen is None else exclude_seen
        checked_options(self.recommend_rows, search, ("histories", "k", "exclude_seen", "candidates"))
        rows, single = processor.batch_rows(histories, unknown)
        allowed = None if candidates is None else processor.rows(candidates, where="candidates")
        # No more than there is: the answer is as long, and nothing is made ready for the rest.
        k = min(checked_count("k", k), len(processor.item_ids if allowed is None else np.unique(allowed)) or 1)
        found, scores, *more = self.recommend_rows(rows, k, exclude_seen, allowed, **search)
        if more:
            raise ValueError(f"{', '.join(search)}: items and scores are not all it returns: call recommend_rows.")
        if np.isnan(scores).any():
            refuse_model(self)
        item_ids, score_lists = processor.as_lists(found, scores)
        if as_frame:
            return recommendation_frame(range(len(rows)), item_ids, score_lists, processor.title)
        return (item_ids[0], score_lists[0]) if single else (item_ids, score_lists)

    def score_items(
        self,
        histories: Sequence[str] | Sequence[Sequence[str]],
        item_ids: Sequence[str] | None = None,
        unknown: str = "raise",
        **search,
    ) -> torch.Tensor:
        """
        Exact scores of items, equal to those of [`recommend`].

        Args:
            histories, unknown: see [`recommend`].
            item_ids (*optional*): the items to score, by default the whole catalogue in its order.
            search: options of this model's [`score_rows`].

        Returns:
            float32 tensor (B, items), or (items,) for a single history.

        Raises:
            ValueError, TypeError: as [`recommend`].
        """
        processor = self._require_processor()
        checked_options(self.score_rows, search, ("histories", "rows"))
        batch, single = processor.batch_rows(histories, unknown)
        rows = np.arange(len(processor.item_ids))
        if item_ids is not None:
            rows = processor.rows(item_ids, where="item_ids")
        require_sound_weights(self)
        with evaluation_mode(self), torch.no_grad():
            scores = require_sound(self, self.score_rows(batch, rows, **search))
        return scores[0] if single else scores

    def _require_processor(self):
        if self.processor is None:
            raise ValueError(
                f"The model has no processor: set model.processor = {self.processor_class.__name__}.from_pretrained("
                "folder) of the folder that holds its catalogue."
            )
        return self.processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        The model, and its processor from the same place where there is one.

        Raises:
            OSError: if a file is missing.
            ValueError: if one is damaged, or the files do not fit each other. It names the file.
        """
        wants_info, folder = kwargs.pop("output_loading_info", False), pretrained_model_name_or_path
        place = hub_place(kwargs)
        if saved_file(folder, "adapter_config.json", required=False, **place):
            # transformers would open whatever model it names.
            raise ValueError(f"{folder} holds an adapter_config.json: merge the adapter into the model, or remove it.")
        processor = found = None
        if saved_file(folder, CATALOGUE_FILE, required=False, **place):
            # Our own checkpoint, not a base model: nothing in it may start from random numbers.
            config = read_config(cls.config_class, folder, **place)
            processor = cls.processor_class.from_pretrained(folder, **place)
            with naming(saved_file(folder, "config.json", **place)):
                require_agreement(config, processor)
            found = require_weights(cls, config, folder, kwargs)
            generation = saved_file(folder, "generation_config.json", required=False, **place)
            if generation is not None:
                with naming(generation):
                    GenerationConfig.from_dict(read_json(generation))
            kwargs["use_safetensors"] = True
        with naming(folder):
            loaded: Any = super().from_pretrained(folder, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        if found is not None:
            require_finite(model, found, folder)
            model.processor = processor
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory, is_main_process: bool = True, *, push_to_hub: bool = False, **kwargs):
        """The model, and its processor beside it; with `push_to_hub=True` the main process uploads both."""
        hub_kwargs = {}
        if push_to_hub:
            for name in ("repo_id", "commit_message", "private", "revision", "create_pr", "token"):
                if name in kwargs:
                    hub_kwargs[name] = kwargs.pop(name)
        if self.processor is not None and getattr(self.config, "auto_map", None):
            # Named here, its file and the handler's, which it imports, are saved with the model.
            from .recommendation_pipeline import custom_pipelines

            self.config.custom_pipelines = custom_pipelines(self.config.auto_map)
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if self.processor is not None and is_main_process:
            self.processor.save_pretrained(save_directory)
        if push_to_hub and is_main_process:
            self.push_to_hub(
                hub_kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **hub_kwargs
            )
