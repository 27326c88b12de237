"""The data of a run on the Hub: its source as Parquet, what was prepared of it, and a card."""

import json
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from hf_genrec.catalogue.json_files import naming
from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.prepare_report import REMEDY, require_whole
from hf_genrec.data.prepared import ITEMS_FILE, REPORT_FILE, SEQUENCES_FILE, PreparedData
from hf_genrec.dataset_scripts.licences import LICENCES
from hf_genrec.files import source_fingerprint, write_json
from hf_genrec.hub_upload import Destination, files_of, listing, upload
from hf_genrec.terminal import shown

PREPARED = "prepared"
# Configurations of `load_dataset`, by the file each one is.
CONFIGS = {
    "interactions": "interactions/train-00000-of-00001.parquet",
    "items": "items/train-00000-of-00001.parquet",
    "sequences": f"{PREPARED}/{SEQUENCES_FILE}",
}
ABOUT = {
    "interactions": "the log as it was read, nothing left out; times in milliseconds UTC",
    "items": "the items as they were read",
    "sequences": "a row per user: the items kept, oldest first, and how many of the last are targets",
}
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

CARD = """---
{metadata}
---

# {name}

Interactions of users with items, read from the source `{source}`{files} and prepared for sequential recommendation.

```python
from datasets import load_dataset

log = load_dataset({repo}, "interactions", split="train")
sequences = load_dataset({repo}, "sequences", split="train")
```

| configuration | rows | columns | what it is |
|---|---:|---|---|
{tables}

`{prepared}/` is what a model is evaluated on: `hf-genrec evaluate MODEL --data {plain}`.

## Filters and split

{rules}

| | interactions | users | items |
|---|---:|---:|---:|
{counts}

| split | targets | users |
|---|---:|---:|
{splits}

## Licence

{licence}
"""


def push_data(
    data: Path, to: Destination, licence: str | None = None, have_permission: bool = False, dry_run: bool = False
) -> str:
    """
    Upload what a run was prepared from, and what was prepared, in one commit.

    Args:
        data: a run's `data/`.
        licence: the Hub's name of the licence, such as `cc-by-4.0`, for the card.
        have_permission: that the owner of the source allows to pass it on, where its licence does not.
        dry_run: upload nothing.

    Returns:
        the address of the commit or of the pull request; for a dry run the files and their sizes.

    Raises:
        ValueError: if the licence of the source forbids it, the source has changed since it was prepared, or
            prepare.json does not say all of it.
        OSError: if a file is missing, or the Hub cannot be reached or refuses.
    """
    prepared = PreparedData.load(data)
    require_whole(prepared.report, data / REPORT_FILE)
    settings = prepared.report["settings"]
    known = LICENCES.get(settings["source"])
    if known is not None and not known.may_share and not have_permission:
        raise ValueError(
            f"{known.terms} ({known.link}): nothing was uploaded; with the owner's permission add --have-permission"
        )
    for name, source in prepared.report.get("sources", {}).items():
        if not Path(source["path"]).exists() or source_fingerprint(Path(source["path"])) != source["fingerprint"]:
            raise ValueError(
                f"{name}: {source['path']} is gone or has changed since {data} was prepared: run `hf-genrec prepare` "
                "again"
            )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tables = _write(folder, data, prepared, _source_tables(data, prepared))
        card = _card(to.repo_id, prepared, tables, licence)
        (folder / "README.md").write_text(card, encoding="utf-8")
        files = files_of(folder)
        return listing(files, to) if dry_run else upload(files, to, "Upload data with hf_genrec")


def _source_tables(data: Path, prepared: PreparedData) -> dict[str, Any]:
    from hf_genrec.dataset_scripts import load_source

    names = {entry.name for entry in fields(DataArguments)}
    settings = {name: value for name, value in prepared.report["settings"].items() if name in names}
    for name, source in prepared.report.get("sources", {}).items():
        settings[name] = source["path"]  # wherever this is called from
    with naming(data / REPORT_FILE, REMEDY):
        arguments = DataArguments(**settings)
    return load_source(arguments)


def _write(folder: Path, data: Path, prepared: PreparedData, sources: dict[str, Any]) -> dict[str, tuple[int, list]]:
    """The files of the data set without its card; rows and columns of each configuration."""
    from datasets.table import embed_table_storage

    for name, table in sources.items():
        (folder / CONFIGS[name]).parent.mkdir()
        if any(type(feature).__name__ == "Image" for feature in table.features.values()):
            table = table.with_format("arrow").map(embed_table_storage, batched=True, batch_size=256)
        table.to_parquet(folder / CONFIGS[name])
    (folder / PREPARED).mkdir()
    for name in (SEQUENCES_FILE, ITEMS_FILE):
        shutil.copyfile(data / name, folder / PREPARED / name)
    write_json(_without_places(prepared.report), folder / PREPARED / REPORT_FILE)
    tables = {name: (len(table), list(table.column_names)) for name, table in sources.items()}
    return tables | {"sequences": (len(prepared.user_ids), ["user_id", "item_ids", "num_validation", "num_test"])}


def _without_places(report: dict[str, Any]) -> dict[str, Any]:
    """The report of `prepare` with names of files instead of where they lie on this machine."""
    report = json.loads(json.dumps(report))
    settings = report["settings"]
    for name in ("source_path", "item_path", "codes_path", "image_folder"):
        if settings.get(name) is not None:
            settings[name] = Path(settings[name]).name
    for source in report.get("sources", {}).values():
        source["path"] = Path(source["path"]).name
    return report


def _card(repo_id: str, prepared: PreparedData, tables: dict[str, tuple[int, list]], licence: str | None) -> str:
    from huggingface_hub import DatasetCardData

    report = _without_places(prepared.report)
    settings, known = report["settings"], LICENCES.get(report["settings"]["source"])
    chosen: dict[str, Any] = {"license": licence or "unknown"}
    if known is not None and licence is None:
        chosen = {"license": "other", "license_name": known.name, "license_link": known.link}
    rows = tables["interactions"][0]
    metadata = DatasetCardData(
        **chosen,
        pretty_name=repo_id.split("/")[-1],
        tags=["recommendation", "interactions"],
        size_categories=next((size for limit, size in SIZES if rows < limit), "n>10M"),
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in CONFIGS.items()
        ],
    ).to_yaml()
    names = [shown(settings[key]) for key in ("source_path", "item_path") if settings.get(key)]
    dropped = {f"dropped by {name}": counts for name, counts in report["dropped"].items()}
    counts = {"read": report["read"], **dropped, "kept": report["kept"]}
    split = report["split"]
    return CARD.format(
        metadata=metadata,
        name=repo_id.split("/")[-1],
        source=settings["source"],
        files=f" ({', '.join(f'`{name}`' for name in names)})" if names else "",
        repo=json.dumps(repo_id),
        plain=repo_id,
        prepared=PREPARED,
        tables="\n".join(
            f"| `{name}` | {number:,} | {', '.join(f'`{shown(column)}`' for column in columns)} | {ABOUT[name]} |"
            for name, (number, columns) in tables.items()
        ),
        rules=_rules(settings, report["order"]),
        counts="\n".join(
            f"| {name} | " + " | ".join(f"{of[key]:,}" for key in ("interactions", "users", "items")) + " |"
            for name, of in counts.items()
        ),
        splits="\n".join(
            f"| {name} | {split[f'{name}_interactions']:,} | {split[f'{name}_users']:,} |"
            for name in ("validation", "test")
        )
        + f"\n| training only | {split['train_interactions']:,} interactions | {split['train_only_users']:,} |",
        licence=f"{known.terms} {known.link}" if known is not None else _unknown(licence),
    )


def _unknown(licence: str | None) -> str:
    if licence is None:
        return "Whoever uploaded this did not say what the licence of the source is."
    return f"Whoever uploaded this gives `{shown(licence)}` as the licence of the source."


def _rules(settings: dict[str, Any], order: dict[str, Any]) -> str:
    """Filters, order and split in words."""
    rules = []
    if settings["min_rating"] is not None:
        rules.append(f"Only interactions rated at least {settings['min_rating']} are kept.")
    if settings["drop_repeats"]:
        rules.append("Of a user's interactions with one item the first is kept.")
    if settings["user_core"] or settings["item_core"]:
        rules.append(
            f"Every user has at least {settings['user_core']} interactions and every item {settings['item_core']}, "
            "again and again until both hold."
        )
    ties = "in the order of the source" if order["tie_order"] == "file" else f"shuffled, seed {settings['tie_seed']}"
    by = f"by time, those of one moment {ties}" if order["by"] == "timestamp" else "as in the source"
    rules.append(f"A user's interactions are ordered {by}.")
    if settings["split"] == "leave_one_out":
        rules.append(
            "A user's last item is the test target and the one before it the validation target (leave one out); users "
            "with fewer than 3 interactions are for training only."
        )
    else:
        rules.append(
            f"Interactions from {settings['test_time']} on are test targets, those from {settings['validation_time']} "
            "until then validation targets."
        )
    return "\n".join(f"- {rule}" for rule in rules)
