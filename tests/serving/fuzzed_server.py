"""
Malformed requests to a running server; none may end in a failure of the server (500 and above).

    python tests/serving/fuzzed_server.py --requests 10000 --seed 1

Up to half of them are made by schemathesis from the server's own schema, of valid and of invalid values; the others are
right requests with bytes changed, cut, repeated, or other values in their places.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import httpx  # noqa: E402
import schemathesis  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import seed as hypothesis_seed  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from serving_folders import saved_run, server  # noqa: E402

METHODS = ("care", "rearec", "reg4rec")
VALUES = [
    None, True, False, 0, -1, 1.5, 1e308, 10**30, 2**63, "", "x", "item-3", "\u0000", "\ud800", "é" * 600, [], [[]],
    [None], [["item-3"]], {}, {"a": 1}, ["item-3"] * 1200, [[["item-3"]]], "raise", "skip", "care", "reg4rec",
]  # fmt: skip
BYTES = [b"[" * 3000, b"9" * 5000, b"NaN", b"-Infinity", b"\\ud800", b"\xff"]
KINDS = ["application/json"] * 6 + ["text/plain", "", "multipart/form-data; boundary=x", "application/x"]
KEYS = ("history", "histories", "k", "exclude_seen", "candidates", "unknown", "user", "model", "items", "other")


def mutated(draw: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A method, a path, a body and headers, most of them wrong."""
    body = {"history": ["item-3", "item-9"], "k": draw.randint(1, 12), "model": draw.choice(METHODS)}
    for _ in range(draw.randint(0, 3)):
        body[draw.choice(KEYS)] = draw.choice(VALUES)
    content = json.dumps(body).encode()
    for _ in range(draw.choice([0, 0, 1, 3])):
        place = draw.randrange(len(content) + 1)
        how = draw.randrange(4)
        if how == 0:
            content = content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]
        elif how == 1:
            content = content[:place]
        elif how == 2:
            content = content[:place] + content[place:] * 2
        else:
            content = content[:place] + draw.choice(BYTES) + content[place:]
    kind = draw.choice(
        ["application/json"] * 6 + ["text/plain", "", "multipart/form-data; boundary=x", "application/x"]
    )
    path = draw.choice(["/recommend"] * 8 + ["/items", "/items/item-3", "/items/%00", "/models", "/", "//", "/items/"])
    method = draw.choice(["POST"] * 8 + ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
    return method, path, content, {"content-type": kind}


def fuzz(url: str, count: int, seed: int) -> Counter:
    """What became of `count` requests, by status; `"wrong"` counts answers that are no one-line refusal."""
    found: Counter = Counter()

    def note(status: int, text: str) -> None:
        found[status] += 1
        if status >= 500:
            print(f"{status}: {text[:300]}")
        elif status in (400, 401, 404, 405, 409, 413, 422, 429):
            try:
                detail = json.loads(text)["detail"] if text else ""
            except (ValueError, KeyError, TypeError):
                detail = "\n"
            if not isinstance(detail, str) or "\n" in detail:
                found["wrong"] += 1
                print(f"wrong {status}: {text[:300]}")

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    each = count // 2 // len(operations)
    for operation in operations:
        strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(
            generation_mode=GenerationMode.NEGATIVE
        )
        send_cases(strategy, each, seed, note)

    # The rest: some addresses take nothing that could vary.
    draw = random.Random(seed)
    with httpx.Client(timeout=60) as client:
        for _ in range(count - sum(found.values()) + found["wrong"]):
            method, path, content, headers = mutated(draw)
            answer = client.request(method, url + path, content=content, headers=headers)
            note(answer.status_code, "" if method == "HEAD" or answer.status_code < 400 else answer.text)
    return found


def send_cases(strategy, count: int, seed: int, note) -> None:
    """Send `count` cases of a schemathesis strategy."""
    left = [count]

    @hypothesis_seed(seed)
    @settings(
        max_examples=2 * count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case):
        if left[0] > 0:
            left[0] -= 1
            answer = case.call(timeout=300)
            note(answer.status_code, "" if answer.status_code < 400 else answer.text)

    send()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [saved_run(name, Path(folder)) for name in METHODS]
        with server(*runs, log=Path(folder) / "log.txt") as (url, _):
            # Among the items that were there from the start: some of what is sent adds others.
            body = {"history": ["item-3"], "candidates": [f"item-{row}" for row in range(20)]}
            before = httpx.post(f"{url}/recommend", json=body).json()
            httpx.post(
                f"{url}/items", json={"items": [{"item_id": "n", "title": "n"}]}, timeout=300
            )  # loads the encoder
            found = fuzz(url, arguments.requests, arguments.seed)
            after = httpx.post(f"{url}/recommend", json=body).json()
    failed = sum(n for status, n in found.items() if status == "wrong" or status >= 500)
    print(dict(found))
    print(f"{failed} failures of {sum(found.values()) - found['wrong']} requests")
    if failed or before != after:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
