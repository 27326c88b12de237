"""The application on Ray Serve: two replicas on this machine, and a run replaced while requests go on."""

import threading

import httpx
import pytest
from serving_folders import saved_run

from hf_genrec.serving.served_model import ServedModel
from hf_genrec.serving.settings import ServerSettings

ray = pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PORT = 18765


@pytest.fixture(scope="module")
def cluster():
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27, configure_logging=False)
    yield
    serve.shutdown()
    ray.shutdown()


def test_replicas_answer_as_recommend_does_and_are_replaced_one_after_the_other(cluster, tmp_path):
    from hf_genrec.serving.ray_server import deploy

    url = f"http://127.0.0.1:{PORT}"
    runs = {name: saved_run(name, tmp_path) for name in ("care", "rearec")}
    served = {name: ServedModel(run) for name, run in runs.items()}
    wanted = {name: served[name].model.recommend(["item-3"])[0] for name in runs}
    settings = ServerSettings(token="secret")
    headers = {"Authorization": "Bearer secret"}
    deploy([("a", str(runs["care"]))], settings, "127.0.0.1", PORT, 2)
    assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
    assert httpx.get(f"{url}/models").status_code == 401
    body = {"history": ["item-3"]}
    first = httpx.post(f"{url}/recommend", json=body, headers=headers).json()
    assert [item["item_id"] for item in first["items"]] == wanted["care"]

    answers, over = [], threading.Event()

    def ask_on():
        with httpx.Client(headers=headers, timeout=60) as client:
            while not over.is_set():
                answers.append(client.post(f"{url}/recommend", json=body))

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    deploy([("a", str(runs["rearec"]))], settings, "127.0.0.1", PORT, 2)
    over.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    lists = [[item["item_id"] for item in answer.json()["items"]] for answer in answers]
    assert all(one in wanted.values() for one in lists)
    last = httpx.post(f"{url}/recommend", json=body, headers=headers).json()
    assert [item["item_id"] for item in last["items"]] == wanted["rearec"]
