"""The server's application: answers equal to `recommend`, limits, refusals, and what the log and metrics say."""

import asyncio
import html
import json
import logging
import re
import shlex
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from serving_folders import saved_run

from hf_genrec.serving.application import build_application
from hf_genrec.serving.served_model import ServedModel
from hf_genrec.serving.settings import ServerSettings

METHODS = ["care", "rearec", "reg4rec"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {name: ServedModel(saved_run(name, folder), cache_bytes=2**20) for name in METHODS}


@asynccontextmanager
async def client_of(models, settings=None, **options):
    application = build_application(models, settings)
    inner = application.app
    async with inner.router.lifespan_context(inner):
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", **options) as client:
            yield client


def ask(models, *bodies, settings=None, path="/recommend", **options):
    """The answers to bodies that are sent at once."""

    async def run():
        async with client_of(models, settings, **options) as client:
            return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

    return asyncio.run(run())


def get(models, *paths, settings=None, headers=None):
    async def run():
        async with client_of(models, settings) as client:
            return [await client.get(path, headers=headers) for path in paths]

    return asyncio.run(run())


def random_bodies(item_ids, count, seed):
    rng = np.random.default_rng(seed)
    bodies = []
    for place in range(count):
        body = {"k": int(rng.choice([1, 3, 10, 100])), "exclude_seen": bool(rng.integers(2))}
        lengths = rng.integers(0, 12, 1 if place % 3 else 4)
        histories = [rng.choice(item_ids, length).tolist() for length in lengths]
        body |= {"history": histories[0]} if place % 3 else {"histories": histories}
        if place % 4 == 0:
            body["candidates"] = rng.choice(item_ids, 6).tolist()
        if place % 3 == 1:
            body["user"] = f"u{place % 5}"
        bodies.append(body)
    return bodies


@pytest.mark.parametrize("method", METHODS)
def test_answers_that_are_batched_equal_recommend(served, method):
    model = served[method].model
    bodies = random_bodies(model.processor.item_ids, 60, seed=1)
    for body, answer in zip(bodies, ask([served[method]], *bodies), strict=True):
        histories = body.get("history", body.get("histories"))
        item_ids, scores = model.recommend(
            histories, body["k"], body["exclude_seen"], candidates=body.get("candidates")
        )
        assert answer.status_code == 200
        found = answer.json()["items"]
        if "history" in body:
            found, item_ids, scores = [found], [item_ids], [scores]
        assert [[item["item_id"] for item in line] for line in found] == item_ids
        for line, wanted in zip(found, scores, strict=True):
            assert [item["score"] for item in line] == pytest.approx(wanted, abs=1e-5)
            assert [item["title"] for item in line] == [model.processor.title(item["item_id"]) for item in line]


def test_what_the_model_leaves_out_is_left_out_unless_a_request_says_otherwise(served):
    model = served["rearec"]
    history = model.processor.item_ids[:3]
    bodies = [{"history": history, "k": 50} | more for more in ({}, {"exclude_seen": True}, {"exclude_seen": False})]
    lists = {}
    for usual in (True, False):
        model.processor.exclude_seen = usual
        answers = [answer.json()["items"] for answer in ask([model], *bodies)]
        lists[usual] = [[item["item_id"] for item in items] for items in answers]
    everything = len(model.processor.item_ids)
    assert [len(items) for items in lists[True]] == [everything - 3, everything - 3, everything]
    assert [len(items) for items in lists[False]] == [everything, everything - 3, everything]


def test_a_user_who_comes_back_is_remembered_and_answered_alike(served):
    care = served["care"]
    care.cache.clear()
    history = ["item-3", "item-9", "item-1"]
    ask([care], {"history": history})
    assert len(care.cache) == 0  # nobody is named
    ask([care], {"history": history, "user": "u"})
    assert len(care.cache) == 1
    (longer,) = ask([care], {"history": [*history, "item-5"], "user": "u"})
    assert care.cache.hits == 1
    assert [item["item_id"] for item in longer.json()["items"]] == care.model.recommend([*history, "item-5"])[0]


def test_several_models_side_by_side(served):
    models = [served[name] for name in METHODS]
    bodies = [{"history": [], "model": name} for name in METHODS] + [{"history": []}, {"history": [], "model": "x"}]
    answers = ask(models, *bodies)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 404]
    for name, answer in zip([*METHODS, "care"], answers, strict=False):
        assert answer.json()["model"] == name
        assert [item["item_id"] for item in answer.json()["items"]] == served[name].model.recommend([])[0]
    (listed,) = get(models, "/models")
    assert [entry["model"] for entry in listed.json()["models"]] == METHODS
    with pytest.raises(ValueError, match="a name of its own"):
        build_application([served["care"], served["care"]])


def test_unknown_items_are_refused_or_left_out_and_named(served):
    history = ["item-3", "nothing", "item-9", "nothing"]
    refused, skipped, candidate = ask(
        [served["care"]],
        {"history": history},
        {"history": history, "unknown": "skip"},
        {"history": [], "candidates": ["nothing"]},
    )
    assert refused.status_code == 422
    assert "'nothing' in history 1 is not in the catalogue" in refused.json()["detail"]
    assert skipped.json()["left_out"] == ["nothing"]
    wanted = served["care"].model.recommend(["item-3", "item-9"])[0]
    assert [item["item_id"] for item in skipped.json()["items"]] == wanted
    (several,) = ask([served["care"]], {"histories": [["item-3"], history, ["x"]], "unknown": "skip"})
    assert several.json()["left_out"] == [[], ["nothing"], ["x"]]
    assert candidate.status_code == 422
    assert "candidates" in candidate.json()["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "give either history or histories"),
        ({"history": [], "histories": [[]]}, "give either history or histories"),
        ({"histories": [[]], "user": "u"}, "give it with history"),
        ({"history": "item-3"}, "body.history: Input should be a valid list"),
        ({"history": [3]}, "body.history.0: Input should be a valid string"),
        ({"history": [], "k": 0}, "greater than or equal to 1"),
        ({"history": [], "k": 101}, "less than or equal to 100"),
        ({"history": [], "k": "3"}, "body.k: Input should be a valid integer"),
        ({"history": [], "k": True}, "body.k: Input should be a valid integer"),
        ({"history": [], "exclude_seen": 1}, "body.exclude_seen"),
        ({"history": [], "kk": 3}, "body.kk: Extra inputs are not permitted"),
        ({"histories": []}, "at least 1 item"),
        ({"histories": [[]] * 257}, "at most 256 items"),
        ({"history": ["item-3"] * 1001}, "at most 1000 items"),
        ({"history": ["x" * 513]}, "at most 512 characters"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_what_cannot_be_answered_is_one_line(served, body, words):
    (answer,) = ask([served["care"]], body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b'{"history": ["\\ud800"]}', 422),
        (b'{"history": ["\\u0000"]}', 422),
        (b'{"history": [], "k": NaN}', 422),
        (b'{"history": [], "k": ' + b"9" * 5000 + b"}", 400),
        (b'{"history": ' + b"[" * 50_000, 400),
        (b"\xff\xff", 400),
        (b"\xff\xfe", 422),
        (b'{"history": [], "history": []}', 200),
    ],
)
def test_odd_bytes_end_in_an_answer(served, content, status):
    async def run():
        async with client_of([served["care"]]) as client:
            return await client.post("/recommend", content=content, headers={"content-type": "application/json"})

    answer = asyncio.run(run())
    assert answer.status_code == status
    if status != 200:
        assert "\n" not in answer.json()["detail"]


def test_large_bodies_are_refused_whether_they_say_their_size_or_not(served):
    settings = ServerSettings(max_body_bytes=1000)

    async def chunks():
        for _ in range(3):
            yield b" " * 500

    async def run():
        async with client_of([served["care"]], settings) as client:
            headers = {"content-type": "application/json"}
            said = await client.post("/recommend", content=b" " * 1001, headers=headers)
            unsaid = await client.post("/recommend", content=chunks(), headers=headers)
            fits = await client.post("/recommend", content=b'{"history": []}'.ljust(1000), headers=headers)
            return said, unsaid, fits

    said, unsaid, fits = asyncio.run(run())
    assert [said.status_code, unsaid.status_code, fits.status_code] == [413, 413, 200]
    assert "larger than 1000 bytes" in said.json()["detail"]


def test_beyond_the_queue_requests_are_told_when_to_come_back(served):
    settings = ServerSettings(max_queue=4, max_batch=2)
    answers = ask([served["care"]], *[{"history": []}] * 40, {"histories": [[]] * 5}, settings=settings)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses[0] == 200
    full = answers[-1]
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert "too many requests wait" in full.json()["detail"]


def test_the_token(served):
    settings = ServerSettings(token="secret")
    care = [served["care"]]
    paths = ("/health", "/ready", "/models", "/metrics", "/docs", "/openapi.json")
    assert [answer.status_code for answer in get(care, *paths, settings=settings)] == [200, 200, 401, 401, 200, 200]
    for given in ("secret", "Bearer", "Bearer secre", "Bearer secrets", "Basic secret"):
        (answer,) = get(care, "/models", settings=settings, headers={"Authorization": given})
        assert answer.status_code == 401, given
    (answer,) = get(care, "/models", settings=settings, headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 200


def test_the_documentation_needs_no_token_and_names_no_item(served):
    page, schema, first = get([served["care"]], "/docs", "/openapi.json", "/", settings=ServerSettings(token="secret"))
    assert first.headers["location"] == "/docs"
    for text in (page.text, schema.text):
        assert "secret" not in text
        named = set(re.findall(r"item-\d+", text))
        assert named <= {"item-1", "item-2", "item-3"}
    assert "-H &quot;Authorization: Bearer $TOKEN&quot;" in page.text
    described = schema.json()
    assert described["security"] == [{"token": []}]
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert [described["paths"][path]["get"].get("security") for path in ("/health", "/models")] == [[], None]
    (open_page,) = get([served["care"]], "/openapi.json")
    assert "security" not in open_page.json()


def test_items_of_the_catalogue(served):
    care = served["care"]
    found, missing = get([care], "/items/item-3", "/items/a/b")
    row = care.processor.item_ids.index("item-3")
    assert found.json() == {
        "model": "care",
        "item_id": "item-3",
        "title": "Title 3",
        "semantic_id": care.processor.codes[row].tolist(),
        "popularity": int(care.processor.popularity[row]),
    }
    assert missing.status_code == 404
    assert "'a/b' is not in the catalogue" in missing.json()["detail"]
    (without_codes,) = get([served["rearec"]], "/items/item-3")
    assert without_codes.json()["semantic_id"] is None


def test_a_line_of_the_log_for_each_request_without_titles_and_ids(served, caplog):
    with caplog.at_level(logging.INFO, "hf_genrec.serving.requests"):
        ask([served["care"]], {"history": ["item-3"], "user": "somebody"}, {"history": ["nothing"]})
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name.endswith("requests")]
    assert sorted(line["status"] for line in lines) == [200, 422]
    answered = next(line for line in lines if line["status"] == 200)
    assert answered["model"] == "care"
    assert answered["histories"] == 1
    assert answered["ms"] > 0
    text = json.dumps(lines)
    assert not any(word in text for word in ("Title", "item-", "somebody", "nothing"))


def test_metrics_count_requests_batches_and_the_cache(served):
    async def run():
        async with client_of([served["care"]]) as client:
            for _ in range(3):
                await client.post("/recommend", json={"history": ["item-3"], "user": "u"})
            await client.post("/recommend", json={})
            await client.get("/items/nothing")
            await client.get("/nowhere/at/all")
            return (await client.get("/metrics")).text

    text = asyncio.run(run())
    assert 'hf_genrec_requests_total{path="/recommend",status="200"} 3.0' in text
    assert 'hf_genrec_requests_total{path="/recommend",status="422"} 1.0' in text
    assert 'hf_genrec_requests_total{path="/items/{id}",status="404"} 1.0' in text
    assert 'hf_genrec_requests_total{path="other",status="404"} 1.0' in text  # not a label for every address
    assert 'hf_genrec_batch_histories_count{model="care"} 3.0' in text
    assert 'hf_genrec_catalogue_items{model="care"} 40.0' in text
    assert f'hf_genrec_cached_bytes{{model="care"}} {float(served["care"].cache.num_bytes)}' in text


def test_a_model_that_fails_is_a_failure_of_this_request_alone(served, monkeypatch):
    care = served["care"]
    answer_of = care.answer
    fails = {"left": 0}

    def answer(questions):
        if fails["left"]:
            fails["left"] -= 1
            raise RuntimeError("out of\nmemory")
        return answer_of(questions)

    monkeypatch.setattr(care, "answer", answer)

    async def run():
        async with client_of([care]) as client:
            fails["left"] = 1
            return [await client.post("/recommend", json={"history": []}) for _ in range(2)]

    failed, next_one = asyncio.run(run())
    assert failed.status_code == 500
    assert failed.json()["detail"] == "the model failed: out of memory"
    assert next_one.status_code == 200


def test_no_answer_in_time(served, monkeypatch):
    import time

    care, answer_of = served["care"], served["care"].answer
    slow = {"seconds": 0.0}

    def answer(questions):
        time.sleep(slow["seconds"])
        return answer_of(questions)

    monkeypatch.setattr(care, "answer", answer)

    async def run():
        async with client_of([care], replace(ServerSettings(), timeout_seconds=0.1)) as client:
            slow["seconds"] = 0.3
            return await client.post("/recommend", json={"history": []})

    late = asyncio.run(run())
    assert late.status_code == 504
    assert "no answer within 0.1 seconds" in late.json()["detail"]


def test_the_documentation_has_examples_that_work(served):
    (page,) = get([served["care"]], "/openapi.json")
    schemas = page.json()["components"]["schemas"]
    examples = schemas["RecommendRequest"]["examples"]
    assert len(examples) == 2
    assert [answer.status_code for answer in ask([served["care"]], *examples)] == [200, 200]
    (shown,) = get([served["care"]], "/docs")
    assert shown.headers["content-type"].startswith("text/html")
    assert not re.findall(r"<script|<link|<img|src=|@import|url\(", shown.text)  # nothing is loaded, from nowhere
    for path, operations in page.json()["paths"].items():
        for method in operations:
            assert f"<b>{method.upper()}</b> <code>{path}</code>" in shown.text
    for name, schema in schemas.items():
        assert f'<h3 id="{name}">' in shown.text
        for field in schema["properties"]:
            assert f"<code>{field}</code>" in shown.text
    for example in examples:
        assert f"-d {html.escape(shlex.quote(json.dumps(example)))}" in shown.text
    assert {"/recommend", "/items", "/items/{item_id}", "/models", "/health", "/ready", "/metrics"} == set(
        page.json()["paths"]
    )
