"""The keys of argument classes that take seconds to import, read from their files.

A key that is misspelt is then said at once, and not after torch and transformers are imported.
"""

import ast
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class DeclaredArguments:
    """
    An argument class by its place.

    Args:
        place: `module.Name` of the dataclass.
        bases: of its base classes, which have fields, too.
    """

    def __init__(self, place: str, *bases: str):
        self.place, self.bases = place, bases

    def load(self) -> Any:
        """The class itself."""
        module, _, name = self.place.rpartition(".")
        return getattr(import_module(module), name)

    def keys(self) -> set[str]:
        """Names of its fields; by the class itself, if a file is not where it is expected."""
        try:
            return set().union(*map(declared_fields, (self.place, *self.bases)))
        except (LookupError, OSError):
            return {field.name for field in fields(self.load()) if field.init}


@cache
def declared_fields(place: str) -> frozenset[str]:
    """
    Names of the fields that the dataclass `module.Name` itself declares.

    Raises:
        LookupError: if there is no such class.
        OSError: if its file cannot be read.
    """
    module, _, name = place.rpartition(".")
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"no package {package}")
    tree = ast.parse(Path(spec.origin).parent.joinpath(*rest).with_suffix(".py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return frozenset(
        node.target.id
        for node in classes[name].body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_set_by_init(node)
    )


def _is_set_by_init(node: ast.AnnAssign) -> bool:
    if "ClassVar" in ast.unparse(node.annotation):
        return False
    keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
    return not any(word.arg == "init" and ast.unparse(word.value) == "False" for word in keywords)
