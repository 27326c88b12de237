"""What somebody who has transformers and not hf_genrec gets of saved folders."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def strangers_answers(program: str, asked: list, place: Path) -> Any:
    """The JSON in the last line that a program prints, in a process of its own that is given `asked` as JSON."""
    finished = subprocess.run(
        [sys.executable, "-c", program, json.dumps(asked)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")},
        cwd=place,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])
