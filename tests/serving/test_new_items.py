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


class Letters:
    """Text -> how often it has each letter."""

    def encode(self, texts, **kwargs):
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        return np.array([[text.lower().count(letter) + 0.01 for letter in letters] for text in texts], dtype=np.float32)


METHODS = {
    "care": {"codebook_sizes": [4, 4, 4]},
    "reg4rec": {"item_tokenizer": "mpq", "codebook_sizes": [8, 8, 8], "num_attention_heads": 4},
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
