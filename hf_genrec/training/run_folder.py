"""Where the parts of a run stand."""

from dataclasses import dataclass
from pathlib import Path

from hf_genrec.files import restore_folder


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
        restore_folder(self.model)
        if not (self.model / "config.json").is_file():
            if (self.path / "config.json").is_file():
                raise FileNotFoundError(
                    f"{self.path} is a saved model, and a run folder is asked for, which holds it as model/: name "
                    f"{self.path.resolve().parent}"
                )
            raise FileNotFoundError(f"{self.path} holds no trained model: run `hf-genrec train` first")
        return self.model
