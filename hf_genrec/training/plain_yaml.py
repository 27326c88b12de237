"""YAML as configurations are written in it: a mapping of keys to values, read by the rules of YAML 1.2.

Text is what it looks like: `no` is text that a truth key takes for false, `12:30:45` and `2015-01-31` are text. What
YAML leaves to chance is refused: a key that stands twice, and lists or mappings that are repeated by an alias.
"""

import re
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**20
MOST_LEVELS = 20
MOST_DIGITS = 400  # of a number; float64 ends at 309


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # not those of YAML 1.1
    levels = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and not isinstance(self.anchors.get(event.anchor), yaml.ScalarNode):
            raise yaml.YAMLError(f"line {_line(event)}: *{event.anchor[:80]} repeats a list or mapping: write it out")
        self.levels += 1
        if self.levels > MOST_LEVELS:
            raise yaml.YAMLError(f"line {_line(event)}: lists and mappings are nested more than {MOST_LEVELS} deep")
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    def construct_mapping(self, node, deep=False):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {_line(key)}: a list or mapping is no key: write a name")
            if key.value in lines:
                raise yaml.YAMLError(
                    f"key {str(key.value)[:80]!r} stands twice, in lines {lines[key.value]} and {_line(key)}: "
                    f"leave one out"
                )
            lines[key.value] = _line(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # of a tag that the text does not fit
            raise yaml.YAMLError(f"line {_line(node)}: {error}") from error

    def construct_number(self, node):
        text = self.construct_scalar(node)
        if len(text) > MOST_DIGITS:
            raise yaml.YAMLError(f"line {_line(node)}: a number of {len(text):,} characters: write a shorter one")
        text = text.replace("_", "").lower()
        return int(text) if node.tag.endswith(":int") else float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _line(event: Any) -> int:
    return event.start_mark.line + 1


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+(_[0-9]+)*\Z", re.ASCII), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def read_yaml(path: Path) -> dict[Any, Any]:
    """
    What a configuration says.

    Raises:
        ValueError: if it is no mapping in YAML, has a key twice, or is too large; names the file.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes, and no configuration: name another file")
    try:
        content = yaml.load(raw.decode("utf-8-sig"), _Loader)
    except yaml.MarkedYAMLError as error:
        what = " ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{path} is not YAML: {_cut(what)}{f', line {mark.line + 1}' if mark else ''}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}): convert it") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {_cut(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping of keys to values")
    return content


def _cut(what: Any) -> str:
    return " ".join(str(what).split())[:300]
