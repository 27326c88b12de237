"""What leaves this machine: the exported folder, its model card, the check that a stranger can load it, the push."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_genrec.files import whole_file, whole_folder, write_json
from hf_genrec.method import auto_class, load_method, method_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

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

model = {auto_class}.from_pretrained("{name}", trust_remote_code=True)
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


def export_model(
    model: "PreTrainedModel", folder: Path, arguments: "TrainingArguments", item_tokenizer: Path | None = None
) -> None:
    """
    Save a model with its processor, code, training arguments as JSON and, where there is one, its item tokenizer. The
    folder appears whole, in place of an older one.
    """
    with whole_folder(folder) as temporary:
        save_model(model, temporary, item_tokenizer)
        write_json(arguments.to_dict(), temporary / "training_args.json")


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


def write_model_card(model_folder: Path, results_folder: Path) -> None:
    """`README.md` of an exported model, from its configuration and the figures measured so far."""
    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
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
    text = CARD.format(
        name=model_folder.resolve().parent.name,
        model_type=config["model_type"],
        tags="\n".join(f"- {tag}" for tag in card.tags),
        about=card.about,
        auto_class=auto_class(model_folder),
        example=json.dumps(item_ids[:3]),
        results=_results_section(results_folder),
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    )
    with whole_file(model_folder / "README.md") as path:
        path.write_text(text, encoding="utf-8")


def _results_section(results_folder: Path) -> str:
    parts = []
    for split in ("test", "validation"):
        path = results_folder / f"{split}.json"
        if not path.is_file():
            continue
        records = json.loads(path.read_text(encoding="utf-8"))
        first = next(iter(records.values()))
        seen = "removed" if first["seen_items_removed"] else "not removed"
        parts.append(
            f"## Results on the {split} split\n\n{first['num_users']:,} users, all {first['num_items']:,} items "
            f"ranked, seen items "
            f"{seen}, tie order `{first['tie_order']}`, seed {first['seed']}; {first['date']}, `{first['command']}`.\n"
        )
        keys = ["recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "invalid_share"]
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


def require_pushable(model_folder: Path, repo_id: str) -> None:
    """
    Raises:
        ValueError: if the folder holds a pickle, or the repository's name is none.
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    for path in sorted(Path(model_folder).rglob("*")):
        if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"):
            raise ValueError(f"{path} may hold a pickle, which is not pushed: remove it")


def push(model_folder: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """
    Upload an exported folder to the Hub in one commit, and return the address of the commit.

    Raises:
        ValueError: if the folder holds a pickle.
    """
    from huggingface_hub import HfApi

    require_pushable(model_folder, repo_id)
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(folder_path=model_folder, repo_id=repo_id, commit_message="Upload model with hf_genrec")
    return commit.commit_url
