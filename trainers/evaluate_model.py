"""Evaluate a model, a stranger's too, on data that were prepared elsewhere; a table, and JSON where it is asked for.

hf-genrec evaluate my-org/my-model --data runs/mine
hf-genrec evaluate my-org/my-model --data my-org/my-log --output figures.json
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_genrec.catalogue.saved_files import hub_place, read_json, saved_file
from hf_genrec.data.prepared import REPORT_FILE, PreparedData
from hf_genrec.evaluation.evaluator import EvaluationResult
from hf_genrec.files import write_json
from hf_genrec.method import model_place, open_model
from hf_genrec.trainers.evaluate_run import measure
from hf_genrec.training.lineage import LINEAGE_FILE

logger = logging.getLogger(__name__)


def main(
    model: str,
    data: str,
    split: str = "test",
    exclude_seen: bool | None = None,
    num_beams: int | None = None,
    output: str | None = None,
    revision: str | None = None,
    max_users: int | None = None,
) -> dict[str, EvaluationResult]:
    """
    Evaluate, and write one record per system where `output` says.

    Args:
        model: a run folder, a saved model, or a repository on the Hub; opened by the library's own classes.
        data: a run folder, its `data/`, or a data set on the Hub that `push-data` has made.
        exclude_seen: leave out the items of the history; by default what the model's `recommend` does.
        revision: of the model's repository.
        max_users: evaluate a random sample of so many users; by default all.

    Raises:
        ValueError: if the two have no item in common.
        OSError: if there is nothing of such a name.
    """
    prepared = PreparedData.load(prepared_folder(data))
    place = {} if revision is None else {"revision": revision}
    opened = open_model(model, **place)
    aligned, differences = in_rows_of(opened.processor.item_ids, prepared, split, model, data)
    folder = model_place(model)
    made_from = (_beside(folder, LINEAGE_FILE, place) or {}).get("made_from")
    same_data = made_from.get("data") == prepared.fingerprint if isinstance(made_from, dict) else None
    if not same_data:
        logger.warning(
            "%s %s: if its training saw what is tested here, its figures are too good",
            model,
            "does not say what it was trained on" if same_data is None else "was trained on other data",
        )
    seed = (_beside(folder, "training_args.json", place) or {}).get("seed")
    exclude_seen = opened.processor.exclude_seen if exclude_seen is None else exclude_seen
    results, records = measure(opened, model, aligned, seed, split, exclude_seen, num_beams, max_users=max_users)
    records[next(iter(records))] |= {"model": model, "revision": revision, "trained_on_these_data": same_data}
    for record in records.values():
        record["catalogue"] = differences
    if output is not None:
        write_json(records, output)
        logger.info("all figures in %s", output)
    return results


def prepared_folder(data: str) -> Path:
    """
    Where prepared data lie: of a run folder or data folder, or of a data set on the Hub, which is downloaded.

    Raises:
        OSError: if there are none.
    """
    for folder in (Path(data), Path(data) / "data", Path(data) / "prepared"):
        if (folder / REPORT_FILE).is_file():
            return folder
    if Path(data).exists():
        raise FileNotFoundError(f"{data} holds no prepared data ({REPORT_FILE}): run `hf-genrec prepare` first")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(data, repo_type="dataset", allow_patterns="prepared/*")) / "prepared"
    except Exception as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{data} is no folder, and no data set on the Hub that can be read ({reason})") from error
    if not (folder / REPORT_FILE).is_file():
        raise FileNotFoundError(f"{data} holds no prepared data: name a data set that `hf-genrec push-data` has made")
    return folder


def in_rows_of(
    item_ids: list[str], prepared: PreparedData, split: str, model: str = "the model", data: str = "the data"
) -> tuple[PreparedData, dict[str, Any]]:
    """
    The same data in a model's catalogue rows; items that the model does not know have rows behind its own.

    Args:
        item_ids: the model's catalogue.
        model, data: what they are called in messages.

    Returns:
        the data, and how the catalogues differ: items of either that the other has not, and what of the split it
        touches.

    Raises:
        ValueError: if there is no item in common.
    """
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    unknown = [item_id for item_id in prepared.item_ids if item_id not in row_of]
    if len(unknown) == len(prepared.item_ids):
        raise ValueError(
            f"{model} knows none of the {len(unknown)} items of {data} (items are named {unknown[0]!r} here and "
            f"{item_ids[0]!r} there): evaluate it on data with the same ids"
        )
    row_of |= {item_id: len(item_ids) + place for place, item_id in enumerate(unknown)}
    rows = np.array([row_of[item_id] for item_id in prepared.item_ids], dtype=np.int64)
    all_ids = [*item_ids, *unknown]
    aligned = replace(
        prepared,
        item_ids=all_ids,
        items=pa.table({"item_id": all_ids}),
        sequences=[rows[sequence] for sequence in prepared.sequences],
    )
    targets = aligned.split(split)  # type: ignore[arg-type]
    num_known = len(item_ids)
    differences = {
        "items_of_the_model": num_known,
        "items_of_the_data": len(prepared.item_ids),
        "items_unknown_to_the_model": len(unknown),
        "items_not_in_the_data": num_known + len(unknown) - len(prepared.item_ids),
        "histories_shortened": sum(bool((history >= num_known).any()) for history in targets.histories),
        "targets": sum(map(len, targets.targets)),
        "targets_unknown_to_the_model": sum(int((target >= num_known).sum()) for target in targets.targets),
    }
    if differences["items_unknown_to_the_model"] or differences["items_not_in_the_data"]:
        example = f" (for instance {unknown[0]!r})" if unknown else ""
        logger.warning(
            "the catalogues differ: %s does not know %d of the %d items of %s%s, which are left out of %d histories, "
            "and %d of %d targets are among them and count as missed; %d of its %d items are not in the data and stay "
            "in its lists",
            model,
            len(unknown),
            len(prepared.item_ids),
            data,
            example,
            differences["histories_shortened"],
            differences["targets_unknown_to_the_model"],
            differences["targets"],
            differences["items_not_in_the_data"],
            num_known,
        )
    return aligned, differences


def _beside(folder: str | Path, name: str, place: dict[str, Any]) -> dict[str, Any] | None:
    """A JSON file of a saved model, in a folder or on the Hub; `None` where there is none."""
    path = saved_file(str(folder), name, required=False, **hub_place(place))
    return None if path is None else read_json(path)
