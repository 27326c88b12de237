"""What leaves this machine: the exported folder, its model card, the check that a stranger can load it, the push."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_genrec.catalogue.saved_files import load_tensors
from hf_genrec.files import fingerprint, whole_file
from hf_genrec.hub_upload import Destination, files_of, listing, upload
from hf_genrec.method import auto_class, load_method, method_of, read_config
from hf_genrec.terminal import shown

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
        shutil.copytree(item_tokenizer, folder / "item_tokenizer")
        # With `subfolder="item_tokenizer"` the Auto classes read its configuration there and its code here.
        for code in item_tokenizer.glob("*.py"):
            if (folder / code.name).is_file() and (folder / code.name).read_bytes() != code.read_bytes():
                raise ValueError(f"{code.name} is another file of the model and of its item tokenizer: rename one")
            shutil.copy(code, folder)


def model_fingerprint(folder: Path) -> str:
    """What an exported model is known by: its weights and its configuration, whatever version saved it."""
    config = read_config(folder)
    of_model = {name: config[name] for name in sorted(config) if name not in NOT_OF_MODEL}
    return fingerprint([json.dumps(of_model).encode(), *sorted(folder.glob("*.safetensors"))])


def write_model_card(model_folder: Path, results_folder: Path) -> None:
    """`README.md` of an exported model, from its configuration and the figures measured so far."""
    config = read_config(model_folder)
    item_ids = json.loads((model_folder / "catalogue.json").read_text(encoding="utf-8"))["item_ids"]
    card = load_method(method_of(model_folder)).card(config, len(item_ids))
    named = {"layers": "num_hidden_layers", "hidden size": "hidden_size", "newest history items read": "max_history"}
    facts: dict[str, Any] = {name: config[key] for name, key in named.items() if key in config} | card.facts
    training_file = results_folder / "training.json"
    if training_file.is_file():
        training = json.loads(training_file.read_text(encoding="utf-8"))
        facts["weights"] = f"{training['num_weights']:,}"
        facts["training"] = (
            f"{training['steps']:,} steps, {training['seconds'] / 60:.1f} minutes, {training['cpu_seconds'] / 60:.1f} "
            f"CPU minutes"
        )
        if training["best_validation_ndcg@10"] is not None:
            facts["best validation NDCG@10"] = (
                f"{training['best_validation_ndcg@10']:.4f} (users of the training's evaluation)"
            )
    name, fingerprint_of = shown(model_folder.resolve().parent.name), model_fingerprint(model_folder)
    text = CARD.format(
        name=name,
        quoted=json.dumps(name, ensure_ascii=False),
        metadata=_metadata(name, ["recommendation", *card.tags, config["model_type"]], results_folder, fingerprint_of),
        about=card.about,
        auto_class=auto_class(model_folder),
        example=json.dumps(item_ids[:3]),
        results=_results_section(results_folder, fingerprint_of),
        facts="\n".join(f"| {fact} | {_in_table(value)} |" for fact, value in facts.items()),
    )
    with whole_file(model_folder / "README.md") as path:
        path.write_text(text, encoding="utf-8")


def _metadata(name: str, tags: list[str], results_folder: Path, model: str) -> str:
    """The card's front matter; with the model's figures on the test split as the Hub reads them (`model-index`)."""
    from huggingface_hub import EvalResult, ModelCardData

    found = []
    records = _records(results_folder, "test", model)
    if records:
        from hf_genrec.evaluation.report import METRIC_TITLES

        record = next(iter(records.values()))
        data = shown(Path(record["data_set"]).name)
        for key in RESULT_KEYS:
            metric, _, k = key.partition("@")
            found.append(
                EvalResult(
                    task_type="recommendation",
                    task_name="Sequential recommendation",
                    dataset_type=re.sub(r"[^\w.-]+", "-", data.lower()) or "data",
                    dataset_name=data,
                    dataset_split="test",
                    metric_type=key,
                    metric_name=f"{METRIC_TITLES[metric]}@{k}",
                    metric_value=round(record["metrics"][key]["value"], 6),
                )
            )
    measured: dict[str, Any] = {"model_name": name, "eval_results": found} if found else {}
    return ModelCardData(library_name="transformers", license="apache-2.0", tags=tags, **measured).to_yaml()


def _in_table(value: Any) -> str:
    """A setting of a configuration, which may hold anything, in a cell of a Markdown table."""
    return shown(str(value)).replace("|", "\\|").replace("<", "&lt;")


def _records(results_folder: Path, split: str, model: str) -> dict[str, Any]:
    """What was measured on a split, the model's record first; nothing, if it was another model's."""
    path = results_folder / f"{split}.json"
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return records if records and next(iter(records.values())).get("model") == model else {}


def _results_section(results_folder: Path, model: str) -> str:
    """The figures of the model, as far as they are of this very one and not of an earlier one of the run."""
    parts = []
    for split in ("test", "validation"):
        records = _records(results_folder, split, model)
        if not records:
            continue
        first = next(iter(records.values()))
        seen = "removed" if first["seen_items_removed"] else "not removed"
        parts.append(
            f"## Results on the {split} split\n\n{first['num_users']:,} users, all {first['num_items']:,} items "
            f"ranked, seen items "
            f"{seen}, tie order `{first['tie_order']}`, seed {first['seed']}; {first['date']}, `{first['command']}`.\n"
        )
        keys = [*RESULT_KEYS, "invalid_share"]
        parts.append("| | " + " | ".join(keys) + " |\n|---|" + "---:|" * len(keys))
        for name, record in records.items():
            parts.append(f"| {name} | " + " | ".join(f"{record['metrics'][key]['value']:.4f}" for key in keys) + " |")
        parts.append("")
    return "\n".join(parts)


RELOAD_PROGRAM = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_genrec":
            raise ModuleNotFoundError("hf_genrec is not to be used here")

sys.meta_path.insert(0, Blocked())
import os, transformers
folder, histories, k, auto_class = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if os.path.isdir(os.path.join(folder, "item_tokenizer")):
    transformers.AutoModel.from_pretrained(folder, subfolder="item_tokenizer", trust_remote_code=True)
for name in ("AutoConfig", "AutoModel", "AutoProcessor", auto_class):
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
print(json.dumps(model.recommend(histories, k=k)))
"""


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
    for place in (folder, folder / "item_tokenizer"):
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
                    found |= {module.name, *(Path(path).name for path in get_relative_import_files(module))}
    return found


def require_pushable(model_folder: Path, repo_id: str) -> None:
    """
    Raises:
        ValueError: if the folder holds what an export does not write (a pickle, a link, a hidden file, a checkpoint,
        code that the model does not name), or the repository's name is none.
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    folder, code = Path(model_folder), code_files(Path(model_folder))
    for path in sorted(folder.rglob("*")):
        kind = path.suffix.lower()
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and what it leads to is not pushed: put the file there, or remove it")
        if path.is_dir() and path == folder / "item_tokenizer":
            continue
        if path.is_dir() or not path.is_file() or path.name.startswith(".") or path.name in CHECKPOINT_FILES:
            raise ValueError(f"{path} is hidden, of a checkpoint, or no file of an exported model: remove it")
        if not (kind in PUSHED or path.name in PUSHED or (kind == ".py" and path.name in code)):
            raise ValueError(
                f"{path} may hold a pickle, a secret, or code that the model does not use, which is not pushed: remove "
                f"it (an exported folder holds its own code and {', '.join(sorted(PUSHED))})"
            )
        if kind == ".safetensors":
            load_tensors(str(path))


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
    Upload an exported folder to the Hub in one commit.

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
    return listing(files, to) if dry_run else upload(files, to, "Upload model with hf_genrec")
