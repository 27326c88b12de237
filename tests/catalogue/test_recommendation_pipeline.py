"""A saved folder behind transformers' `pipeline` and the endpoints' `handler.py`, in a process without hf_genrec."""

import pytest
import torch
from conftest import make_model, make_processor
from strangers import strangers_answers
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from torch.utils.data import Dataset

import hf_genrec
from hf_genrec.catalogue.handler import EndpointHandler, _options
from hf_genrec.hub import WITHOUT_LIBRARY, model_fingerprint, require_pushable

MAKERS = {
    "care": lambda: make_model(make_processor()),
    "rearec": tiny_rearec,
    "reg4rec": lambda: make_reg4rec(make_set_processor()),
}

# As huggingface_inference_toolkit.utils.check_and_register_custom_pipeline_from_directory has it.
STRANGER = (
    WITHOUT_LIBRARY
    + """
import importlib.util, json, os
from pathlib import Path
import torch
from transformers import pipeline
torch.set_num_threads(1)

def handler_of(model_dir):
    custom_module = Path(model_dir).joinpath("handler.py")
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", custom_module)
    sys.path.insert(0, model_dir)
    handler = importlib.util.module_from_spec(spec)
    sys.modules["handler.EndpointHandler"] = handler
    spec.loader.exec_module(handler)
    return handler.EndpointHandler(model_dir)

found = []
for folder, bodies in json.loads(sys.argv[1]):
    recommender = pipeline("recommendation", model=folder, trust_remote_code=True)
    by_pipeline = [recommender(body["inputs"], **body.get("parameters", {})) for body in bodies]
    recommender.save_pretrained(folder + "-again")
    handler = handler_of(folder + "-again")
    found.append({"pipeline": by_pipeline, "handler": [handler(body) for body in bodies]})
# The only task that the folder names.
assert pipeline(model=folder, trust_remote_code=True).task == "recommendation"
print(json.dumps(found))
"""
)


@pytest.fixture(scope="module")
def models():
    torch.set_num_threads(1)
    return {name: make() for name, make in MAKERS.items()}


def bodies(ids):
    """What is asked, and what `recommend` is to be asked for the same."""
    several, mixed = [ids[3:5], [], ids[5:6]], [ids[1], "no such item", ids[2]]
    return [
        ({"inputs": ids[3:5]}, ids[3:5], {}),
        ({"inputs": [], "parameters": {"k": 3}}, [], {"k": 3}),
        ({"inputs": several, "parameters": {"k": 4, "exclude_seen": True}}, several, {"k": 4, "exclude_seen": True}),
        ({"inputs": [[]]}, [[]], {}),
        ({"inputs": {"history": ids[:2]}, "parameters": {"candidates": ids[:6]}}, ids[:2], {"candidates": ids[:6]}),
        ({"inputs": {"histories": several}, "parameters": {"k": 2}}, several, {"k": 2}),
        ({"inputs": mixed, "parameters": {"unknown": "skip"}}, mixed, {"unknown": "skip"}),
        ({"inputs": several, "parameters": {"batch_size": 1}}, several, {"batch_size": 1}),
    ]


def in_json(model, history, options):
    """The answer of `recommend` as the pipeline has it."""
    item_ids, scores = model.recommend(history, **options)
    single = not (history and isinstance(history[0], list))
    lists = [(item_ids, scores)] if single else list(zip(item_ids, scores, strict=True))
    answers = [
        [
            {"item_id": item_id, "title": model.processor.title(item_id), "score": score}
            for item_id, score in zip(*one, strict=True)
        ]
        for one in lists
    ]
    return answers[0] if single else answers


def close(found, expected):
    """The same answers; scores are sums in another order in another process."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == expected | {"score": pytest.approx(expected["score"], abs=1e-4)}


def test_a_stranger_asks_every_method(models, tmp_path):
    asked = []
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        require_pushable(tmp_path / name, "my-org/my-model")
        asked.append([str(tmp_path / name), [body for body, *_ in bodies(model.processor.item_ids)]])
    for (name, model), found in zip(models.items(), strangers_answers(STRANGER, asked, tmp_path), strict=True):
        expected = [in_json(model, history, options) for _, history, options in bodies(model.processor.item_ids)]
        assert close(found["pipeline"], expected), name
        assert close(found["handler"], expected), name
        assert model_fingerprint(tmp_path / name) == model_fingerprint(tmp_path / f"{name}-again")


@pytest.fixture
def recommender(models):
    return hf_genrec.RecommendationPipeline(model=models["care"], k=3)


def test_options_may_be_given_once_for_all(models, recommender):
    model = models["care"]
    assert recommender(["item-3"]) == in_json(model, ["item-3"], {"k": 3})
    assert recommender(["item-3"], k=1) == in_json(model, ["item-3"], {"k": 1})
    assert recommender(history=["item-3"]) == recommender({"history": ["item-3"], "k": 3}) == recommender(["item-3"])
    assert recommender(histories=[]) == []


@pytest.mark.parametrize("name", ["care", "reg4rec"])
def test_a_number_of_any_size_comes_by_json(models, name):
    recommender = hf_genrec.RecommendationPipeline(model=models[name])
    history = models[name].processor.item_ids[:1]
    assert recommender(history, num_beams=2**70, k=2**70, batch_size=2**70) == recommender(history, num_beams=99, k=40)


class Histories(Dataset):
    def __len__(self):
        return 70

    def __getitem__(self, place):
        assert place < 70, "read past its end"
        return [f"item-{place % 40}"] * (place % 3)


def test_streams_are_answered_as_they_are_read(models, recommender):
    histories = [Histories()[place] for place in range(70)]
    expected = in_json(models["care"], histories, {"k": 3})
    read = []

    def generator():
        for place, history in enumerate(histories):
            read.append(place)
            yield history

    for source in (Histories(), generator()):
        answers = recommender(source, batch_size=8)
        first = next(answers)
        assert len(read) in (0, 8)
        found = [first, *answers]
        assert [[item["item_id"] for item in line] for line in found] == [
            [item["item_id"] for item in line] for line in expected
        ]
    with pytest.raises(ValueError, match=r"history 2: 'item-3' is no list"):
        list(recommender(history for history in [["item-3"], "item-3"]))


MISTAKES = [
    ([1, 2], r"no inputs"),
    ({"history": ["item-3"]}, r"no inputs"),
    ({"inputs": ["item-3"], "k": 3}, r"key 'k'"),
    ({"inputs": ["item-3"], "parameters": [3]}, r"parameters are no object"),
    ({"inputs": None}, r"Give a history"),
    ({"inputs": {}}, r"Give a history"),
    ({"inputs": {"history": ["item-3"], "histories": [["item-3"]]}}, r"Give a history"),
    ({"inputs": {"history": [["item-3"]]}}, r"history holds lists"),
    ({"inputs": {"histories": ["item-3"]}}, r"histories holds item ids"),
    ({"inputs": {"history": "item-3"}}, r"history: 'item-3' is no list"),
    ({"inputs": {"history": ["item-3"], "k": 3}, "parameters": {"k": 3}}, r"k stands in the inputs and beside"),
    ({"inputs": "item-3"}, r"'item-3' is no list"),
    ({"inputs": ["item-3"], "parameters": {"inputs": ["item-3"]}}, r"parameters hold 'inputs'"),
    ({"inputs": 7}, r"7 is no list"),
    ({"inputs": [7]}, r"Item 7 in the history"),
    ({"inputs": [["item-3"], 7]}, r"entry 2 is 7"),
    ({"inputs": [{"text": "a"}]}, r"Item a dict in the history"),
    ({"inputs": ["nothing"]}, r"'nothing' in the history is not in the catalogue"),
    ({"inputs": ["item-3"], "parameters": {"unknown": "drop"}}, r"unknown='drop'"),
    ({"inputs": ["item-3"], "parameters": {"k": 0}}, r"k=0"),
    ({"inputs": ["item-3"], "parameters": {"k": "5"}}, r"k='5'"),
    ({"inputs": ["item-3"], "parameters": {"k": 2.5}}, r"k=2.5"),
    ({"inputs": ["item-3"], "parameters": {"exclude_seen": "yes"}}, r"exclude_seen='yes'"),
    ({"inputs": ["item-3"], "parameters": {"candidates": []}}, r"candidates is empty"),
    ({"inputs": ["item-3"], "parameters": {"candidates": ["nothing"]}}, r"'nothing' in candidates"),
    (
        {"inputs": ["item-3"], "parameters": {"top_k": 3}},
        r"no parameter 'top_k': this endpoint takes k, exclude_seen, candidates, unknown, num_beams, batch_size, \w+.$",
    ),
    ({"inputs": ["item-3"], "parameters": {"as_frame": True}}, r"no parameter 'as_frame'"),
    ({"inputs": {"history": ["item-3"], "user_cache": 1}}, r"no parameter 'user_cache'"),
    ({"inputs": ["item-3"], "parameters": {"batch_size": 0}}, r"batch_size=0"),
]


def test_an_endpoint_names_what_the_method_takes():
    assert _options(make_reg4rec(make_set_processor())) == [
        *("k", "exclude_seen", "candidates", "unknown"),
        *("num_beams", "batch_size", "order", "reflection_threshold", "lookahead"),
    ]
    assert _options(tiny_rearec()) == ["k", "exclude_seen", "candidates", "unknown", "batch_size"]


@pytest.mark.parametrize(("body", "message"), MISTAKES)
def test_a_mistake_is_one_line(recommender, body, message):
    """The toolkit answers with `str(error)`."""
    handler = EndpointHandler.__new__(EndpointHandler)
    handler.pipeline = recommender
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        handler(body)
    assert "\n" not in str(raised.value)
