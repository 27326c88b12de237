"""The server's documentation as a page: what `/openapi.json` says, without a script and without a file of others."""

import json
import re
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 22%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin: 2.4rem 0 .3rem; font-size: 1.15rem; overflow-wrap: anywhere; }
h2 b { display: inline-block; min-width: 4.2rem; color: light-dark(#4338ca, #a5b4fc); }
h3 { margin: 1.2rem 0 .3rem; font-size: .95rem; }
pre, .wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
pre { padding: .6rem .8rem; font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
td:first-child { white-space: nowrap; }
a { color: inherit; }
"""
BETWEEN = "\n\n"  # two calls
# What a page of this server may load: nothing but the style it brings.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def docs_page(schema: Mapping[str, Any], address: str) -> str:
    """
    HTML of an OpenAPI schema: every address with what it takes and answers, and a call of `curl`.

    Args:
        address: of the server, as whoever reads the page reaches it.
    """
    about = schema["info"]
    title = escape(f"{about['title']} {about['version']}")
    parts = [f"<h1>{title}</h1><p>{escape(about['description'])}</p>"]
    if schema.get("security"):
        parts.append("<p>This server asks for a token: put yours into TOKEN for the calls below.</p>")
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(schema, address, path, method, operation))
    parts.append("<h2>What bodies and answers hold</h2>")
    parts += [_fields(name, entry) for name, entry in schema["components"]["schemas"].items() if "properties" in entry]
    parts.append('<p><a href="/openapi.json">openapi.json</a> says the same to programs.</p>')
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _operation(schema: Mapping[str, Any], address: str, path: str, method: str, operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody")
    of_body = None if body is None else body["content"]["application/json"]["schema"]
    rows = [
        [f"<code>{escape(entry['name'])}</code>", _kind(entry["schema"]), f"in the {escape(entry['in'])}"]
        for entry in operation.get("parameters", [])
    ]
    if of_body is not None:
        rows.append(["the body", _kind(of_body), "JSON"])
    answers = [
        [f"<code>{status}</code>", _answer(answer), escape(answer.get("description", ""))]
        for status, answer in sorted(operation["responses"].items())
    ]
    calls = [None] if of_body is None else _resolved(schema, of_body).get("examples", [])
    secured = schema.get("security") and operation.get("security") != []
    lines = [_call(f"{address}{path}", method, example, bool(secured)) for example in calls]
    return (
        f"<h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2><p>{_prose(operation)}</p>"
        f"<pre>{escape(BETWEEN.join(lines))}</pre>{_table('Takes', rows)}{_table('Answers', answers)}"
    )


def _call(url: str, method: str, example: Any, secured: bool) -> str:
    parts = [" ".join(["curl", *([] if method == "get" else ["-X", method.upper()]), shlex.quote(url)])]
    if secured:
        parts.append('-H "Authorization: Bearer $TOKEN"')
    if example is not None:
        parts.append("-H 'Content-Type: application/json'")
        parts.append(f"-d {shlex.quote(json.dumps(example, ensure_ascii=False))}")
    return " \\\n  ".join(parts)


def _fields(name: str, entry: Mapping[str, Any]) -> str:
    rows = []
    for field, of_field in entry["properties"].items():
        if field in entry.get("required", []):
            default = "required"
        else:
            default = f"default {json.dumps(of_field['default'])}" if of_field.get("default") is not None else ""
        about = "; ".join(filter(None, (of_field.get("description"), default)))
        rows.append([f"<code>{escape(field)}</code>", _kind(of_field), escape(about)])
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{_prose(entry)}</p>{_table("", rows)}'


def _prose(entry: Mapping[str, Any]) -> str:
    """Its description; names in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(entry.get("description", "")))


def _table(title: str, rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    heading = f"<h3>{title}</h3>" if title else ""
    return f'{heading}<div class="wide"><table>{lines}</table></div>'


def _answer(answer: Mapping[str, Any]) -> str:
    kinds = [_kind(content["schema"]) if "schema" in content else kind for kind, content in answer["content"].items()]
    return ", ".join(kinds)


def _kind(entry: Mapping[str, Any]) -> str:
    """What a value is, in words, with a link to what it is made of."""
    if "$ref" in entry:
        name = escape(entry["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in entry:
        return " or ".join(map(_kind, entry["anyOf"]))
    if "enum" in entry:
        return " or ".join(escape(json.dumps(value)) for value in entry["enum"])
    if entry.get("type") == "array":
        return f"list of {_kind(entry.get('items', {}))}"
    limits = [f"{words} {entry[key]}" for key, words in (("minimum", "from"), ("maximum", "to")) if key in entry]
    return " ".join([escape(entry.get("type", "object")), *limits])


def _resolved(schema: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["components"]["schemas"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
