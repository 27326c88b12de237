"""Where the parts of a run stand."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class RunFolder:
    """
    A run: `data/`, `semantic_ids/` (where items have codes), `checkpoints/` (read only to resume), `model/` (what is
    loaded and pushed), `results/`.
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

    def require_model(self) -> Path:
        """
        The model's folder.

        Raises:
            FileNotFoundError: if the run has none.
        """
        if not (self.model / "config.json").is_file():
            raise FileNotFoundError(f"{self.path} holds no trained model: run `hf-genrec train` first")
        return self.model
