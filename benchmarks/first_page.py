"""From nothing to a page that recommends: the wheel into an empty environment, then docs/tutorial.md, timed.

    python -m benchmarks.first_page                # with the versions of constraints.txt
    python -m benchmarks.first_page --extras train,serve,demo --place /tmp/first

Builds the wheel, installs it as a stranger would, writes the tutorial's two CSV files, runs its commands, and asks the
server and the demo for an answer. Packages come from where pip is told to find them. Seconds of wall clock.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks.cells import write_row
from benchmarks.measure import environment

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
WAIT = 180


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, flags=re.DOTALL)


def answer(request: Request | str) -> bytes:
    """What a server says, once it is there."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            with urlopen(request, timeout=WAIT) as response:
                return response.read()
        except (URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def server(command: list[str], place: Path) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", default="train,serve,demo", help="of the wheel, separated by commas")
    parser.add_argument("--place", type=Path, help="a folder to work in and to keep; by default one that is removed")
    given = parser.parse_args()
    if given.place is not None:
        given.place.mkdir(parents=True, exist_ok=True)
        walk(given.place, given.extras)
        return
    with tempfile.TemporaryDirectory() as folder:
        walk(Path(folder), given.extras)


def walk(place: Path, extras: str) -> None:
    spent: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent[stage] = time.perf_counter() - start
        print(f"{stage:10s} {spent[stage]:6.1f} s", flush=True)

    def run(*command) -> None:
        with (place / "log.txt").open("a") as log:
            subprocess.run([str(word) for word in command], cwd=place, check=True, stdout=log, stderr=log)

    shutil.rmtree(ROOT / "build", ignore_errors=True)  # what an earlier build left would be in the wheel
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", place, ROOT)
    (wheel,) = place.glob("hf_genrec-*.whl")
    python, program = place / "venv/bin/python", place / "venv/bin/hf-genrec"
    with timed("install"):
        run(sys.executable, "-m", "venv", place / "venv")
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[{extras}]")
    run(python, "-c", blocks("python")[0])
    (place / "films.yaml").write_text(*blocks("yaml"), encoding="utf-8")
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines() if "runs/films" in line]
    commands = [["hf-genrec", stage, "--config", "films.yaml"] for stage in ("prepare", "tokenize", "train")] + commands
    for words in commands:
        if words[1] not in ("serve", *spent):
            with timed(words[1]):
                run(program, *words[1:])
    port = free_port()
    if "serve" in extras:
        body = json.dumps({"history": ["f00", "f04", "f08"], "k": 3}).encode()
        asked = Request(f"http://127.0.0.1:{port}/recommend", body, {"Content-Type": "application/json"})
        with timed("serve"), server([str(program), "serve", "runs/films", "--port", str(port)], place):
            assert len(json.loads(answer(asked))["items"]) == 3
    if "demo" in extras:
        with timed("demo"), server([str(program), "demo", "runs/films", "--port", str(port)], place):
            assert b"<html" in answer(f"http://127.0.0.1:{port}/")
    print(f"{'all':10s} {sum(spent.values()):6.1f} s")
    load = os.getloadavg()[0]
    write_row("first_page", "tutorial", {"cell": extras, "seconds": spent, "load": load, **environment()})


if __name__ == "__main__":
    main()
