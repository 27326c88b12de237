"""The files of a Space that shows the demo: `hf-genrec demo my-org/my-model --write-space FOLDER`."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from hf_genrec.files import whole_folder

APP = '''"""A page to try {names} on, made by hf_genrec."""

from hf_genrec.serving.demo.launch import launch

if __name__ == "__main__":
    launch({places})
'''

README = """---
title: What comes next?
emoji: 🎬
colorFrom: indigo
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
models:
{models}
---

# What comes next?

Build a history by searching titles, see what {names} would recommend next, and how it came to each item. Histories
stay in the memory of the Space for an hour at most and are not recorded.

`requirements.txt` names the version of hf_genrec that wrote these files. If your package index does not have it, lay a
wheel beside it (`pip wheel --no-deps hf_genrec`) and name that file instead.
"""

REQUIREMENTS = """--extra-index-url https://download.pytorch.org/whl/cpu
hf_genrec[demo]=={version}
"""


def write_space(folder: Path, repositories: Sequence[str]) -> Path:
    """
    Write `app.py`, `README.md` and `requirements.txt`. The folder appears whole.

    Args:
        folder: a new or empty one.
        repositories: of the model, or of two, on the Hub.

    Raises:
        ValueError: for a name that is none of a repository: the Space has no other place to load a model from.
        OSError: if the folder holds something already.
    """
    for name in repositories:
        _require_repository(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: name a new folder")
    names = " and ".join(repositories)
    with whole_folder(folder) as new:
        (new / "app.py").write_text(APP.format(names=names, places=json.dumps(list(repositories))), encoding="utf-8")
        models = "\n".join(f"- {name}" for name in repositories)
        readme = README.format(gradio=_gradio_version(), models=models, names=names)
        (new / "README.md").write_text(readme, encoding="utf-8")
        (new / "requirements.txt").write_text(REQUIREMENTS.format(version=version("hf_genrec")), encoding="utf-8")
    return folder


def _require_repository(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        name = f"{name}, which is no name of a repository"
    else:
        if name.count("/") == 1 and not Path(name).exists():
            return
        name = f"{name}, a folder here" if Path(name).exists() else f"{name}, which names no owner"
    raise ValueError(
        f"a Space loads its model from the Hub, not from {name}: push it first, and give its repository, as "
        f"my-org/my-model"
    )


def _gradio_version() -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version("gradio")
    except PackageNotFoundError:
        raise ImportError('the demo needs Gradio: pip install "hf_genrec[demo]"') from None
