"""The README's code, as it stands there, on a small log of one's own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import exit_code
from transformers import AutoModel, AutoModelForCausalLM

from hf_genrec import cli
from hf_genrec.semantic_ids.build import encode_new_items
from hf_genrec.semantic_ids.ids import SemanticIds

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
NEW_ITEM = (ROOT / "docs/item_tokenizers.md").read_text(encoding="utf-8").split("## A new item")[1]


def blocks(language: str, text: str = README) -> list[str]:
    """Code blocks; a line that ends with a backslash goes on in the next."""
    return re.findall(rf"```{language}\n(.*?)```", text.replace("\\\n", " "), flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(own_data, tmp_path_factory):
    """Where the README's paths exist: the commands of "From your own CSV" have run."""
    place = tmp_path_factory.mktemp("readme")
    for name in ("log.csv", "films.csv"):
        (place / name).write_bytes((own_data / name).read_bytes())
    commands = [line for block in blocks("bash") for line in block.splitlines() if "runs/mine" in line]
    assert [shlex.split(line)[1] for line in commands] == ["prepare", "tokenize", "train", "evaluate", "recommend"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in commands:
            patch.setattr(sys, "argv", shlex.split(line))
            with pytest.raises(SystemExit) as finished:
                cli.main()
            assert finished.value.code == 0, line
        for part in ("data", "semantic_ids"):
            shutil.copytree(f"runs/mine/{part}", f"runs/care/{part}")
        sizes = ["--hidden_size", "32", "--num_train_epochs", "1"]
        assert exit_code("train", "--method", "care", *sizes, "--output_dir", "runs/care") == 0
    return place


@pytest.mark.parametrize(
    "code",
    [*blocks("python"), *blocks("python", NEW_ITEM), "\n".join(blocks("python", RECIPES))],
    ids=lambda code: code.strip().splitlines()[-1][:40],
)
def test_python_blocks_run(place, code):
    code = code.replace("my-org/codetree-ml-100k", str(place / "runs/mine/model"))
    code = code.replace('["50", "172", "181"]', '["f01", "f03", "f05"]')
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")}
    finished = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]


def test_a_new_item_is_recommended_without_training(place):
    """Text -> codes of the trained tokenizer -> catalogue -> recommended; nothing else of CARE's catalogue moves."""
    model = AutoModelForCausalLM.from_pretrained(place / "runs/care/model")
    before = dict(zip(*model.recommend(["f01", "f03"], k=24), strict=True))
    tokenizer = AutoModel.from_pretrained(place / "runs/care/model/item_tokenizer", trust_remote_code=True)
    ids = SemanticIds.load(place / "runs/care/semantic_ids")
    grown = encode_new_items(tokenizer, ids, pa.table({"item_id": ["f99"], "title": ["Film number 5"]}))
    assert (grown.codes[:-1] == ids.codes).all()
    model.processor.add_items(["f99"], grown.codes[-1:], ["Film number 5"])
    item_ids, scores = model.recommend(["f01", "f03"], k=25)
    after = dict(zip(item_ids, scores, strict=True))
    assert after.pop("f99") == pytest.approx(model.score_items(["f01", "f03"], ["f99"]).item(), abs=1e-5)
    assert after == pytest.approx(before, abs=1e-5)


def test_the_other_commands_exist():
    """The commands whose run takes minutes or needs the network are at least spelled as the program spells them."""
    import typer

    known = typer.main.get_command(cli.app).commands
    shown = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    names = [words[1] for words in shown if words and words[0] == "hf-genrec"]
    assert set(names) <= set(known)
    everywhere = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in known:
        assert re.search(rf"hf-genrec +{name}\b", everywhere), f"no page shows hf-genrec {name}"
    makefile = (ROOT / "Makefile").read_text()
    for words in shown:
        if words and words[0] == "make":
            assert f"\n{words[1]}:" in makefile


def test_there_is_a_command_beside_every_figure():
    table = README.split("## Measured")[1].split("## Develop")[0]
    assert "`make quickstart`" in table
    assert "hf-genrec evaluate" in table


def test_tables_are_those_of_the_results():
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.tables", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_readable(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        table = line.startswith("|") and page.name != "README.md"
        assert len(line) <= 120 or table, f"{page.name}, line {number} has {len(line)} columns"
    assert page.name != "README.md" or len(lines) <= 150
    prose = re.sub(r"```.*?```", "", "\n".join(lines), flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. )", prose):
        if not paragraph.startswith(("|", "    ", "#", "<")):
            assert len(paragraph.split()) < 90, f"{page.name}: {paragraph[:60]}..."
    for target in re.findall(r"\]\(([^)#]+)", "\n".join(lines)):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"
