"""What can be made of the rows of Parquet files: recommendations and vectors of users, vectors of items."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_genrec.data.prepared import ITEMS_FILE, SEQUENCES_FILE, require_files
from hf_genrec.serving.row_source import RowSource
from hf_genrec.training.run_folder import RunFolder

if TYPE_CHECKING:
    from hf_genrec.serving.item_index import ItemIndex

AT_ONCE = 512  # rows of a part between two steps of the progress bar
UNKNOWN = ("unknown_items", "users_with_unknown_items")  # counted of histories

Advance = Callable[[int], Any]
Maker = Callable[[pa.Table, Advance], tuple[pa.Table, dict[str, int]]]


class Work(Protocol):
    """
    What is made of a row. Small enough to be sent to another process, which opens it.

    Attributes:
        name: of what is made.
        unit: what a row is.
        counts: what is counted of a part beside its rows.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def counts(self) -> tuple[str, ...]: ...

    def settings(self) -> dict[str, Any]:
        """What decides the result beside the rows."""

    def open(self) -> Maker:
        """From rows to their part and counts for its record; loads the model."""


# ---- users of a trained model ----


def history_rows(run: RunFolder, histories: str | Path | None = None) -> RowSource:
    """The users and histories of a Parquet file or folder; by default those of the run's data, whole."""
    if histories is None:
        require_files(run.data)
    path = run.data / SEQUENCES_FILE if histories is None else Path(histories)
    return RowSource(path, {"user_id": "id", "item_ids": "ids"})


def model_settings(folder: Path) -> dict[str, str]:
    """What a saved model and its catalogue are known by."""
    from hf_genrec.files import fingerprint
    from hf_genrec.hub import model_fingerprint

    return {"model": model_fingerprint(folder), "catalogue": fingerprint([folder / "catalogue.json"])}


class Histories:
    """Lists of item ids -> catalogue rows, many at a time."""

    def __init__(self, model: Any, folder: Path, unknown: str):
        self.item_ids = pa.array(model.processor.item_ids, pa.string())
        self.folder, self.unknown = folder, unknown

    def __call__(self, users: pa.Table) -> tuple[list[np.ndarray], dict[str, int]]:
        """
        Catalogue rows (n,) int64 per user, and how many items were left out of how many histories.

        Raises:
            ValueError: an item that is not in the catalogue, unless they are to be skipped; names the user.
        """
        lists = users["item_ids"].combine_chunks()
        lengths = np.array(pc.list_value_length(lists), dtype=np.int64)
        rows = np.array(pc.fill_null(pc.index_in(lists.flatten(), value_set=self.item_ids), -1), dtype=np.int64)
        user = np.repeat(np.arange(len(lengths)), lengths)
        known = rows >= 0
        if not known.all() and self.unknown == "raise":
            place = int(known.argmin())
            raise ValueError(
                f"item {lists.flatten()[place].as_py()!r} in the history of user "
                f"{users['user_id'][int(user[place])].as_py()!r} is not in the catalogue of {self.folder}: --unknown "
                f"skip leaves such items out"
            )
        kept = np.bincount(user[known], minlength=len(lengths))
        return np.split(rows[known], np.cumsum(kept)[:-1]), {
            "unknown_items": int((~known).sum()),
            "users_with_unknown_items": int((kept < lengths).sum()),
        }


@dataclass(frozen=True)
class Recommend:
    """
    Lists of `k` items as long rows: user_id, rank (from 1), item_id, title (the id where there is none), score.

    A user for whom no item is allowed has no rows; such users are counted. See `recommend` of a model for the
    arguments.
    """

    model: Path
    k: int = 10
    exclude_seen: bool = False
    unknown: str = "raise"
    index: bool = False
    name = "recommendations"
    unit = "users"
    counts = (*UNKNOWN, "users_without_items")

    def __post_init__(self) -> None:
        _check_unknown(self.unknown)
        if self.k < 1:
            raise ValueError(f"k={self.k}: give at least 1 item a user")

    def settings(self) -> dict[str, Any]:
        by = {"index": self._item_index().facts} if self.index else {}
        return {**model_settings(self.model), "k": self.k, "exclude_seen": self.exclude_seen, **by}

    def _item_index(self) -> "ItemIndex":
        from hf_genrec.serving.item_index import ItemIndex

        return ItemIndex.load(RunFolder(self.model.parent))

    def open(self) -> Maker:
        from hf_genrec.method import load_model

        model = load_model(self.model)
        if self.index:
            self._item_index().attach(model)
        processor = model.processor
        histories, k = Histories(model, self.model, self.unknown), min(self.k, len(processor.item_ids))
        titles = pa.array(processor.shown_titles(), pa.string())

        def make(users: pa.Table, advance: Advance) -> tuple[pa.Table, dict[str, int]]:
            known, counts = histories(users)
            rows, scores = np.empty((len(known), k), np.int64), np.empty((len(known), k), np.float32)
            for some in _by_length(known):
                rows[some], scores[some] = model.recommend_rows(
                    [known[user] for user in some], k, exclude_seen=self.exclude_seen
                )
                advance(len(some))
            user, rank = np.nonzero(rows >= 0)
            item = pa.array(rows[user, rank])
            table = pa.table(
                {
                    "user_id": users["user_id"].combine_chunks().take(pa.array(user)),
                    "rank": pa.array(rank + 1, pa.int32()),
                    "item_id": histories.item_ids.take(item),
                    "title": titles.take(item),
                    "score": pa.array(scores[user, rank]),
                }
            )
            return table, {**counts, "users_without_items": int((rows[:, 0] < 0).sum())}

        return make


@dataclass(frozen=True)
class UserVectors:
    """user_id and the vector (`embedding`) of the user's history, for models whose scores are products of vectors."""

    model: Path
    unknown: str = "raise"
    name = "embeddings"
    unit = "users"
    counts = UNKNOWN

    def __post_init__(self) -> None:
        _check_unknown(self.unknown)

    def settings(self) -> dict[str, Any]:
        return {"vectors": "users", **model_settings(self.model)}

    def open(self) -> Maker:
        import torch

        from hf_genrec.catalogue.evaluation_mode import evaluation_mode

        model, items = vector_model(self.model)
        histories = Histories(model, self.model, self.unknown)

        def make(users: pa.Table, advance: Advance) -> tuple[pa.Table, dict[str, int]]:
            known, counts = histories(users)
            found = np.empty((len(known), items.shape[1]), np.float32)
            for some in _by_length(known):
                inputs = model.processor.prompts([known[user] for user in some])
                inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
                with torch.no_grad(), evaluation_mode(model):
                    found[some] = model.user_vectors(**inputs, item_vectors=items).float().cpu().numpy()
                advance(len(some))
            return pa.table({"user_id": users["user_id"], "embedding": _lists(found)}), counts

        return make


# ---- items ----


@dataclass(frozen=True)
class ItemVectors:
    """item_id and the model's vector of the item (`embedding`): its product with a user's vector is the score."""

    model: Path
    name = "embeddings"
    unit = "items"
    counts = ()

    def settings(self) -> dict[str, Any]:
        return {"vectors": "items", **model_settings(self.model)}

    def open(self) -> Maker:
        model, vectors = vector_model(self.model)

        def make(items: pa.Table, advance: Advance) -> tuple[pa.Table, dict[str, int]]:
            rows = model.processor.rows(items["item_id"].to_pylist(), where=f"the items of {self.model}")
            advance(len(rows))
            return pa.table({"item_id": items["item_id"], "embedding": _lists(vectors[rows].cpu().numpy())}), {}

        return make


def require_vectors(folder: Path) -> None:
    """
    Raises:
        ValueError: models of the method of this one have no vectors of users and items.
    """
    from hf_genrec.method import load_method, method_of, methods

    if not load_method(method_of(folder)).item_vectors:
        have = " or ".join(name for name in methods() if load_method(name).item_vectors)
        raise ValueError(
            f"{folder} is a model of {method_of(folder)}, which has no vectors of users and items: {have} has"
        )


def vector_model(folder: Path) -> tuple[Any, Any]:
    """
    A saved model and its item vectors, (N or more, d) float32.

    Raises:
        ValueError: it scores items in another way than by a product of vectors.
    """
    import torch

    from hf_genrec.decoding.recommend_by_scores import ItemRecommenderMixin
    from hf_genrec.method import load_model

    model = load_model(folder)
    if not isinstance(model, ItemRecommenderMixin):
        raise ValueError(f"{folder} is a {type(model).__name__}, whose users have no vectors")
    with torch.no_grad():
        return model, model.item_vectors().detach().float()


@dataclass(frozen=True)
class TextVectors:
    """item_id and the embedding of the item's text, as `tokenize` makes it and reads it as `embeddings_path`."""

    text_model: str
    text_columns: tuple[str, ...]
    name = "embeddings"
    unit = "items"
    counts = ("items_without_text",)

    def settings(self) -> dict[str, Any]:
        from hf_genrec.semantic_ids.embedding import model_identity, resolve_model

        model = model_identity(resolve_model(self.text_model))
        return {"vectors": "text", "text_model": model, "text_columns": list(self.text_columns)}

    def open(self) -> Maker:
        from hf_genrec.semantic_ids.embedding import load_encoder, resolve_model
        from hf_genrec.semantic_ids.text import item_texts

        encoder = load_encoder(resolve_model(self.text_model))

        def make(items: pa.Table, advance: Advance) -> tuple[pa.Table, dict[str, int]]:
            texts = item_texts(items, list(self.text_columns))
            found = []
            for start in range(0, len(texts), AT_ONCE):
                some = texts[start : start + AT_ONCE]
                found.append(encoder.encode(some, batch_size=64, show_progress_bar=False, convert_to_numpy=True))
                advance(len(some))
            vectors = np.concatenate(found).astype(np.float32)
            # A text ends with a full stop, unless the id stands in for it.
            without = sum(map(str.__eq__, texts, items["item_id"].to_pylist()))
            table = pa.table({"item_id": items["item_id"], "embedding": _lists(vectors)})
            return table, {"items_without_text": without}

        return make


def item_rows(run: RunFolder) -> RowSource:
    """The items of a run's data, by their ids."""
    require_files(run.data)
    return RowSource(run.data / ITEMS_FILE, {"item_id": "id"})


def text_rows(path: Path, text_columns: Sequence[str] | None) -> RowSource:
    """
    The items of a Parquet file or folder with the columns that make their text, by default those of `tokenize`.

    Raises:
        ValueError: there is none of those columns.
    """
    from hf_genrec.semantic_ids.text import DEFAULT_COLUMNS

    columns = RowSource(path, {}).columns()
    names = list(text_columns or [name for name in DEFAULT_COLUMNS if name in columns])
    if not names:
        raise ValueError(
            f"{path} has no column {' or '.join(DEFAULT_COLUMNS)}: name the columns with text, of {', '.join(columns)}"
        )
    return RowSource(path, {"item_id": "id", **dict.fromkeys(names, "text")})


def _check_unknown(unknown: str) -> None:
    if unknown not in ("raise", "skip"):
        raise ValueError(f"unknown={unknown!r}: use raise or skip")


def _by_length(histories: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Places of histories, some at a time, those of about one length together: little of a batch is padding."""
    order = np.argsort([len(history) for history in histories], kind="stable")
    yield from np.split(order, range(AT_ONCE, len(order), AT_ONCE))


def _lists(vectors: np.ndarray) -> pa.Array:
    """(n, d) float32 as a column of lists."""
    ends = np.arange(len(vectors) + 1) * vectors.shape[1]
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"a part of {len(vectors)} vectors of {vectors.shape[1]} numbers is too large: lower part_size"
        )
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    )
