"""Where the parts of a run stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_genrec.files import restore_folder


@dataclass
class RunFolder:
    """
    A run: `data/`, `semantic_ids/` (where items have codes), `checkpoints/` (read only to resume), `model/` (what is
    loaded and pushed), `results/`; `teachers/`, the runs it learns from, where its configuration names some.
    """

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def semantic_ids(self) -> Path:
        return self.path / "semantic_ids"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def teachers(self) -> Path:
        return self.path / "teachers"

    def require_model(self) -> Path:
        """
        The model's folder.

        Raises:
            FileNotFoundError: if the run has none.
        """
        restore_folder(self.model)
        if not (self.model / "config.json").is_file():
            if (self.path / "config.json").is_file():
                raise FileNotFoundError(
                    f"{self.path} is a saved model, and a run folder is asked for, which holds it as model/: name "
                    f"{self.path.resolve().parent}"
                )
            raise FileNotFoundError(f"{self.path} holds no trained model: run `hf-genrec train` first")
        return self.model


def run_names(folders: Sequence[str]) -> dict[str, str]:
    """
    Run folders by the names they are told apart by: the last part of the path, or all of it where two are alike.

    Raises:
        ValueError: for fewer than two, or one that is given twice.
    """
    if len(folders) < 2:
        raise ValueError("one run alone cannot be compared: name two run folders or more")
    places = [Path(folder).resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{folder} is named twice: name different run folders")
    alike = len({place.name for place in places}) < len(places)
    return {folder if alike else place.name: folder for place, folder in zip(places, folders, strict=True)}
