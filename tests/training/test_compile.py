"""A training step of every method is one graph of torch.compile, and its loss that of the step without."""

import pytest
import torch
from several_runs import RUNS, as_options, prepare_all

from hf_genrec.method import load_method
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.slow  # a second or more each, and preparing every method's data

# What cannot be one: by run, how often its graph is cut, and where.
CUTS = {
    "reg4rec, random and own orders": 5,  # the search for the orders that the model itself would take
    "mdgr, guided views": 2,  # what the model is sure of, asked without dropout
    "cobra, negatives of the batch": 4,  # which of the batch's items are the same
    "cobra, negatives of other users": 4,
    "rearec, erl": 3,  # the softmax over all items, a function of its own that keeps no logits
    "rearec, prl with noise": 6,
    "rearec, a row per target": 6,
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return prepare_all(tmp_path_factory.mktemp("compile"))


# torch says it of its own look at a function with a backward pass of its own.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", RUNS)
def test_one_graph(configs, name):
    method, keys, _ = RUNS[name]
    config = parse_config(str(configs[method]), as_options({"use_cpu": "true", "report_to": "none"} | keys))
    trainer = load_method(config.model.method).build_trainer(config)
    batch = next(iter(trainer.get_train_dataloader()))

    def loss(**inputs):
        torch.manual_seed(0)
        return trainer.compute_loss(trainer.model, inputs)

    expected = loss(**batch)
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda **inputs: trainer.compute_loss(trainer.model, inputs))(**batch)
    assert found.graph_break_count <= CUTS.get(name, 0), found.break_reasons
    torch._dynamo.reset()
    compiled = torch.compile(lambda **inputs: trainer.compute_loss(trainer.model, inputs), backend="eager")
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(**batch), expected, rtol=1e-5, atol=1e-6)
