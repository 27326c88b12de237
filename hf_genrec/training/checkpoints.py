"""Which checkpoint a training goes on from."""

import json
import logging
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)


def checkpoint_to_resume(folder: Path, resume: str | None) -> str | None:
    """
    The checkpoint to go on from, or `None` to start.

    Args:
        folder: the run's `checkpoints/`.
        resume: `None` to start anew, `"last"` for the newest complete checkpoint (a start, where there is none), or a
            path. Incomplete checkpoints, left by a killed process, are removed.

    Raises:
        ValueError: if checkpoints of an earlier training stand where a new one would write.
        FileNotFoundError: if the checkpoint named is not a complete one.
    """
    checkpoints = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    if resume is None:
        if checkpoints:
            raise ValueError(
                f"{folder} holds checkpoints of an earlier training: go on with --resume_from_checkpoint last, or "
                f"delete it"
            )
        return None
    if resume != "last":
        if not is_complete(Path(resume)):
            raise FileNotFoundError(f"{resume} is no complete checkpoint: name one of {folder}, or 'last'")
        return resume
    for checkpoint in reversed(checkpoints):
        if is_complete(checkpoint):
            return str(checkpoint)
        logger.warning("%s is incomplete (the training was killed while saving it) and is removed", checkpoint)
        shutil.rmtree(checkpoint)
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved to the end."""
    # Trainer writes its state after everything else.
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
