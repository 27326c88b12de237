"""`pipeline("recommendation", model=..., trust_remote_code=True)` of transformers, for every recommender."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline

from .handler import TASK
from .request_checks import as_batch, checked_count, listed

NAMES = ("history", "histories")
STREAMED = 64  # histories of an iterator that are answered together


def custom_pipelines(auto_map: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of the pipeline, by the Auto classes that it names."""
    auto_classes = [name for name in auto_map if name.startswith("AutoModelFor")]
    return {TASK: {"impl": f"{__name__.split('.')[-1]}.RecommendationPipeline", "pt": auto_classes}}


class RecommendationPipeline(Pipeline):
    """
    The items most likely to come next, with their titles and scores.

    ```python
    recommender = pipeline("recommendation", model="my-org/my-model", trust_remote_code=True)
    recommender(["12", "7"], k=5)                       # one history: [{"item_id", "title", "score"}, ...], best first
    recommender([["12", "7"], []], exclude_seen=True)   # several: a list of such lists
    ```
    """

    model: Any
    # The model brings its processor.
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def __call__(self, inputs: Any = None, *, num_workers: Any = None, batch_size: Any = None, **options: Any) -> Any:
        """
        Args:
            inputs: a history (item ids, oldest first) or a batch of them, as `recommend` takes them; or an object with
                `history` or `histories`, which may be given by name, too. A generator or torch data set of histories
                is answered while it is read.
            num_workers: as in other pipelines; there is nothing for them to do.
            batch_size (*optional*): histories at a time.
            options: those of the model's `recommend`: `k`, `exclude_seen`, `candidates`, `unknown` and how to search.

        Returns:
            a list of `{"item_id": ..., "title": ..., "score": ...}`, best first; for several histories a list of such
            lists, for a generator or data set an iterator over such lists.

        Raises:
            ValueError, TypeError: as `recommend`.
        """
        if isinstance(inputs, Mapping):
            twice = sorted(set(inputs) & set(options))
            if twice:
                raise ValueError(f"{twice[0]} stands in the inputs and beside them: give it once.")
            inputs, options = None, {**inputs, **options}
        batch_size = self._batch_size if batch_size is None else batch_size
        if batch_size is not None:
            options["batch_size"] = checked_count("batch_size", batch_size)
        named = {name: options.pop(name) for name in NAMES if name in options}
        _, forward, _ = self._sanitize_parameters(**options)
        forward = self._forward_params | forward
        if isinstance(inputs, GeneratorType | Dataset) and not named:
            return self._streamed(inputs, forward)
        return self.run_single(_asked(inputs, named), {}, forward, {})

    def _streamed(self, histories: Iterable[Any], options: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        if isinstance(histories, Dataset) and not isinstance(histories, IterableDataset):
            # By places: of a data set that has no end of its own, an iterator would not stop.
            entries: Iterator[Any] = map(histories.__getitem__, range(len(histories)))  # type: ignore[arg-type]
        else:
            entries = iter(histories)
        place = 0
        while batch := list(islice(entries, options.get("batch_size", STREAMED))):
            of_batch = [listed(history, f"history {place + i}") for i, history in enumerate(batch, start=1)]
            place += len(batch)
            yield from self.run_single({"histories": of_batch, "single": False}, {}, options, {})

    def _sanitize_parameters(self, local_files_only: Any = None, **options: Any):
        # `pipeline` hands on where it may load from.
        return {}, options, {}

    def preprocess(self, input_: Any, **parameters: Any) -> Any:
        return input_

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        histories, single = input_tensors["histories"], input_tensors["single"]
        if not histories:
            return {"lists": [], "single": False}
        item_ids, scores = self.model.recommend(histories[0] if single else histories, **options)
        lists = [(item_ids, scores)] if single else list(zip(item_ids, scores, strict=True))
        return {"lists": lists, "single": single}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> Any:
        lists = [self.model.processor.as_items(*found) for found in model_outputs["lists"]]
        return lists[0] if model_outputs["single"] else lists


def _asked(inputs: Any, named: dict[str, Any]) -> dict[str, Any]:
    """
    The histories, and whether they are a single one.

    Raises:
        ValueError: for none, several ways to give them, or one where the name says several.
    """
    if len(named) + (inputs is not None) != 1:
        raise ValueError("Give a history or a batch of histories: ['12', '7'], or [['12', '7'], ['3']], once.")
    if inputs is not None:
        batch, single = as_batch(inputs)
        return {"histories": batch, "single": single}
    ((name, value),) = named.items()
    batch, single = as_batch(listed(value, name))
    if name == "history" and not single:
        raise ValueError("history holds lists: give one list of item ids, or several as histories.")
    if name == "histories" and single:
        if batch[0]:
            raise ValueError("histories holds item ids: give lists of them, or one list as history.")
        batch = []
    return {"histories": batch, "single": name == "history"}
