"""What prepare.json says of prepared data: its shape is checked where it is read."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hf_genrec.catalogue.json_files import naming, read_json
from hf_genrec.cells import shown
from hf_genrec.data.arguments import NOT_DECIDING, DataArguments
from hf_genrec.files import require_stored

REMEDY = "run prepare again"
# Not the fields' types, which parsers of arguments change.
SETTINGS = {name: kind for name, kind in get_type_hints(DataArguments).items() if name not in NOT_DECIDING}
SOURCES = ("source_path", "item_path")
COUNTS = ("interactions", "users", "items")
PARTS = {
    "read": COUNTS,
    "kept": COUNTS,
    "dropped": (),
    "order": (),
    "split": (
        "train_interactions",
        "validation_interactions",
        "test_interactions",
        "validation_users",
        "test_users",
        "train_only_users",
    ),
}


def read_prepare_report(path: Path) -> dict[str, Any]:
    """
    What a prepare.json says. Parts may be missing, see [`require_whole`]; those that are there are as `prepare` writes
    them.

    Raises:
        ValueError: the file is damaged, or of an earlier version of this library; names the key.
        OSError: there is no such file.
    """
    report = read_json(path, remedy=REMEDY)
    if not isinstance(report.get("fingerprint"), str):
        raise ValueError(f"{path} does not say what the data are known by: {REMEDY}")
    with naming(path, REMEDY):
        _check_settings(_part(report, "settings"))
        _check_sources(_part(report, "sources"))
        for name, keys in PARTS.items():
            if name in report:
                _check_counts(name, _part(report, name), keys)
        for name, counts in _part(report, "dropped").items():
            _check_counts(f"dropped.{name}", counts, COUNTS)
        order = _part(report, "order")
        if order and not all(isinstance(order.get(key), str) for key in ("by", "tie_order")):
            raise ValueError("order does not say by what (by, tie_order)")
    return report


def require_whole(report: dict[str, Any], path: Path) -> None:
    """
    Raises:
        ValueError: unless the report says how the data were prepared, from which files, and what is left of them.
    """
    settings, sources = report.get("settings", {}), report.get("sources", {})
    missing = [name for name in PARTS if name not in report]
    # Earlier versions did not write these; where they took something away, `dropped` tells.
    needed = SETTINGS.keys() - ({"start_time", "end_time"} - report.get("dropped", {}).keys())
    missing += [f"settings.{name}" for name in SETTINGS if name in needed - settings.keys()]
    missing += [f"sources.{name}" for name in SOURCES if settings.get(name) is not None and name not in sources]
    if missing:
        raise ValueError(f"{path} does not say {', '.join(missing)} of the prepared data: {REMEDY}")


def _part(report: dict[str, Any], name: str) -> dict[str, Any]:
    part = report.get(name, {})
    if not isinstance(part, dict):
        raise ValueError(f"{name} is {shown(part)}, no object")
    return part


def _check_settings(settings: dict[str, Any]) -> None:
    for name in settings.keys() & SETTINGS.keys():
        if not _fits(settings[name], SETTINGS[name]):
            raise ValueError(f"settings.{name} is {shown(settings[name])}, which cannot be")
        if name.endswith("_path") and settings[name] is not None:
            _check_path(f"settings.{name}", settings[name])


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    kinds = get_args(kind) or (kind,)
    return type(value) in kinds or (float in kinds and type(value) is int)


def _check_sources(sources: dict[str, Any]) -> None:
    for name, source in sources.items():
        if name not in SOURCES:
            raise ValueError(f"sources names {shown(name)}, expected {' and '.join(SOURCES)}")
        if not isinstance(source, dict) or not all(isinstance(source.get(key), str) for key in ("path", "fingerprint")):
            raise ValueError(f"sources.{name} does not say which files the data are from (path, fingerprint)")
        _check_path(f"sources.{name}.path", source["path"])


def _check_path(key: str, text: str) -> None:
    """A path may lead nowhere, on another machine for instance, but to nothing that is no file or folder."""
    try:
        if Path(text).exists():
            require_stored(Path(text))
    except PermissionError:
        return  # told where the file is needed
    except OSError as error:
        raise ValueError(f"{key} is {shown(text)}: {error.strerror or error}") from None


def _check_counts(name: str, counts: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(counts, dict):
        raise ValueError(f"{name} is {shown(counts)}, no object")
    for key in keys:
        if type(counts.get(key)) is not int or counts[key] < 0:
            raise ValueError(f"{name}.{key} is {shown(counts.get(key))}, no count")
