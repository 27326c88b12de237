"""What to read, what to keep of it, and how to split it."""

from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any, Literal, get_args

from hf_genrec.data.times import TimeUnit, datetime_to_ms, parse_time

Source = Literal["movielens", "sequence_files", "tabular", "amazon_reviews", "yelp", "steam", "microlens", "care_csv"]
Split = Literal["leave_one_out", "global_time", "given"]
TieOrder = Literal["file", "shuffle"]
Engine = Literal["duckdb", "spark"]
NOT_DECIDING = ("engine", "master")  # fields that say where the work is done


@dataclass
class DataArguments:
    """Settings of `prepare`: the source, the filters, the split and the order of ties.

    Groups: source and paths; filters (rating, repeats, then k-core); split; order of simultaneous interactions; columns
    of a tabular source; published semantic IDs.

    Raises:
        ValueError: a value that cannot be used, with what to write instead.
    """

    source: Source = field(
        default="movielens", metadata={"help": f"where the data come from: one of {', '.join(get_args(Source))}"}
    )
    source_path: str | None = field(
        default=None,
        metadata={"help": "folder or file of the source; movielens without one downloads MovieLens 100K"},
    )
    item_path: str | None = field(
        default=None, metadata={"help": "file of the items, where it is not part of source_path"}
    )
    min_rating: float | None = field(
        default=None, metadata={"help": "keep only interactions rated at least this; null keeps all"}
    )
    drop_repeats: bool = field(
        default=False,
        metadata={
            "help": "keep only the first interaction of a user with an item (behind min_rating, before the cores)"
        },
    )
    user_core: int = field(default=0, metadata={"help": "k-core: interactions every user must have (0: no limit)"})
    item_core: int = field(default=0, metadata={"help": "k-core: interactions every item must have (0: no limit)"})
    split: Split = field(
        default="leave_one_out",
        metadata={
            "help": "leave_one_out (last item test, the one before validation), global_time, or given (that of the "
            "files, which care_csv has)"
        },
    )
    validation_time: int | str | None = field(
        default=None,
        metadata={"help": "global_time: validation starts here (ISO date or milliseconds UTC, inclusive)"},
    )
    test_time: int | str | None = field(
        default=None, metadata={"help": "global_time: test starts here (ISO date or milliseconds UTC, inclusive)"}
    )
    start_time: int | str | None = field(
        default=None,
        metadata={"help": "interactions before this are left out, before any other filter (ISO date or milliseconds)"},
    )
    end_time: int | str | None = field(
        default=None,
        metadata={"help": "interactions from here on are left out, before any other filter (ISO date or milliseconds)"},
    )
    tie_order: TieOrder = field(
        default="file",
        metadata={"help": "order of a user's simultaneous interactions: file, or shuffle with tie_seed"},
    )
    tie_seed: int = field(default=0, metadata={"help": "seed of tie_order: shuffle"})
    max_history: int = field(default=50, metadata={"help": "newest items of a history that a model reads"})
    user_column: str = field(default="user_id", metadata={"help": "tabular: column of the user ids"})
    item_column: str = field(default="item_id", metadata={"help": "tabular: column of the item ids, in both files"})
    time_column: str | None = field(
        default="timestamp", metadata={"help": "tabular: column of the times; null: the order of the file"}
    )
    rating_column: str | None = field(default=None, metadata={"help": "tabular: column of the ratings"})
    time_unit: TimeUnit = field(
        default="s", metadata={"help": "tabular: s, ms (since 1970) or iso (8601 text); Parquet timestamps need none"}
    )
    title_column: str | None = field(
        default=None, metadata={"help": "tabular: column of the titles; null takes a column of the name title"}
    )
    description_column: str | None = field(
        default=None, metadata={"help": "tabular: column of the descriptions; null takes the column description"}
    )
    categories_column: str | None = field(
        default=None, metadata={"help": "tabular: column of the categories; null takes the column categories"}
    )
    image_column: str | None = field(
        default=None,
        metadata={
            "help": "tabular: column of the items' pictures: paths of files, or in Parquet also bytes, as "
            "datasets.Image writes them"
        },
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "tabular: folder that paths in image_column start from; null is that of item_path"},
    )
    codes_path: str | None = field(
        default=None, metadata={"help": "published semantic IDs to import instead of making own"}
    )

    engine: Engine = field(
        default="duckdb",
        metadata={"help": "what prepares: duckdb, or spark for a log that outgrows one machine (extra `spark`, Java)"},
    )
    master: str | None = field(
        default=None, metadata={"help": "engine: spark: URL of its master; null: all cores of this machine"}
    )

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what comes out."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_DECIDING}

    def __post_init__(self) -> None:
        choices = {
            "source": Source,
            "split": Split,
            "tie_order": TieOrder,
            "time_unit": TimeUnit,
            "engine": Engine,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(allowed))}")
        for name, smallest in {"user_core": 0, "item_core": 0, "max_history": 1, "tie_seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < smallest:
                raise ValueError(f"{name}: {value!r} must be a whole number, {smallest} or more")
        if not isinstance(self.drop_repeats, bool):
            raise ValueError(f"drop_repeats: {self.drop_repeats!r} is not true or false")
        if self.source != "movielens" and self.source_path is None:
            raise ValueError(f"source_path is missing: source {self.source} needs the file or folder to read")
        if self.source == "movielens" and self.item_path is not None:
            raise ValueError("item_path is not used by source movielens: its items are part of source_path")
        if self.master is not None and self.engine != "spark":
            raise ValueError("master needs engine: spark")
        if self.engine == "spark" and self.source != "tabular":
            raise ValueError(f"engine: spark reads source: tabular (Parquet, CSV, TSV), not {self.source}")
        atomic = str(self.source_path).lower().removesuffix(".gz").endswith(".inter")  # which has a name for ratings
        if self.source == "tabular" and self.min_rating is not None and self.rating_column is None and not atomic:
            raise ValueError("min_rating needs rating_column: name the column of the ratings")
        if self.image_column is not None and (self.source != "tabular" or self.item_path is None):
            raise ValueError("image_column needs source: tabular and item_path, the file of the items")
        if self.image_folder is not None and self.image_column is None:
            raise ValueError("image_folder needs image_column: name the column of the paths")
        self._check_split()

    def _check_split(self) -> None:
        self.start_time, self.end_time = _time_text(self.start_time), _time_text(self.end_time)
        if None not in (self.start_ms, self.end_ms) and self.start_ms >= self.end_ms:  # type: ignore[operator]
            raise ValueError(f"start_time {self.start_time} must be before end_time {self.end_time}")
        if self.split == "given" and (self.source != "care_csv" or self.tie_order != "file"):
            raise ValueError("split: given needs source: care_csv, whose files are the split, and tie_order: file")
        if self.split != "global_time":
            if self.validation_time is not None or self.test_time is not None:
                raise ValueError("validation_time and test_time need split: global_time")
            return
        # of a configuration 1420070400000 is an integer, of a caller anything a time
        self.validation_time = _time_text(self.validation_time)
        self.test_time = _time_text(self.test_time)
        if self.validation_ms >= self.test_ms:
            raise ValueError(f"validation_time {self.validation_time} must be before test_time {self.test_time}")
        if self.start_ms is not None and self.start_ms >= self.validation_ms:
            raise ValueError(f"start_time {self.start_time} must be before validation_time {self.validation_time}")
        if self.end_ms is not None and self.test_ms >= self.end_ms:
            raise ValueError(f"test_time {self.test_time} must be before end_time {self.end_time}")

    @property
    def validation_ms(self) -> int:
        """`validation_time` in milliseconds UTC (split global_time)."""
        return _setting_to_ms("validation_time", self.validation_time)

    @property
    def test_ms(self) -> int:
        """`test_time` in milliseconds UTC (split global_time)."""
        return _setting_to_ms("test_time", self.test_time)

    @property
    def start_ms(self) -> int | None:
        """`start_time` in milliseconds UTC, `None` where nothing is left out."""
        return None if self.start_time is None else _setting_to_ms("start_time", self.start_time)

    @property
    def end_ms(self) -> int | None:
        """`end_time` in milliseconds UTC, `None` where nothing is left out."""
        return None if self.end_time is None else _setting_to_ms("end_time", self.end_time)


def _time_text(value: object) -> str | None:
    if isinstance(value, datetime):
        return str(datetime_to_ms(value))
    if isinstance(value, date):
        return value.isoformat()
    return None if value is None else str(value)


def _setting_to_ms(name: str, value: int | str | None) -> int:
    if value is None:
        raise ValueError(f"{name} is missing: split global_time needs an ISO date or milliseconds")
    value = str(value)
    try:
        return parse_time(value, "ms" if value.lstrip("-").isdigit() else "iso")
    except ValueError:
        raise ValueError(f"{name}: {value!r} is neither an ISO date such as 2015-01-31 nor milliseconds") from None
