"""New items enter a served catalogue by their text, and can be recommended."""

import asyncio
import json

import numpy as np
import pytest
import test_application
from conftest import run_pipeline
from serving_folders import saved_run

from hf_genrec.semantic_ids import embedding
from hf_genrec.serving.served_model import ServedModel
from hf_genrec.serving.settings import ServerSettings


class Letters:
    """Text -> how often it has each letter."""

    def encode(self, texts, **kwargs):
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        return np.array([[text.lower().count(letter) + 0.01 for letter in letters] for text in texts], dtype=np.float32)


METHODS = {
    "care": {"codebook_sizes": [4, 4, 4]},
    "reg4rec": {"item_tokenizer": "mpq", "codebook_sizes": [8, 8, 8], "num_attention_heads": 4},
    "cobra": {"codebook_sizes": [4, 4, 4]},
    "liger": {"codebook_sizes": [4, 4, 4], "projector_sizes": [8]},
    "rearec": {"backbone": "unisrec"},
    "rearec, projected": {"backbone": "unisrec", "text_dim": 8},
}


@pytest.fixture(scope="module")
def runs(own_data, tmp_path_factory):
    """A run of each kind on one log, trained for a step."""
    patch = pytest.MonkeyPatch()
    patch.setattr(embedding, "load_encoder", lambda source: Letters())
    folder = tmp_path_factory.mktemp("runs")
    base = (own_data / "mine.yaml").read_text().split("vectors:")[0]
    found = {}
    for name, settings in METHODS.items():
        run = folder / name.replace(", ", "-")
        lines = {
            "method": name.split(",")[0],
            "text_model": "letters",
            "max_history": 8,
            "hidden_size": 32,
            "intermediate_size": 48,
            "max_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "output_dir": str(run),
        } | settings
        config = folder / f"{run.name}.yaml"
        config.write_text(base + "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()))
        run_pipeline(config)
        found[name] = run
    yield found
    patch.undo()


@pytest.mark.parametrize("name", METHODS)
def test_a_new_item_can_be_recommended_at_once_and_what_was_there_keeps_its_score(runs, name):
    served = ServedModel(runs[name])
    before = served.model.score_items(["f01"]).numpy()
    known = list(served.processor.item_ids)
    new = [{"item_id": "n1", "title": "Film number 100"}, {"item_id": "n2", "title": "zebra zoo"}]

    async def run():
        async with test_application.client_of([served]) as client:
            added = await client.post("/items", json={"items": new})
            again = await client.post("/items", json={"items": new[:1]})
            asked = {"history": ["f01", "n1"], "candidates": ["n1", "n2"], "exclude_seen": False}
            only = await client.post("/recommend", json=asked)
            shown = await client.get("/items/n2")
            return added, again, only, shown

    added, again, only, shown = asyncio.run(run())
    assert added.status_code == 200, added.text
    assert served.processor.item_ids == [*known, "n1", "n2"]
    assert [item["item_id"] for item in added.json()["items"]] == ["n1", "n2"]
    assert again.status_code == 409
    assert "'n1' is in the catalogue already" in again.json()["detail"]
    assert {item["item_id"] for item in only.json()["items"]} == {"n1", "n2"}
    assert shown.json() == added.json()["items"][1]
    assert shown.json()["title"] == "zebra zoo"
    assert np.allclose(served.model.score_items(["f01"]).numpy()[: len(known)], before, atol=1e-5)
    if served.method.codes:
        assert len(np.unique(served.processor.codes, axis=0)) == len(known) + 2


def test_items_that_cannot_enter(runs, own_data, tmp_path):
    care = ServedModel(runs["care"])
    known = list(care.processor.item_ids)
    bodies = {
        "stands twice": [{"item_id": "n", "title": "a"}, {"item_id": "n", "title": "b"}],
        "body.items.0.title: Field required": [{"item_id": "n"}],
        "body.items.0.price: Input should be a valid string": [{"item_id": "n", "title": "a", "price": 3}],
        "body.items: List should have at least 1 item": [],
    }
    answers = test_application.ask([care], *({"items": items} for items in bodies.values()), path="/items")
    for words, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["detail"]
    assert care.processor.item_ids == known
    plain = ServedModel(saved_run("rearec", tmp_path))
    (refused,) = test_application.ask([plain], {"items": [{"item_id": "n", "title": "a"}]}, path="/items")
    assert refused.status_code == 422
    assert "it learns a vector per item" in refused.json()["detail"]
    without = ServedModel(saved_run("care", tmp_path))
    (refused,) = test_application.ask([without], {"items": [{"item_id": "n", "title": "a"}]}, path="/items")
    assert refused.status_code == 422


def test_items_that_arrive_at_once_get_different_codes(runs):
    served = ServedModel(runs["care"])
    bodies = [{"items": [{"item_id": f"n{row}", "title": "Film number 3"}]} for row in range(8)]
    answers = test_application.ask([served], *bodies, path="/items")
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len(np.unique(served.processor.codes, axis=0)) == len(served.processor.item_ids)


@pytest.mark.parametrize("name", METHODS)
def test_an_added_item_can_go_again_and_one_of_the_training_stays(runs, name):
    served = ServedModel(runs[name])
    trained = list(served.processor.item_ids)
    before = served.model.recommend(["f01"], k=30)

    async def run():
        async with test_application.client_of([served]) as client:
            for item_id, title in (("n1", "Film number 100"), ("a/b", "zebra zoo")):
                await client.post("/items", json={"items": [{"item_id": item_id, "title": title}]})
            gone = await client.delete("/items/a/b")
            shown = await client.get("/items/a/b")
            again = await client.post("/items", json={"items": [{"item_id": "a/b", "title": "Film number 3"}]})
            first = await client.delete("/items/n1")  # the one behind it moves up
            asked = {"history": ["a/b"], "candidates": ["f02", "a/b"], "exclude_seen": False}
            answer = await client.post("/recommend", json=asked)
            last = await client.delete("/items/a/b")
            refused = [await client.delete(f"/items/{item_id}") for item_id in ("f01", "n1")]
            return gone, shown, again, first, answer, last, refused

    gone, shown, again, first, answer, last, refused = asyncio.run(run())
    assert (gone.status_code, shown.status_code, again.status_code) == (200, 404, 200), gone.text
    assert (gone.json()["item_id"], gone.json()["title"]) == ("a/b", "zebra zoo")
    assert (first.json()["item_id"], last.json()["title"]) == ("n1", "Film number 3")
    assert {item["title"] for item in answer.json()["items"]} == {"Film number 2", "Film number 3"}
    assert [answer.status_code for answer in refused] == [409, 404]
    assert "only items that were added here can go" in refused[0].json()["detail"]
    assert served.processor.item_ids == trained
    item_ids, scores = served.model.recommend(["f01"], k=30)
    assert dict(zip(item_ids, scores, strict=True)) == pytest.approx(dict(zip(*before, strict=True)), abs=1e-5)


def test_whoever_waits_while_items_go_is_answered_by_the_catalogue_that_is_left(runs):
    served = ServedModel(runs["rearec"])
    new = [{"item_id": f"n{row}", "title": f"{'xyz'[row]} film"} for row in range(3)]
    wanted = {}

    async def run():
        async with test_application.client_of([served], ServerSettings(max_batch=2)) as client:
            await client.post("/items", json={"items": new})
            for item in ("n2", "f01"):
                wanted[item] = served.model.recommend([item, "f05"], k=4, candidates=["n2", "f01", "f02", "f03"])[0]
            bodies = [
                {"history": [item, "f05"], "k": 4, "candidates": ["n2", "f01", "f02", "f03"]} for item in wanted
            ] * 20
            asked = [asyncio.create_task(client.post("/recommend", json=body)) for body in bodies]
            await asyncio.sleep(0)
            gone = await asyncio.gather(*(client.delete(f"/items/n{row}") for row in (0, 1)))
            asked += [asyncio.create_task(client.post("/recommend", json=body)) for body in bodies]
            return bodies * 2, await asyncio.gather(*asked), gone

    bodies, answers, gone = asyncio.run(run())
    assert [answer.status_code for answer in gone] == [200, 200]
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.status_code == 200, answer.text
        assert [item["item_id"] for item in answer.json()["items"]] == wanted[body["history"][0]]


def test_columns_that_the_text_is_not_made_of_are_named(runs):
    for name, run in runs.items():
        served = ServedModel(run)
        item = {"item_id": "n1", "title": "Film", "price": "3", "description": "A film.", "maker": "me"}
        (answer,) = test_application.ask([served], {"items": [item]}, path="/items")
        assert answer.status_code == 200, answer.text
        assert answer.json()["unused_columns"] == ["price", "maker"], name
