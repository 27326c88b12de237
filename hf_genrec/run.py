"""A run folder in Python: its data, its model, its figures, and lists of recommended items as DataFrames."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hf_genrec.catalogue.json_files import read_json
from hf_genrec.catalogue.recommendation_frame import load_pandas, recommendation_frame
from hf_genrec.catalogue.request_checks import as_batch, checked_choice, listed, shown
from hf_genrec.cells import as_id
from hf_genrec.data.prepared import PreparedData
from hf_genrec.data.tables import holds_numbers
from hf_genrec.files import source_fingerprint
from hf_genrec.method import load_model
from hf_genrec.training.run_folder import RunFolder

SOURCE = "source"  # where `hf_genrec.fit` lays the tables it was given
INTERACTIONS_FILE = "interactions.parquet"
ITEMS_FILE = "items.parquet"


class Run:
    """
    A trained run, by `hf_genrec.fit` or by the commands.

    Ids are text in this library. Where the log was a table whose ids are whole numbers, numbers may be given here, too,
    and DataFrames have them again. `(item_ids, scores)` always hold text.

    Args:
        folder: the run folder.

    Raises:
        FileNotFoundError: if it holds no trained model.

    Attributes:
        folder (`Path`), data ([`PreparedData`]), model: each read when it is first asked for.

    Example:

    ```python
    >>> run = hf_genrec.Run("runs/mine")
    >>> run.recommend(["ann", "bob"], k=10, as_frame=True)
    ```
    """

    def __init__(self, folder: str | Path):
        self._parts = RunFolder(Path(folder))
        self._parts.require_model()
        self.folder = self._parts.path

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def model(self) -> Any:
        """The trained model with its processor."""
        return load_model(self._parts.model)

    @cached_property
    def data(self) -> PreparedData:
        """What the model was trained and is evaluated on."""
        return PreparedData.load(self._parts.data)

    @property
    def figures(self) -> dict[str, Any]:
        """
        What `results/` holds, by file name: `training`, and what was evaluated, `test` for instance.

        Raises:
            ValueError: a file is damaged.
        """
        files = sorted(self._parts.results.glob("*.json"))
        return {path.stem: read_json(path, remedy="train or evaluate again, or delete it") for path in files}

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        histories: Any = None,
        exclude_seen: bool | None = None,
        candidates: Any = None,
        as_frame: bool = False,
        **search: Any,
    ):
        """
        The k items most likely to come next for users of the data, whose whole sequences are their histories, or for
        histories of anybody.

        Args:
            users: a user of the data or a list of them; by default, without `histories`, all of them.
            k: items per user.
            histories: instead of users: a history (item ids, oldest first), a list of them, or a mapping from names of
                users to histories.
            exclude_seen, candidates: see the model's `recommend`.
            as_frame: return a DataFrame.
            search: `unknown`, `batch_size` and other options of the model's `recommend`.

        Returns:
            `(item_ids, scores)`, best first; lists of lists unless one user or one history was given. With `as_frame` a
            pandas DataFrame with a row per item and the columns `user` (its id or name; of a history without one its
            place, from 0), `item`, `rank` (from 1), `score` and `title`.

        Raises:
            ValueError: for an unknown user, users and histories at once, or what the model's `recommend` refuses.
            ImportError: for `as_frame` without pandas.
        """
        checked_choice("as_frame", as_frame, (True, False))
        if users is not None and histories is not None:
            raise ValueError("give either users or histories")
        names: Sequence[Any]
        if isinstance(histories, Mapping):
            single, names = False, list(histories)
            batch = [self._ids(history, f"history of {shown(name)}") for name, history in histories.items()]
        elif histories is not None:
            entries, single = as_batch(histories)
            batch = [self._ids(history, f"history {place}") for place, history in enumerate(entries, start=1)]
            names = range(len(batch))
        else:
            single = users is not None and _is_one(users)
            texts = list(self._users) if users is None else self._ids([users] if single else users, "users")
            batch = [self._history(user) for user in texts]
            names = [self._whole(user) for user in texts] if self._numbers[0] else texts
        if candidates is not None:
            candidates = self._ids(candidates, "candidates", ordered=False)
        item_ids, scores = [], []
        if batch:
            options = {"k": k, "exclude_seen": exclude_seen, "candidates": candidates, **search}
            item_ids, scores = self.model.recommend(batch[0] if single else batch, **options)
        if not as_frame:
            return item_ids, scores
        lists = ([item_ids], [scores]) if single else (item_ids, scores)
        return self._frame("user", names, *lists)

    def similar_items(self, items: Any, k: int = 10, candidates: Any = None, as_frame: bool = False):
        """
        The k items most like an item, or like each item of a list: see the model's `similar_items`.

        Returns:
            `(item_ids, scores)`; with `as_frame` a pandas DataFrame with the columns `of` (the item asked for), `item`,
            `rank`, `score` and `title`.

        Raises:
            ValueError, ImportError: as [`recommend`].
        """
        checked_choice("as_frame", as_frame, (True, False))
        single = _is_one(items)
        asked = self._ids([items] if single else items, "items")
        if candidates is not None:
            candidates = self._ids(candidates, "candidates", ordered=False)
        item_ids, scores = self.model.similar_items(asked, k, candidates)
        if as_frame:
            return self._frame("of", [self._item(item) for item in asked], item_ids, scores)
        return (item_ids[0], scores[0]) if single else (item_ids, scores)

    def evaluate(self, split: str = "test", exclude_seen: bool | None = None, num_beams: int | None = None) -> Any:
        """
        What `hf-genrec evaluate` does: the model and the simple baselines on a split, written into `results/`.

        Args:
            exclude_seen: leave out the items of the history; by default what `recommend` does.

        Returns:
            a pandas DataFrame, a row per system and a column per metric; the results with intervals and cost are in
            [`figures`].

        Raises:
            ValueError, ImportError: as the command; or without pandas.
        """
        pandas = load_pandas()
        from hf_genrec.trainers.evaluate_run import main as program

        results = program(str(self.folder), split, exclude_seen, num_beams)
        frame = pandas.DataFrame({name: result.metrics for name, result in results.items()}).T
        frame.index.name = "system"
        return frame

    # ---- ids ----

    @cached_property
    def _users(self) -> dict[str, int]:
        return {user: place for place, user in enumerate(self.data.user_ids)}

    @cached_property
    def _numbers(self) -> tuple[bool, ...]:
        """Whether user ids and item ids were whole numbers in the log; only Parquet files and DataFrames tell."""
        settings = self.data.settings("source", "user_column", "item_column")
        source = self.data.report.get("sources", {}).get("source_path")
        if settings["source"] != "tabular" or source is None:
            return False, False
        for path in (self.folder / SOURCE / INTERACTIONS_FILE, Path(source["path"])):
            if path.suffix == ".parquet" and path.is_file() and source_fingerprint(path) == source["fingerprint"]:
                schema = pq.read_schema(path)
                return tuple(holds_numbers(schema, settings[name]) for name in ("user_column", "item_column"))
        return False, False

    def _history(self, user: str) -> list[str]:
        """A user's whole sequence."""
        if user not in self._users:
            known = ", ".join(list(self._users)[:3])
            raise ValueError(f"user {shown(user)} is not in {self._parts.data}, whose users are {known}, ...")
        return [self.data.item_ids[row] for row in self.data.sequences[self._users[user]]]

    @staticmethod
    def _ids(values: Any, where: str, ordered: bool = True) -> list[str]:
        """Ids as the library has them: whole numbers as text, text as it is."""
        ids = []
        for place, value in enumerate(listed(values, where, ordered), start=1):
            try:
                ids.append(as_id(value.item() if hasattr(value, "item") else value, where))
            except (ValueError, TypeError):  # the truth of pandas' NA is a TypeError
                raise ValueError(
                    f"{where}: {shown(value)} (position {place}, from 1) is no id: give text or a whole number"
                ) from None
        return ids

    def _item(self, item_id: str) -> Any:
        return self._whole(item_id) if self._numbers[1] else item_id

    @staticmethod
    def _whole(name: str) -> Any:
        """The number that an id was. A new item of the model may be called otherwise: its id stays text."""
        try:
            number = int(name)
        except ValueError:
            return name
        return number if str(number) == name else name

    def _frame(self, first: str, names: Sequence[Any], item_ids: list, scores: list) -> Any:
        frame = recommendation_frame(names, item_ids, scores, self.model.processor.title, first)
        if self._numbers[1]:
            frame["item"] = [self._whole(item) for item in frame["item"]]
        return frame


def _is_one(value: Any) -> bool:
    """A single id: text, or a number of Python or numpy."""
    return isinstance(value, str | bytes | int | float) or getattr(value, "ndim", None) == 0
