"""What leaves this machine: the exported folder, its model card, the check that a stranger can load it, the push."""

import json
import logging
import os
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
from hf_genrec.method import auto_class, load_method, method_of, read_config
from hf_genrec.terminal import shown

logger = logging.getLogger(__name__)

# Of what an export writes, and of what people lay beside it to be read; code is named by the configuration.
PUSHED = {".json", ".safetensors", ".md", ".txt", ".parquet", ".png", ".jinja", "LICENSE", "NOTICE"}
CHECKPOINT_FILES = {"trainer_state.json", "optimizer.safetensors"}

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = """---
library_name: transformers
license: apache-2.0
tags:
- recommendation
{tags}
- {model_type}
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
    of_model = {name: config[name] for name in sorted(config) if name not in ("transformers_version", "auto_map")}
    return fingerprint([json.dumps(of_model).encode(), *sorted(folder.glob("*.safetensors"))])


def write_model_card(model_folder: Path, results_folder: Path) -> None:
    """`README.md` of an exported model, from its configuration and the figures measured so far."""
    config = read_config(model_folder)
    with naming(model_folder / "catalogue.json"):
        item_ids = read_json(model_folder / "catalogue.json")["item_ids"]
    card = load_method(method_of(model_folder)).card(config, len(item_ids))
    named = {"layers": "num_hidden_layers", "hidden size": "hidden_size", "newest history items read": "max_history"}
    facts: dict[str, Any] = {name: config[key] for name, key in named.items() if key in config} | card.facts
    facts |= _of_results(results_folder / "training.json", _training_facts) or {}
    name = shown(model_folder.resolve().parent.name)
    text = CARD.format(
        name=name,
        quoted=json.dumps(name, ensure_ascii=False),
        model_type=config["model_type"],
        tags="\n".join(f"- {tag}" for tag in card.tags),
        about=card.about,
        auto_class=auto_class(model_folder),
        example=json.dumps(item_ids[:3]),
        results=_results_section(results_folder, model_fingerprint(model_folder)),
        facts="\n".join(f"| {fact} | {_in_table(value)} |" for fact, value in facts.items()),
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
    best = training["best_validation_ndcg@10"]
    if best is not None:
        facts["best validation NDCG@10"] = f"{number(best):.4f} (users of the training's evaluation)"
    return facts


def _in_table(value: Any) -> str:
    """A setting of a configuration, which may hold anything, in a cell of a Markdown table."""
    return shown(str(value)).replace("|", "\\|").replace("<", "&lt;")


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
    keys = ["recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "invalid_share"]
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
    """The files of a saved folder that transformers' loader executes, by the names its configurations give."""
    from transformers.dynamic_module_utils import get_relative_import_files

    found = set()
    for place in (folder, folder / "item_tokenizer"):
        for name in ("config.json", "processor_config.json"):
            if not (place / name).is_file():
                continue
            for reference in read_config(place, name).get("auto_map", {}).values():
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
    for path in sorted(folder.rglob("*")):
        kind = path.suffix.lower()
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and what it leads to is not pushed: put the file there, or remove it")
        if path.is_dir() and path == folder / "item_tokenizer":
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


def push(model_folder: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """
    Upload an exported folder to the Hub in one commit, and return the address of the commit.

    Raises:
        ValueError: as [`require_pushable`].
    """
    from huggingface_hub import HfApi

    require_pushable(model_folder, repo_id)
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(folder_path=model_folder, repo_id=repo_id, commit_message="Upload model with hf_genrec")
    return commit.commit_url
