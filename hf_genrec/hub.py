"""What leaves this machine: the exported folder, its model card, the check that a stranger can load it, the push."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_genrec.catalogue.json_files import DamagedFile, naming, number, read_json
from hf_genrec.catalogue.saved_files import load_tensors
from hf_genrec.files import fingerprint, whole_file
from hf_genrec.hub_upload import Destination, files_of, listing, upload
from hf_genrec.method import auto_class, load_method, method_of, read_config
from hf_genrec.terminal import in_table, shown

logger = logging.getLogger(__name__)

# Of what an export writes, and of what people lay beside it to be read; code is named by the configuration.
PUSHED = {".json", ".safetensors", ".md", ".txt", ".parquet", ".png", ".jinja", "LICENSE", "NOTICE"}
# Of config.json, what says where the code is and not what the model does.
NOT_OF_MODEL = {"transformers_version", "auto_map", "custom_pipelines"}
RESULT_KEYS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20")
HANDLER = "handler.py"
CHECKPOINT_FILES = {"trainer_state.json", "optimizer.safetensors"}

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = """---
{metadata}
---

# {name}

{about}

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained({quoted}, trust_remote_code=True)
item_ids, scores = model.recommend({example}, k=10)
[model.processor.title(item_id) for item_id in item_ids]
```

{results}
## Model

| | |
|---|---|
{facts}

Trained with hf_genrec. The recommendations repeat what the training interactions hold, popularity included; the figures
above say by how much.
"""


def save_model(model: "PreTrainedModel", folder: Path, item_tokenizer: Path | None) -> None:
    """A model with its processor and code in a folder, and its item tokenizer in a folder below."""
    model.save_pretrained(folder)
    if item_tokenizer is not None and item_tokenizer.is_dir():
        from hf_genrec.item_tokenizers import load_item_tokenizer  # needs torch, and most of this file does not

        # Saved anew: its code may be of an earlier version, and both read what they share in one folder.
        load_item_tokenizer(item_tokenizer).save_pretrained(folder / "item_tokenizer")
        # With `subfolder="item_tokenizer"` the Auto classes read its configuration there and its code here.
        for code in (folder / "item_tokenizer").glob("*.py"):
            shutil.copy(code, folder)


def model_fingerprint(folder: Path) -> str:
    """What an exported model is known by: its weights and its configuration, whatever version saved it."""
    config = read_config(folder)
    of_model = {name: config[name] for name in sorted(config) if name not in NOT_OF_MODEL}
    of_members = [model_fingerprint(member).encode() for member in member_folders(folder)]
    return fingerprint([json.dumps(of_model).encode(), *sorted(folder.glob("*.safetensors")), *of_members])


def member_folders(folder: Path) -> list[Path]:
    """
    The folders of the saved models that a saved model is made of, if it is made of any.

    Raises:
        ValueError: if its configuration names something else.
    """
    names = read_config(folder).get("members", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names):
        raise ValueError(f"{folder / 'config.json'} is damaged (members are no names of folders): save it again")
    return [folder / name for name in names]


def write_model_card(model_folder: Path, results_folder: Path) -> None:
    """`README.md` of an exported model, from its configuration and the figures measured so far."""
    config = read_config(model_folder)
    with naming(model_folder / "catalogue.json"):
        item_ids = read_json(model_folder / "catalogue.json")["item_ids"]
    card = load_method(method_of(model_folder)).card(config, len(item_ids))
    named = {"layers": "num_hidden_layers", "hidden size": "hidden_size", "newest history items read": "max_history"}
    facts: dict[str, Any] = {name: config[key] for name, key in named.items() if key in config} | card.facts
    facts |= _of_results(results_folder / "training.json", _training_facts) or {}
    name, fingerprint_of = shown(model_folder.resolve().parent.name), model_fingerprint(model_folder)
    text = CARD.format(
        name=name,
        quoted=json.dumps(name, ensure_ascii=False),
        metadata=_metadata(name, ["recommendation", *card.tags, config["model_type"]], results_folder, fingerprint_of),
        about=card.about,
        auto_class=auto_class(model_folder),
        example=json.dumps(item_ids[:3]),
        results=_results_section(results_folder, fingerprint_of),
        facts="\n".join(f"| {fact} | {in_table(str(value))} |" for fact, value in facts.items()),
    )
    with whole_file(model_folder / "README.md") as path:
        path.write_text(text, encoding="utf-8")


def _of_results(path: Path, make: Callable[[dict[str, Any]], Any]) -> Any:
    """What `make` makes of a file of figures; of a damaged one nothing, which is said: the model needs none of them."""
    if not path.is_file():
        return None
    try:
        with naming(path, "train or evaluate again"):
            return make(read_json(path, remedy="train or evaluate again"))
    except (DamagedFile, OSError) as error:
        logger.warning("%s The model card is written without its figures.", error)
        return None


def _training_facts(training: dict[str, Any]) -> dict[str, str]:
    minutes = [f"{number(training[name]) / 60:.1f}" for name in ("seconds", "cpu_seconds")]
    facts = {
        "weights": f"{number(training['num_weights']):,}",
        "training": f"{number(training['steps']):,} steps, {minutes[0]} minutes, {minutes[1]} CPU minutes",
    }
    teachers = training.get("teachers_cpu_seconds")
    if teachers:
        facts["teachers"] = f"{', '.join(teachers)}, {sum(map(number, teachers.values())) / 60:.1f} CPU minutes"
    facts |= _seen_items_fact(training.get("seen_items"))
    best = training["best_validation_ndcg@10"]
    if best is not None:
        facts["best validation NDCG@10"] = f"{number(best):.4f} (users of the training's evaluation)"
    return facts


def _seen_items_fact(chosen: dict[str, Any] | None) -> dict[str, str]:
    """What lists leave out by default, and what that is worth; trainings of earlier versions do not say."""
    if chosen is None:
        return {}
    with_history, without = (number(chosen["ndcg@10"][name]) for name in ("history_in_lists", "history_left_out"))
    rule = "leave the history out" if chosen["left_out"] else "may hold items of the history"
    return {"lists by default": f"{rule}; validation NDCG@10 {with_history:.4f} with them, {without:.4f} without"}


def _metadata(name: str, tags: list[str], results_folder: Path, model: str) -> str:
    """The card's front matter; with the model's figures on the test split as the Hub reads them (`model-index`)."""
    from huggingface_hub import ModelCardData

    found = _of_results(results_folder / "test.json", partial(_evaluation_results, model))
    measured: dict[str, Any] = {"model_name": name, "eval_results": found} if found else {}
    return ModelCardData(library_name="transformers", tags=tags, **measured).to_yaml()


def _evaluation_results(model: str, records: dict[str, Any]) -> list[Any]:
    """The figures of the model, or nothing if they are another one's."""
    from huggingface_hub import EvalResult

    from hf_genrec.evaluation.report import METRIC_TITLES

    record = next(iter(records.values()), None)
    if not isinstance(record, dict) or record.get("model") != model:
        return []
    data = shown(Path(record["data_set"]).name)
    names = {key: f"{METRIC_TITLES[key.partition('@')[0]]}@{key.partition('@')[2]}" for key in RESULT_KEYS}
    return [
        EvalResult(
            task_type="recommendation",
            task_name="Sequential recommendation",
            dataset_type=re.sub(r"[^\w.-]+", "-", data.lower()) or "data",
            dataset_name=data,
            dataset_split="test",
            metric_type=key,
            metric_name=title,
            metric_value=round(number(record["metrics"][key]["value"]), 6),
        )
        for key, title in names.items()
    ]


def _results_section(results_folder: Path, model: str) -> str:
    """The figures of the model, as far as they are of this very one and not of an earlier one of the run."""
    parts: list[str] = []
    for split in ("test", "validation"):
        parts += _of_results(results_folder / f"{split}.json", partial(_results_table, split, model)) or []
    return "\n".join(parts)


def _results_table(split: str, model: str, records: dict[str, Any]) -> list[str]:
    first = next(iter(records.values()), None)
    if not isinstance(first, dict):
        raise ValueError("it holds no figures")
    if first.get("model") != model:
        return []
    seen = "removed" if first["seen_items_removed"] else "not removed"
    counts = {name: f"{number(first[name]):,}" for name in ("num_users", "num_items")}
    keys = [*RESULT_KEYS, "invalid_share"]
    return [
        f"## Results on the {split} split\n\n{counts['num_users']} users, all {counts['num_items']} items ranked, seen "
        f"items {seen}, tie order `{first['tie_order']}`, seed {first['seed']}; {first['date']}, "
        f"`{first['command']}`.\n",
        "| | " + " | ".join(keys) + " |\n|---|" + "---:|" * len(keys),
        *(
            f"| {name} | " + " | ".join(f"{number(record['metrics'][key]['value']):.4f}" for key in keys) + " |"
            for name, record in records.items()
        ),
        "",
    ]


# What a program of a process begins with that must do without this library, be it installed or not.
WITHOUT_LIBRARY = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ModuleNotFoundError("hf_genrec is not to be used here")

sys.meta_path.insert(0, Blocked())
"""
RELOAD_PROGRAM = (
    WITHOUT_LIBRARY
    + """
import json, os, transformers
folder, histories, k, auto_class = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if os.path.isdir(os.path.join(folder, "item_tokenizer")):
    transformers.AutoModel.from_pretrained(folder, subfolder="item_tokenizer", trust_remote_code=True)
for name in ("AutoConfig", "AutoModel", "AutoProcessor", auto_class):
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
print(json.dumps(model.recommend(histories, k=k)))
"""
)


def recommend_as_stranger(folder: Path, histories: list[Any], k: int = 10) -> tuple[list[Any], list[Any]]:
    """
    Recommendations of a saved folder opened through the Auto classes by a process that cannot import hf_genrec,
    offline, for one history or several. Its item tokenizer must open there, too.

    Raises:
        RuntimeError: if the folder does not open there, with the last line of its error.
    """
    program = [sys.executable, "-c", RELOAD_PROGRAM]
    with tempfile.TemporaryDirectory() as modules:
        finished = subprocess.run(
            [*program, str(Path(folder).resolve()), json.dumps(histories), str(k), auto_class(folder)],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules},
            cwd=modules,
        )
    if finished.returncode:
        raise RuntimeError(f"{folder} does not open without hf_genrec: {finished.stderr.strip().splitlines()[-1]}")
    item_ids, scores = json.loads(finished.stdout.strip().splitlines()[-1])
    return item_ids, scores


def code_files(folder: Path) -> set[str]:
    """
    The files of a saved folder that are executed: by transformers' loader, under the names that its configurations
    give, and `handler.py`, by endpoints.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    found = {HANDLER} if (folder / HANDLER).is_file() else set()
    members = member_folders(folder) if (folder / "config.json").is_file() else []
    for place in (folder, folder / "item_tokenizer", *members):
        for name in ("config.json", "processor_config.json"):
            if not (place / name).is_file():
                continue
            config = read_config(place, name)
            pipelines = config.get("custom_pipelines")
            entries = pipelines.values() if isinstance(pipelines, dict) else ()
            of_pipelines = [entry.get("impl") for entry in entries if isinstance(entry, dict)]
            for reference in [*config.get("auto_map", {}).values(), *of_pipelines]:
                module = folder / f"{str(reference).split('.')[0]}.py"
                if module.is_file():
                    try:
                        imported = get_relative_import_files(module)
                    except UnicodeDecodeError as error:
                        raise ValueError(
                            f"{module}, or what it imports, is not UTF-8 ({error}): save it again"
                        ) from None
                    found |= {module.name, *(Path(path).name for path in imported)}
    return found


def require_pushable(model_folder: Path, repo_id: str) -> None:
    """
    Raises:
        ValueError: if the folder holds what an export does not write (a pickle, a link, a hidden file, a checkpoint,
        code that the model does not name), or the repository's name is none.
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    read_config(model_folder)  # or all of its code would seem to be of something else
    folder, code = Path(model_folder), code_files(Path(model_folder))
    parts = [folder / "item_tokenizer", *member_folders(folder)]
    for path in sorted(folder.rglob("*")):
        kind = path.suffix.lower()
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and what it leads to is not pushed: put the file there, or remove it")
        if path.is_dir() and path in parts:
            continue
        if path.is_dir() or not path.is_file() or _is_no_export(path.name):
            raise ValueError(f"{path} is hidden, of a checkpoint, or no file of an exported model: remove it")
        if not (kind in PUSHED or path.name in PUSHED or (kind == ".py" and path.name in code)):
            raise ValueError(
                f"{path} may hold a pickle, a secret, or code that the model does not use, which is not pushed: remove "
                f"it (an exported folder holds its own code and {', '.join(sorted(PUSHED))})"
            )
        if kind == ".safetensors":
            load_tensors(str(path))


def _is_no_export(name: str) -> bool:
    """Hidden files, those of checkpoints, and names that cannot be written as text."""
    return name.startswith(".") or name in CHECKPOINT_FILES or not name.isprintable()


def push(
    model_folder: Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> str:
    """
    Upload an exported folder to the Hub in one commit. Its card names the repository in the lines that load the model.

    Args:
        private, revision, create_pr: see [`Destination`].
        dry_run: upload nothing.

    Returns:
        the address of the commit or of the pull request; for a dry run the files and their sizes.

    Raises:
        ValueError: as [`require_pushable`] and [`Destination`].
        OSError: if the Hub cannot be reached or refuses.
    """
    to = Destination(repo_id, private, revision, create_pr, token=token)
    require_pushable(model_folder, repo_id)
    files = files_of(Path(model_folder))
    with tempfile.TemporaryDirectory() as folder:
        if "README.md" in files:
            files["README.md"] = _card_of(files["README.md"], repo_id, Path(folder))
        return listing(files, to) if dry_run else upload(files, to, "Upload model with hf_genrec")


def _card_of(path: Path, repo_id: str, folder: Path) -> Path:
    """The card as it is pushed: the call that [`write_model_card`] shows names the repository, and not this folder."""
    text = path.read_bytes().decode(errors="surrogateescape")
    call = re.compile(r'(?m)^(model = \w+\.from_pretrained\()"(?:[^"\\]|\\.)*"(, trust_remote_code=True\))$')
    named = folder / path.name
    named.write_bytes(call.sub(rf'\g<1>"{repo_id}"\g<2>', text).encode(errors="surrogateescape"))
    return named
