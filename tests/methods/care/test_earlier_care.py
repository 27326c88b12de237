"""From an old log to a newer one: codes, weights, and what cannot be continued."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_genrec.data.prepared import PreparedData
from hf_genrec.method import load_model
from hf_genrec.methods.care.training_care import build_trainer
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.trainers import prepare_data, tokenize_items, train
from hf_genrec.training.config import parse_config

pytestmark = pytest.mark.libraries

GENRES = ["western", "horror", "comedy", "romance", "war", "musical"]
KEYS = {
    "method": "care",
    "source": "tabular", "vectors": "both", "collaborative_dim": 4, "codebook_sizes": "4 4 4",
    "projection_dim": 8, "max_history": 6, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_train_epochs": 8, "learning_rate": 0.01, "per_device_train_batch_size": 2, "packed_row_tokens": 64,
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false", "use_cpu": "true",
    "report_to": "none", "disable_tqdm": "true",
}  # fmt: skip


def write_log(folder, users: int, items: int) -> None:
    """Even users like even items; a newer log has more of both, and starts with the newest item."""
    folder.mkdir()
    films = [f"f{item:02d},A {GENRES[item % 6]} in {item} acts" for item in reversed(range(items))]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *films]) + "\n")
    rng, log = np.random.default_rng(0), ["user_id,item_id,timestamp"]
    for user in range(users):
        seen = rng.permutation(np.arange(user % 2, items, 2))[:7]
        log += [f"u{user:02d},f{item:02d},{1000 * place}" for place, item in enumerate(seen)]
    (folder / "log.csv").write_text("\n".join(log) + "\n")


def configure(data, run, **keys):
    paths = {"source_path": data / "log.csv", "item_path": data / "items.csv", "output_dir": run}
    settings = KEYS | paths | keys
    return parse_config(None, [part for name, value in settings.items() for part in (f"--{name}", *str(value).split())])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run of an old log; and a newer log, prepared and tokenized with its codes."""
    folder = tmp_path_factory.mktemp("newer")
    write_log(folder / "old-data", 30, 16)
    write_log(folder / "new-data", 40, 20)
    old = configure(folder / "old-data", folder / "old")
    prepare_data.main(old)
    tokenize_items.main(old)
    train.main(old)
    new = configure(folder / "new-data", folder / "new", codes_run=folder / "old")
    prepare_data.main(new)
    tokenize_items.main(new)
    return folder


def newer(folder, **keys):
    return configure(folder / "new-data", folder / "new", **{"codes_run": folder / "old"} | keys)


@torch.no_grad()
def first_loss(config) -> float:
    """Of the first batch, before any step."""
    trainer = build_trainer(config)
    return trainer.model.eval()(**next(iter(trainer.get_train_dataloader()))).loss.item()


def test_old_items_keep_their_codes_and_new_ones_get_some(runs):
    old, new = (SemanticIds.load(runs / name / "semantic_ids") for name in ("old", "new"))
    assert (len(old), len(new)) == (16, 20)
    assert new.item_ids == PreparedData.load(runs / "new/data").item_ids
    codes = dict(zip(new.item_ids, new.codes.tolist(), strict=True))
    assert [codes[item_id] for item_id in old.item_ids] == old.codes.tolist()
    assert len(set(map(tuple, codes.values()))) == 20
    tokenizers = [load_file(runs / name / "semantic_ids/item_tokenizer/model.safetensors") for name in ("old", "new")]
    assert all(torch.equal(tokenizers[0][name], tokenizers[1][name]) for name in tokenizers[0])
    health = json.loads((runs / "new/semantic_ids/health.json").read_text())
    assert health["items"] == health["unique_ids"] == 20
    assert health["collisions"]["after"]["items"] == 0


def test_training_starts_from_the_earlier_weights(runs):
    assert first_loss(newer(runs, base_model=runs / "old")) < first_loss(newer(runs)) - 0.3
    config = newer(runs, base_model=runs / "old/model", num_train_epochs=1, max_history=12)
    trainer = build_trainer(config)
    before = load_file(runs / "old/model/model.safetensors")
    weights = trainer.model.state_dict()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert trainer.model.config.max_history == 12
    assert trainer.model.config.max_position_embeddings == 13 * 3 + 1 + 3
    item_ids, _ = trainer.model.recommend(["f00", "f19"], k=20)
    assert sorted(item_ids) == [f"f{item:02d}" for item in range(20)]


def test_the_whole_way(runs, tmp_path):
    config = newer(runs, base_model=runs / "old", num_train_epochs=1, output_dir=tmp_path / "run")
    for part in ("data", "semantic_ids"):
        shutil.copytree(runs / "new" / part, tmp_path / "run" / part)
    train.main(config)
    model = load_model(tmp_path / "run/model")
    assert len(model.recommend(["f00", "f19"], k=20, exclude_seen=False)[0]) == 20
    assert (tmp_path / "run/model/item_tokenizer/config.json").is_file()


def test_queries_go_on_where_their_numbers_agree(runs, caplog):
    model = build_trainer(newer(runs, base_model=runs / "old", num_queries="1 2 1")).model
    table = load_file(runs / "old/model/model.safetensors")["model.query_embeddings.weight"]
    now = model.model.query_embeddings.weight
    assert torch.equal(now[[0, 3]], table[[0, 2]])
    assert not torch.equal(now[1], table[1])
    assert "num_queries is [1, 2, 1], that of base_model" in caplog.text


def test_other_codes_are_refused(runs, tmp_path):
    def copied(name):
        shutil.copytree(runs / "new", tmp_path / name)
        return configure(runs / "new-data", tmp_path / name, base_model=runs / "old"), tmp_path / name / "semantic_ids"

    config, ids = copied("sizes")
    table = SemanticIds.load(ids)
    SemanticIds(table.item_ids, table.codes, [4, 4, 5]).save(ids)
    with pytest.raises(
        ValueError, match=r"has codebooks of \[4, 4, 4\] codes, the data have \[4, 4, 5\]: tokenize with"
    ):
        build_trainer(config)

    config, ids = copied("tokenizer")
    weights = load_file(ids / "item_tokenizer/model.safetensors")
    weights["codebook_0"] += 1
    save_file(weights, ids / "item_tokenizer/model.safetensors")
    with pytest.raises(ValueError, match="has another item tokenizer than the data: tokenize with codes_run"):
        build_trainer(config)

    config, ids = copied("published")  # without an item tokenizer the items speak
    shutil.rmtree(ids / "item_tokenizer")
    assert build_trainer(config)
    config.training.output_dir = str(ids.parent)  # which building has moved
    SemanticIds(table.item_ids, table.codes[::-1], [4, 4, 4]).save(ids)
    with pytest.raises(ValueError, match=r"item 'f\d\d' has other codes in base_model"):
        build_trainer(config)


def test_what_cannot_be_continued_is_one_line(runs, tmp_path):
    for keys, message in (
        ({"codes_run": tmp_path / "nothing"}, r"nothing/semantic_ids/semantic_ids\.safetensors is missing"),
        ({"codes_run": runs / "new"}, "codes_run and output_dir are both"),
        ({"codes_path": "x.json"}, "codes_path and codes_run are two sources"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            tokenize_items.main(newer(runs, **keys))
    without = tmp_path / "published"
    shutil.copytree(runs / "old", without)
    shutil.rmtree(without / "semantic_ids/item_tokenizer")
    earlier = SemanticIds.load(without / "semantic_ids")
    earlier.report["made_from"]["item_tokenizer"] = None  # as those that others published
    earlier.save(without / "semantic_ids")
    with pytest.raises(FileNotFoundError, match=r"item 'f\d\d' is new, and .* has no item_tokenizer"):
        tokenize_items.main(newer(runs, codes_run=without))
