"""A hook of mkdocs: what pages link to beside docs/ (`../benchmarks/results/x.png`) stands in the site, too."""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUT_OF_DOCS = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
INTO_DOCS = re.compile(r"(?<=\]\()docs/")


def on_files(files: Files, config) -> Files:
    """Every file beside docs/ that some page links to, at its place in the repository."""
    linked = {name for page in files.documentation_pages() for name in OUT_OF_DOCS.findall(page.content_string)}
    for name in sorted(linked):
        if (ROOT / name).is_file():  # of a link that leads nowhere mkdocs itself will tell
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Links as they are where docs/ is the site's root."""
    outside = not (ROOT / "docs" / page.file.src_uri).is_file()
    return INTO_DOCS.sub("", markdown) if outside else OUT_OF_DOCS.sub(r"\1", markdown)
