"""`hf-genrec serve` as a process: its port, its end under load, and what clients hear of it."""

import json
import re
import signal
import socket
import threading
import time

import httpx
import pytest
from conftest import exit_code
from serving_folders import saved_run, server

from hf_genrec.serving.served_model import ServedModel
from hf_genrec.serving.server import accepted_and_closed, bound_port


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request(tmp_path):
    run = saved_run("care", tmp_path)
    wanted = ServedModel(run).model.recommend(["item-3"], k=5)[0]
    log = tmp_path / "log.txt"
    answered, refused, lost = [], [], []
    with server(run, "--max-wait-ms", 20, log=log) as (url, process):
        ended = threading.Event()

        def ask_on(keep: bool):
            limits = httpx.Limits(max_keepalive_connections=5 if keep else 0)
            with httpx.Client(timeout=30, limits=limits) as client:
                while not ended.is_set():
                    try:
                        answered.append(client.post(f"{url}/recommend", json={"history": ["item-3"], "k": 5}))
                    except httpx.ConnectError:
                        refused.append(time.perf_counter())
                        return
                    except httpx.TransportError as error:
                        lost.append(repr(error))

        threads = [threading.Thread(target=ask_on, args=(place % 2 == 0,)) for place in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        ended.set()
        for thread in threads:
            thread.join()
    assert lost == []
    assert len(refused) == 16
    assert len(answered) > 16
    assert {answer.status_code for answer in answered} == {200}
    assert all([item["item_id"] for item in answer.json()["items"]] == wanted for answer in answered)
    # The server wrote a line for each request it took, and somebody got each answer.
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert sum(line["path"] == "/recommend" for line in lines) == len(answered)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_stopped_answers_what_it_took_and_ends_with_0(tmp_path, number):
    log = tmp_path / "log.txt"
    with server(saved_run("care", tmp_path), "--drain-seconds", 1, log=log) as (url, process), httpx.Client() as client:
        assert client.get(f"{url}/health").status_code == 200
        process.send_signal(number)
        time.sleep(0.3)
        answer = client.post(f"{url}/recommend", json={"history": ["item-3"], "k": 2}, timeout=30)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert process.wait(30) == 0
    said = [line for line in log.read_text().splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert "documentation at" in said[0]


def test_mistakes_are_one_line(tmp_path, capsys):
    run = saved_run("care", tmp_path)
    for arguments, words in [
        ((tmp_path / "nothing",), "nothing"),
        ((run, "--engine", "gunicorn"), "use uvicorn or ray"),
        ((run, "--token", ""), "the token is empty"),
        ((run, run, "--port", 0), "a name of its own"),
        ((f"a/b={run}",), "a/b="),
    ]:
        capsys.readouterr()
        assert exit_code("serve", *arguments, "--port", "0") == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if re.search("error", line)]
        assert words in line
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert exit_code("serve", run, "--port", taken.getsockname()[1]) == 2
    assert "give another --port" in capsys.readouterr().err


def test_clients_that_the_kernel_has_connected_are_accepted_before_a_port_is_closed():
    listening = bound_port("127.0.0.1", 0)
    address = listening.getsockname()
    clients = [socket.create_connection(address) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET")
    accepted = accepted_and_closed(listening)
    assert len(accepted) == 20
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for connection in accepted:
        connection.setblocking(True)
        assert connection.recv(3) == b"GET"
        connection.sendall(b"200")
    for connection in (*accepted, *clients):
        if connection in clients:
            assert connection.recv(3) == b"200"
        connection.close()
