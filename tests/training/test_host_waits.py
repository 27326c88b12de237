"""No method makes Python wait for a GPU inside a training step, or between the steps of a search."""

import sys

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from several_runs import RUNS, as_options, prepare_all
from tiny_cobra import make_cobra, make_cobra_processor
from tiny_codetree import make_codetree
from tiny_liger import make_liger
from tiny_reg4rec import make_reg4rec, make_set_processor
from tiny_s2gr import make_s2gr
from tiny_stream import make_stream
from tiny_tiger import make_tiger
from torch.utils._python_dispatch import TorchDispatchMode

from hf_genrec.decoding.beam_search import search_beams
from hf_genrec.method import load_method, methods
from hf_genrec.methods.reg4rec.reg4rec_search import CrssSearch
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries


def on_meta(value):
    """A batch whose tensors have shapes and no numbers: whoever asks for one fails."""
    if isinstance(value, dict):
        return {name: on_meta(part) for name, part in value.items()}
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return prepare_all(tmp_path_factory.mktemp("waits"))


def test_every_method_that_is_trained_has_a_small_run():
    trained = {name for name in methods() if load_method(name).join is None}
    assert {method for method, _, _ in RUNS.values()} == trained


@pytest.mark.parametrize("name", RUNS)
def test_a_training_step_waits_for_nothing(configs, name):
    method, keys, _ = RUNS[name]
    config = parse_config(str(configs[method]), as_options({"use_cpu": "true", "report_to": "none"} | keys))
    trainer = load_method(config.model.method).build_trainer(config)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch).backward()  # what is looked at once is looked at here
    trainer.model.zero_grad()
    trainer._terms = {}
    model, batch = trainer.model.to("meta"), on_meta(batch)
    if "negatives of" in name:  # which items of the batch are the same decides how many vectors there are
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            trainer.compute_loss(model, batch)
        return
    loss = trainer.compute_loss(model, batch, num_items_in_batch=8)
    loss.backward()
    assert loss.is_meta


class Watch(TorchDispatchMode):
    """Notes the operations whose result's shape or value the host has to wait for."""

    WAITED_FOR = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "_unique", "masked_select", "bincount")

    def __init__(self):
        super().__init__()
        self.operations = 0
        self.waits = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name, kwargs = str(operation).removeprefix("aten."), kwargs or {}
        waits = name.startswith(self.WAITED_FOR)
        waits |= name.startswith("repeat_interleave.Tensor") and kwargs.get("output_size") is None
        if name.startswith(("index.", "index_put")):
            waits |= any(index is not None and index.dtype == torch.bool for index in args[1])
        self.waits += [name] if waits else []
        self.operations += 1
        return operation(*args, **kwargs)


@pytest.mark.parametrize("with_seen", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        make_model(make_processor()),
        make_cobra(make_cobra_processor()),
        make_codetree(make_processor()),
        make_liger(),
        make_s2gr(make_processor()),
        make_stream(make_processor()),
        make_tiger(make_processor()),
    ],
    ids=lambda model: model.config.model_type,
)
def test_a_search_waits_for_nothing(model, with_seen, monkeypatch):
    histories = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.arange(8)]
    expected = model.recommend_rows(histories, 5, exclude_seen=with_seen)
    seen = []

    def watched(*args, **kwargs):
        with Watch() as watch:
            found = search_beams(*args, **kwargs)
        seen.append(watch)
        return found

    for module in list(sys.modules.values()):
        if getattr(module, "search_beams", None) is search_beams and module.__name__ != __name__:
            monkeypatch.setattr(module, "search_beams", watched)
    found = model.recommend_rows(histories, 5, exclude_seen=with_seen)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert all(watch.operations for watch in seen)
    assert [watch.waits for watch in seen] == [[]] * len(seen) != []


def test_waits_of_a_search_in_free_order():
    """For the lengths of the lists of items that are left, so often a code however many users, beams and items."""
    model = make_reg4rec(make_set_processor())
    histories = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.arange(6)]
    with torch.no_grad():
        encoding = model.get_encoder()(**model.processor.prompts(histories))
    for num_beams in (2, 5):
        with Watch() as watch:
            CrssSearch(model, encoding, model.processor.item_sets, num_beams, lookahead=True).run()
        assert watch.operations
        assert len(watch.waits) <= 11 * model.processor.item_sets.num_codebooks
