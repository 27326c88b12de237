"""Ray actors make the files that one process makes."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import MODELS, contents, make_run, write_histories

from hf_genrec.serving.batch import embed, recommend_users

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    # Ray's to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one core each, as far as Ray can tell."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=options)
    made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    made.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = made.address
    yield made
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()
    made.shutdown()


@pytest.mark.parametrize("method", MODELS)
def test_the_files_of_two_workers_are_those_of_one_process(cluster, tmp_path, method):
    model = MODELS[method]()
    make_run(tmp_path, model, users=50)
    recommend_users(tmp_path, tmp_path / "here", k=4, part_size=3)
    recommend_users(tmp_path, tmp_path / "ray", k=4, part_size=3, engine="ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    # what is missing alone is made again
    kept = (tmp_path / "ray/part-00003.parquet").stat().st_ino
    for number in (2, 7, 16):
        (tmp_path / f"ray/part-{number:05d}.parquet").unlink()
    recommend_users(tmp_path, tmp_path / "ray", k=4, part_size=3, engine="ray", workers=2)
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    assert (tmp_path / "ray/part-00003.parquet").stat().st_ino == kept


def test_embeddings_too(cluster, tmp_path):
    table = pa.table({"item_id": [f"i{n}" for n in range(9)], "title": [f"Film {n * n}" for n in range(9)]})
    pq.write_table(table, tmp_path / "items.parquet")
    embed(tmp_path / "items.parquet", output=tmp_path / "here", part_size=2)
    embed(tmp_path / "items.parquet", output=tmp_path / "ray", part_size=2, engine="ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_what_an_actor_refuses_is_one_line(cluster, tmp_path, model):
    model.save_pretrained(tmp_path / "model")
    path = write_histories(tmp_path / "h.parquet", [["item-1"], ["new"], ["item-2"]])
    with pytest.raises(ValueError, match=r"^item 'new' in the history of user 'u1' is not in the catalogue"):
        recommend_users(tmp_path, tmp_path / "out", histories=path, part_size=1, engine="ray")
    recommend_users(tmp_path, tmp_path / "out", histories=path, part_size=1, engine="ray", unknown="skip")
    recommend_users(tmp_path, tmp_path / "here", histories=path, part_size=1, unknown="skip")
    assert contents(tmp_path / "out") == contents(tmp_path / "here")


def test_more_threads_than_any_machine_has_cores_are_refused(cluster, tmp_path, model, monkeypatch):
    make_run(tmp_path, model, users=3)
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    with pytest.raises(ValueError, match=r"64 threads.*no machine of the cluster offers more than 1 cores"):
        recommend_users(tmp_path, engine="ray")


def test_a_killed_driver_takes_its_workers_along(tmp_path, model):
    """On a cluster of its own, which ends with it."""
    make_run(tmp_path, model, users=600)
    recommend_users(tmp_path, tmp_path / "here", k=3, part_size=3)
    command = [sys.executable, "-m", "hf_genrec.cli", "recommend", tmp_path, "--all-users", "-k", "3"]
    command += ["--part-size", "3", "--output", tmp_path / "ray", "--engine", "ray", "--workers", "2"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "ray").glob("part-*"))) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(10)
    last = contents(tmp_path / "ray")
    time.sleep(3)
    assert contents(tmp_path / "ray") == last
    found = {name: content for name, content in last.items() if name.startswith("part-")}
    assert 5 <= len(found) < 200
    whole = contents(tmp_path / "here")
    assert found.items() <= whole.items()
    recommend_users(tmp_path, tmp_path / "ray", k=3, part_size=3)
    assert contents(tmp_path / "ray") == whole
