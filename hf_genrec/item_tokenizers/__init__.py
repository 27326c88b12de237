"""Item vectors -> codes. Every file here travels with a saved item tokenizer, this one excepted.

Importing this package makes each kind (a `modeling_<kind>.py` here) known to the Auto classes.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from ..catalogue.saved_files import DamagedFile, read_json, saved_file
from .item_tokenizer import ItemTokenizer

for _path in sorted(Path(__file__).parent.glob("modeling_*.py")):
    import_module(f"{__name__}.{_path.stem}")


def load_item_tokenizer(folder: str | Path) -> Any:
    """
    A saved item tokenizer, by the library's own classes and not the code in the folder.

    Raises:
        OSError: if a file is missing.
        ValueError: if one is damaged, or the folder holds no item tokenizer of this library.
    """
    path = saved_file(folder, "config.json")
    kind = read_json(str(path)).get("model_type")
    kinds = {tokenizer.config_class.model_type: tokenizer for tokenizer in _kinds(ItemTokenizer)}
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(sorted(name for name in kinds if name))
        raise DamagedFile(f"{path} is of an item tokenizer of type {kind!r}, which is none of {known}: save it again.")
    return kinds[kind].from_pretrained(folder)


def _kinds(base: Any) -> list[Any]:
    """The classes below a class."""
    children: list[Any] = base.__subclasses__()
    return [*children, *(kind for child in children for kind in _kinds(child))]
