"""Requests per second and their waiting times: `hf-genrec serve` beside a plain FastAPI loop and litserve, in one run.

    python -m benchmarks.serving                     # the table of docs/serve.md
    python -m benchmarks.serving --servers "hf-genrec serve" --clients 1 --seconds 20    # one client, more requests
    python -m benchmarks.serving --memory 100000     # resident memory as requests go on

All servers hold one CARE of the size of configs/care/beauty-published.yaml with random weights (time does not depend on
what they say) over 12,101 items, and answer histories of 2 to 20 items with ten items each, on as many threads as torch
takes.
Clients are one more process of the machine. They send a request as soon as the last one is answered, or after the time
that a 429 tells them. Every answer is compared with that of `model.recommend`.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

import hf_genrec
from benchmarks.cells import write_row
from benchmarks.generation import build

ITEMS, HISTORY, K, HISTORIES = 12_101, 20, 10, 256
CLIENTS = (1, 8, 32, 128)
SERVE = ["-m", "hf_genrec.cli", "serve"]
SERVERS = {
    "hf-genrec serve": (SERVE, "history"),
    "hf-genrec serve, user cache": (SERVE, "user"),
    "hf-genrec serve, no batches": ([*SERVE, "--max-batch", "1"], "history"),
    "plain FastAPI": (["-m", "benchmarks.serving_peers", "plain"], "history"),
    "litserve": (["-m", "benchmarks.serving_peers", "litserve"], "history"),
}


@contextmanager
def started(program: list[str], run: Path):
    """(port, process) of a server of the run, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--port", str(port)] if program[1] == "hf_genrec.cli" else [str(port)]
    command = [sys.executable, *program[:3], str(run), *program[3:], *place]
    with open(run / "server.log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise RuntimeError((run / "server.log").read_text(encoding="utf-8")[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
        process.wait()


class Client:
    """One connection that is kept; asks and waits, and asks again."""

    async def open(self, port: int) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(self, body: bytes) -> tuple[int, int, bytes]:
        """Status, seconds to wait before asking again, and what was answered."""
        head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self.writer.write(head.encode() + b"\r\n\r\n" + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(b":") for line in lines[1:])}
        answer = await self.reader.readexactly(int(headers[b"content-length"]))
        return int(lines[0].split()[1]), int(headers.get(b"retry-after", 0)), answer


async def load(port: int, clients: int, seconds: float, bodies: list[bytes], wanted: list[list[str]]) -> dict:
    """What so many clients see for so many seconds, after a tenth of them that does not count."""
    opened = [await Client().open(port) for _ in range(clients)]
    begin = time.perf_counter() + seconds / 10
    end, times, statuses, wrong = begin + seconds, [], {}, 0

    async def ask_on(client: Client, place: int) -> None:
        nonlocal wrong
        while (now := time.perf_counter()) < end:
            place = (place + clients) % len(bodies)
            status, wait, answer = await client.ask(bodies[place])
            if (done := time.perf_counter()) < begin:
                continue
            statuses[status] = statuses.get(status, 0) + 1
            if status != 200:
                await asyncio.sleep(wait)
            else:
                times.append(done - now)
                wrong += [item["item_id"] for item in json.loads(answer)["items"]] != wanted[place]

    await asyncio.gather(*(ask_on(client, place) for place, client in enumerate(opened)))
    took = time.perf_counter() - begin
    for client in opened:
        client.writer.close()
    p50, p99 = (np.percentile(times, [50, 99]) * 1000).tolist()
    return {
        "clients": clients,
        "requests_per_second": statuses.get(200, 0) / took,
        "p50_ms": p50,
        "p99_ms": p99,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "wrong": wrong,
    }


def bare(run: Path, histories: list[list[str]], seconds: float) -> dict:
    """`model.recommend`, one history after the other, in this process."""
    model, times, place = hf_genrec.load(run), [], 0
    model.recommend(histories[0], k=K)
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        place = (place + 1) % len(histories)
        model.recommend(histories[place], k=K)
        times.append(time.perf_counter() - now)
    p50, p99 = (np.percentile(times, [50, 99]) * 1000).tolist()
    return {"requests_per_second": 1 / statistics.mean(times), "p50_ms": p50, "p99_ms": p99}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), metavar="SERVER")
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--memory", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    histories = [[str(row) for row in rng.integers(0, ITEMS, rng.integers(2, HISTORY))] for _ in range(HISTORIES)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        model = build(ITEMS, arguments.layers, arguments.hidden, HISTORY, levels=3)
        model.save_pretrained(run / "model")
        wanted = model.recommend(histories, k=K)[0]
        del model
        if arguments.memory:
            memory(run, histories, wanted, arguments.memory)
        else:
            table(run, histories, wanted, arguments)


def bodies_of(histories: list[list[str]], kind: str) -> list[bytes]:
    bodies = [{"history": history, "k": K} for history in histories]
    if kind == "user":
        bodies = [body | {"user": str(place)} for place, body in enumerate(bodies)]
    return [json.dumps(body).encode() for body in bodies]


def table(run: Path, histories: list[list[str]], wanted: list[list[str]], given: argparse.Namespace) -> None:
    """Rounds of all servers and numbers of clients; the medians are kept."""
    found: dict[tuple[str, int], list[dict]] = {}
    alone: list[dict] = []
    seconds, rounds = given.seconds, given.rounds
    for _ in range(rounds):
        alone.append(bare(run, histories, seconds))
        for name in given.servers:
            program, kind = SERVERS[name]
            with started(program, run) as (port, _):
                bodies = bodies_of(histories, kind)
                for clients in given.clients:
                    measured = asyncio.run(load(port, clients, seconds, bodies, wanted))
                    found.setdefault((name, clients), []).append(measured)
    rows = {("bare recommend", 1): median(alone)} | {key: median(measured) for key, measured in found.items()}
    for (name, clients), row in rows.items():
        cell = {"cell": f"{name}, {clients:3d} clients, {seconds:g} s", "rounds": rounds, "seconds": seconds}
        write_row("serving", "servers", cell | row)
        print(
            f"{name:28s} {clients:4d} {row['requests_per_second']:8.1f} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f}", row
        )
    if max(given.clients) < 128:
        return
    with started([*SERVE, "--max-queue", "16"], run) as (port, _):
        beyond = asyncio.run(load(port, 128, seconds, bodies_of(histories, "history"), wanted))
    write_row("serving", "servers", {"cell": "beyond capacity: 128 clients, a queue of 16", **beyond})
    print("beyond capacity", beyond)


def median(measured: list[dict]) -> dict:
    """The medians of the rounds; counts are added up."""
    row = {key: statistics.median(one[key] for one in measured) for key in ("requests_per_second", "p50_ms", "p99_ms")}
    if "wrong" in measured[0]:
        row["wrong"] = sum(one["wrong"] for one in measured)
        statuses: dict[str, int] = {}
        for one in measured:
            for status, count in one["statuses"].items():
                statuses[status] = statuses.get(status, 0) + count
        row["statuses"] = statuses
    return row


def memory(run: Path, histories: list[list[str]], wanted: list[list[str]], requests: int) -> None:
    """Resident memory of a server after each tenth of the requests, of 32 clients who are users."""
    with started([*SERVE, "--cache-bytes", "20000000"], run) as (port, process):
        sizes = []

        async def tenth(client_count: int = 32) -> None:
            clients = [await Client().open(port) for _ in range(client_count)]
            bodies = bodies_of(histories, "user")

            async def some(client: Client, place: int) -> None:
                for _ in range(requests // 10 // client_count):
                    place = (place + client_count) % len(bodies)
                    status, _, answer = await client.ask(bodies[place])
                    assert status == 200, answer
                    assert [item["item_id"] for item in json.loads(answer)["items"]] == wanted[place]

            await asyncio.gather(*(some(client, place) for place, client in enumerate(clients)))
            for client in clients:
                client.writer.close()

        for _ in range(10):
            asyncio.run(tenth())
            sizes.append(process.memory_info().rss / 2**20)
            print(f"{len(sizes) * requests // 10:8d} requests, {sizes[-1]:.1f} MiB", flush=True)
    write_row("serving", "servers", {"cell": f"memory over {requests} requests", "mib": sizes})


if __name__ == "__main__":
    main()
