"""Run folders to serve: the small saved models of every method, and one whose items have text."""

import os
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import httpx

SAVED = Path(__file__).parents[1] / "saved"


def saved_run(method: str, folder: Path) -> Path:
    """A run folder with the saved model of a method."""
    with zipfile.ZipFile(SAVED / f"{method}.zip") as archive:
        archive.extractall(folder / method / "model")
    return folder / method


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(*arguments, log):
    """(address, process) of `hf-genrec serve` once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "hf_genrec.cli", "serve", *map(str, arguments), "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()
