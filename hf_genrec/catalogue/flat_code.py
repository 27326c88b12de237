"""Code that lies in folders at home and beside each other in a saved folder.

transformers copies the file of a class and what it imports relatively into the folder it saves, and its loader knows
sibling files only: `from ..catalogue.item_trie import ItemTrie` would name a file that does not exist there. So while
a class is saved, its module stands for a copy in a temporary folder in which every such import reads
`from .item_trie import ItemTrie`.
"""

import ast
import functools
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers

HOME = "hf_genrec"
_lock = threading.RLock()  # of the modules' `__file__`


def flat_files(module_file: Path) -> dict[str, str]:
    """
    The source of a module and of all that it imports relatively, by file name, as siblings.

    Raises:
        ValueError: for two files of one name, or for `from . import name`, which may mean a file or a name in one.
    """
    found: dict[str, Path] = {}
    texts: dict[str, str] = {}
    waiting = [module_file]
    while waiting:
        path = waiting.pop()
        if found.get(path.name) == path:
            continue
        if path.name in found:
            raise ValueError(f"{found[path.name]} and {path} would be one file in a saved folder: rename one")
        found[path.name] = path
        texts[path.name], imported = _flat_file(path, path.stat().st_mtime_ns)
        waiting += imported
    return texts


@functools.cache
def _flat_file(path: Path, changed_at: int) -> tuple[str, list[Path]]:
    """The source of one module as a sibling, and the files that it imports relatively; read once as it was then."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    imported = []
    for node in ast.walk(ast.parse("".join(lines))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        if node.module is None:
            raise ValueError(f"{path}, line {node.lineno}: write `from .file import name` in code that is saved")
        stem = node.module.split(".")[-1]
        imported.append(path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py"))
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = re.sub(r"\bfrom\s+\.+[\w.]+\s+import\b", f"from .{stem} import", line, count=1)
    return "".join(lines), imported


def require_flat(cls: type) -> None:
    """
    Raises:
        ValueError: if the code of a class cannot be saved, see [`flat_files`].
    """
    flat_files(Path(str(sys.modules[cls.__module__].__file__)))


@contextmanager
def _flat(cls: type) -> Iterator[None]:
    """Meanwhile the module of a class is the copy that is saved."""
    module = sys.modules[cls.__module__]
    if getattr(module, "__file__", None) is None:
        yield
        return
    with _lock, tempfile.TemporaryDirectory() as folder:
        file = Path(str(module.__file__))
        for name, text in flat_files(file).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        module.__file__ = str(Path(folder) / file.name)
        try:
            yield
        finally:
            module.__file__ = str(file)


class FlatCode:
    """Placed before a configuration, model or processor class whose code may lie in folders."""

    def save_pretrained(self, *args, **kwargs):
        with _flat(type(self)):
            return super().save_pretrained(*args, **kwargs)  # type: ignore[misc]


class FlatModelCode(FlatCode):
    """[`FlatCode`] of a model, which at home is known to the Auto classes as soon as its file is imported."""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel"):
        super().register_for_auto_class(auto_class)  # type: ignore[misc]
        if cls.__module__.split(".")[0] == HOME:
            config = cls.config_class  # type: ignore[attr-defined]
            transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
            getattr(transformers, auto_class).register(config, cls, exist_ok=True)
