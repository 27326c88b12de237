"""What each stage of a run was made from: written where it is made, checked where the next stage reads it.

`data/prepare.json` has a fingerprint of the prepared data, of the files they were read from, and the settings;
`semantic_ids/semantic_ids.json` that of the codes, the data's and the settings; a checkpoint and the exported model
have a `lineage.json` of their own. Settings are compared as far as a configuration or command line names them.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_genrec.catalogue.json_files import read_json
from hf_genrec.data.arguments import NOT_DECIDING, DataArguments
from hf_genrec.data.prepared import PreparedData, read_report
from hf_genrec.files import source_fingerprint, spelled_out, weights_fingerprint, write_json
from hf_genrec.hub import model_fingerprint
from hf_genrec.method import load_method, recommender_folder
from hf_genrec.semantic_ids.ids import TABLE_FILE, read_table
from hf_genrec.training.config import RunConfig

logger = logging.getLogger(__name__)

LINEAGE_FILE = "lineage.json"
NAMES = {
    "data": "the prepared data",
    "semantic_ids": "the semantic IDs",
    "item_tokenizer": "the item tokenizer",
    "pretrained": "the model to start from",
    "soft_targets": "the recommender of soft_targets_run",
}
PATHS = ("source_path", "item_path")
TEXT = ("text_model", "text_columns", "embeddings_path")  # of TokenizerArguments, what makes a text's vector
NOT_PREPARED = (
    *PATHS,
    *NOT_DECIDING,
    "max_history",
    "codes_path",
)  # of DataArguments, what `prepare` does not read or is compared apart
# Of the arguments of a training, what says where it runs and how it is shown.
ELSEWHERE = {"output_dir", "run_name", "resume_from_checkpoint", "logging_dir", "disable_tqdm", "report_to", "project"}
ELSEWHERE |= {"eval_on_start", "trackio_space_id", "pretrained", "use_cpu", "local_rank", "log_level", "method"}
ELSEWHERE |= {"teachers_dir"}


def read_from(arguments: DataArguments) -> dict[str, dict[str, str]]:
    """The files behind `source_path` and `item_path`: their absolute paths, and what they are known by."""
    found = {}
    for name in PATHS:
        path = Path(getattr(arguments, name) or "").absolute()
        if getattr(arguments, name) is not None and path.exists():
            found[name] = {"path": str(path), "fingerprint": source_fingerprint(path)}
    return found


def require_prepared(config: RunConfig) -> str:
    """
    The fingerprint of a run's prepared data.

    Raises:
        FileNotFoundError, ValueError: as [`read_report`]; or they were prepared with other settings or from other files
            than `config` names.
    """
    folder = config.run.data
    report = read_report(folder)
    prepared = report.get("settings", {})
    _require_settings(asdict(config.data), prepared, config, NOT_PREPARED, f"{folder} was prepared", "prepare")
    for name, source in report.get("sources", {}).items():
        given, path = getattr(config.data, name), Path(source["path"])
        if name in config.given and given is not None:
            path = Path(given).absolute()
        if not path.exists() or source_fingerprint(path) == source["fingerprint"]:
            continue
        if str(path) != source["path"]:
            raise ValueError(
                f"{folder} was not prepared from {name}: {given}: run `hf-genrec prepare` again, or name "
                f"{source['path']} here, too"
            )
        logger.warning("%s has changed since %s was prepared: what is new is not in there", path, folder)
    return report["fingerprint"]


def tokenized_from(config: RunConfig, data: str) -> dict[str, Any]:
    """
    What the report of semantic IDs says of where they come from.

    Args:
        data: what [`require_prepared`] returned.
    """
    if config.data.codes_path is not None:
        return {"data": data, "settings": {"codes_path": config.data.codes_path}}
    return {"data": data, "settings": asdict(config.tokenizer)}


def require_tokenized(config: RunConfig, data: str) -> dict[str, str | None]:
    """
    The fingerprints of a run's semantic IDs and of the item tokenizer that made them.

    Raises:
        FileNotFoundError, ValueError: as [`read_table`]; or they were made of other data, with other settings or by
            another item tokenizer than those that are there.
    """
    folder = config.run.semantic_ids
    table = read_table(folder)
    made_from = table["report"].get("made_from", {})
    if made_from.get("data") != data:
        raise ValueError(
            f"{folder} was made of other data than {config.run.data} holds: run `hf-genrec tokenize` again"
        )
    codes_path = made_from.get("settings", {}).get("codes_path")
    if "codes_path" in config.given or codes_path is not None:
        if codes_path != config.data.codes_path:
            given = config.data.codes_path
            raise ValueError(
                f"{folder} was made with codes_path: {codes_path}, not {given}: run `hf-genrec tokenize` again"
            )
    else:
        settings = made_from.get("settings", {})
        _require_settings(asdict(config.tokenizer), settings, config, (), f"{folder} was made", "tokenize")
    return {"semantic_ids": table["fingerprint"], "item_tokenizer": require_own_tokenizer(folder, table)}


def require_recommender(run_folder: str, data: str) -> str | None:
    """
    The fingerprint of the recommender that a training takes soft targets from.

    Args:
        data: what [`require_prepared`] returned for the training.

    Raises:
        ValueError: if there is none, or it was trained on other data: it might know what is held out here.
    """
    folder = recommender_folder(run_folder, "soft_targets_run")
    require_trained_on(folder, data, "train the run that soft_targets_run names on the same data")
    return model_fingerprint(folder)


def require_own_tokenizer(folder: Path, table: Mapping[str, Any]) -> str | None:
    """
    The fingerprint of the item tokenizer that made the semantic IDs in a folder; `None` where none did.

    Args:
        table: what [`read_table`] says of the folder.

    Raises:
        ValueError: if another one lies beside them.
    """
    made_from = table["report"].get("made_from", {})
    tokenizer = weights_fingerprint(folder / "item_tokenizer")
    if tokenizer != made_from.get("item_tokenizer"):
        raise ValueError(
            f"{folder / 'item_tokenizer'} did not make the codes in {TABLE_FILE}: run `hf-genrec tokenize` again"
        )
    return tokenizer


def _require_settings(
    wanted: Mapping[str, Any], found: Mapping[str, Any], config: RunConfig, left_out: tuple, was: str, command: str
) -> None:
    for name in sorted((config.given & wanted.keys()) - set(left_out)):
        if _plain(wanted[name]) != found.get(name):
            raise ValueError(
                f"{was} with {name}: {found.get(name)}, the configuration says {wanted[name]}: run `hf-genrec "
                f"{command}` again, or give the option here, too"
            )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def lineage_of(config: RunConfig) -> dict[str, Any]:
    """
    What a training is made from, and its settings, for its checkpoints and its model.

    Raises:
        FileNotFoundError, ValueError: as [`require_prepared`], [`require_tokenized`] and [`require_recommender`].
    """
    made_from: dict[str, str | None] = {"data": require_prepared(config)}
    method = load_method(config.model.method)
    if method.codes is not None:
        made_from |= require_tokenized(config, str(made_from["data"]))
    if config.training.soft_targets_run is not None:
        made_from["soft_targets"] = require_recommender(config.training.soft_targets_run, str(made_from["data"]))
    settings = asdict(config.model) | {"max_history": config.data.max_history}
    if method.reads_text(config.model):
        settings |= {name: getattr(config.tokenizer, name) for name in TEXT}
    model = spelled_out(settings)
    return {"made_from": made_from, "model": model, "training": training_settings(config.training)}


def training_settings(arguments: Any) -> dict[str, Any]:
    """What of a training's arguments decides how it goes."""
    return spelled_out({name: value for name, value in arguments.to_dict().items() if name not in ELSEWHERE})


def write_lineage(folder: Path, lineage: Mapping[str, Any]) -> None:
    """Write into a checkpoint or model what it was made from."""
    write_json(lineage, folder / LINEAGE_FILE)


def read_lineage(folder: Path) -> dict[str, Any] | None:
    """The `lineage.json` of a checkpoint or model; `None` where there is none or it is damaged."""
    try:
        lineage = read_json(folder / LINEAGE_FILE)
    except (OSError, ValueError):
        return None
    parts = (lineage.get("made_from"), lineage.get("model", {}), lineage.get("training", {}))
    return lineage if all(isinstance(part, dict) for part in parts) else None


def require_same_lineage(checkpoint: Path, lineage: Mapping[str, Any]) -> None:
    """
    Before a training goes on from a checkpoint.

    Raises:
        ValueError: if the checkpoint was made from something else than `lineage`, or of another model. Other changed
            settings are logged.
    """
    found = read_lineage(checkpoint)
    remedy = f"delete {checkpoint.parent} and train anew"
    if found is None:
        raise ValueError(f"{checkpoint} does not say what it was made from (no {LINEAGE_FILE}): {remedy}")
    was, now = trained_by(found), trained_by(lineage)
    if was != now:
        raise ValueError(f"{checkpoint} is of {was}, and this is {now}: use another output_dir, or {remedy}")
    for name, wanted in lineage["made_from"].items():
        if found["made_from"].get(name) != wanted:
            raise ValueError(f"{checkpoint} was trained on another state of {NAMES[name]} than is there now: {remedy}")
    changed = _changes(found.get("model", {}), lineage["model"])
    if changed:
        raise ValueError(
            f"{checkpoint} is of a model with other settings ({', '.join(changed)}): set them back, or {remedy}"
        )
    changed = changed_settings(checkpoint, lineage)
    if changed:
        logger.warning(
            "resumed with other settings than those of %s: %s (optimizer and schedule go on as they were saved)",
            checkpoint,
            ", ".join(changed),
        )


def changed_settings(checkpoint: Path, lineage: Mapping[str, Any]) -> list[str]:
    """Settings of a training that are other ones than those its checkpoint was made with."""
    return _changes((read_lineage(checkpoint) or {}).get("training", {}), lineage["training"])


def trained_by(lineage: Mapping[str, Any]) -> str:
    """What kind of training a checkpoint is of: one of a method, or post-training."""
    method = lineage.get("model", {}).get("method")
    return "post-training" if method is None else f"a training of method: {method}"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    now = _plain(now)
    return [f"{name} {now[name]}, was {before.get(name)}" for name in now if now[name] != before.get(name)]


def require_model_of(model_folder: Path, prepared: PreparedData, item_ids: list[str], remedy: str) -> dict[str, Any]:
    """
    What an exported model was made from, if these are the data it was trained on.

    Args:
        item_ids: those of the model.
        remedy: what to do otherwise.

    Raises:
        ValueError: for another catalogue, other data, or a model that does not say what it was made from.
    """
    prepared.require_catalogue(item_ids, f"the items of {model_folder}", remedy)
    return require_trained_on(model_folder, prepared.fingerprint, remedy)


def require_trained_on(model_folder: Path, data: str, remedy: str) -> dict[str, Any]:
    """
    What the model in a folder was made from, if it was trained on the data of this fingerprint.

    Raises:
        ValueError: for other data, or a model that does not say what it was made from.
    """
    lineage = read_lineage(model_folder)
    if lineage is None:
        raise ValueError(f"{model_folder} does not say what it was trained on (no {LINEAGE_FILE}): {remedy}")
    if lineage["made_from"].get("data") != data:
        raise ValueError(
            f"{model_folder} was trained on other data (another log, filter or split) than those prepared now: {remedy}"
        )
    return lineage


def require_codes_of(model_folder: Path, semantic_ids: Path, made_from: Mapping[str, Any], remedy: str) -> None:
    """
    Raises:
        ValueError: if semantic IDs lie in a folder that are not those of the model.
    """
    if semantic_ids.is_dir() and read_table(semantic_ids)["fingerprint"] != made_from.get("semantic_ids"):
        raise ValueError(f"{semantic_ids} was made anew since {model_folder} was trained: {remedy}")
