"""Run folders to serve: the small saved models of every method, and one whose items have text."""

import zipfile
from pathlib import Path

SAVED = Path(__file__).parents[1] / "saved"


def saved_run(method: str, folder: Path) -> Path:
    """A run folder with the saved model of a method."""
    with zipfile.ZipFile(SAVED / f"{method}.zip") as archive:
        archive.extractall(folder / method / "model")
    return folder / method
