"""
Saves a small folder of each method, as an export writes it, and what it answers, into `tests/saved/*.zip`:

    python tests/saved/save.py

Run at the commit whose folders later versions must go on opening; the archives stay as they are from then on.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conftest import make_model, make_processor  # noqa: E402
from learned_tokenizers import make_mpq, make_rq_vae  # noqa: E402
from tiny_rearec import tiny_rearec  # noqa: E402
from tiny_reg4rec import make_reg4rec, make_set_processor  # noqa: E402

from hf_genrec.hub import save_model  # noqa: E402


def rearec():
    model = tiny_rearec()
    processor = model.processor
    processor.set_catalogue([f"item-{row}" for row in range(len(processor.item_ids))], popularity=processor.popularity)
    return model


MAKERS = {
    "care": (lambda: make_model(make_processor()), make_rq_vae),
    "rearec": (rearec, make_rq_vae),
    "reg4rec": (lambda: make_reg4rec(make_set_processor()), make_mpq),
}


def save(name: str, folder: Path) -> None:
    make, make_tokenizer = MAKERS[name]
    make_tokenizer().save_pretrained(folder / "tokenizer")
    save_model(make(), folder / "model", folder / "tokenizer")


def main() -> None:
    torch.set_num_threads(1)
    for name in MAKERS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save(name, folder)
            shutil.rmtree(folder / "model" / "__pycache__", ignore_errors=True)
            asked = [sys.executable, str(HERE / "answers.py"), str(folder / "model")]
            answers = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            with zipfile.ZipFile(HERE / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for path in sorted((folder / "model").rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(folder / "model"))
            (HERE / f"{name}.json").write_text(json.dumps(_rounded(json.loads(answers))) + "\n", encoding="utf-8")


def _rounded(value):
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return {name: _rounded(part) for name, part in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    main()
