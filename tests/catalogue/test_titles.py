"""An item without a title is shown by its id, wherever items are shown."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_model, make_processor, run_command

from hf_genrec.method import load_method
from hf_genrec.serving.batch import recommend_users
from hf_genrec.serving.demo.opened_run import OpenedRun


@pytest.mark.parametrize("missing", [None, "", "no titles at all"])
def test_its_id_stands_for_it(missing, tmp_path, monkeypatch, capsys):
    processor = make_processor(num_items=8)
    ids, codes = processor.item_ids, processor.codes
    titles = None if missing == "no titles at all" else ["Alien", *[missing] * 7]
    wanted = ids if titles is None else ["Alien", *ids[1:]]
    model = make_model(processor.set_catalogue(ids, codes, titles))
    model.save_pretrained(tmp_path / "run/model")
    assert processor.shown_titles() == wanted
    assert [processor.title(item_id) for item_id in ids] == wanted
    title_of = dict(zip(ids, wanted, strict=True))
    (found, scores), frame = model.recommend([], k=8), model.recommend([], k=8, as_frame=True)
    shown = [title_of[item_id] for item_id in found]
    assert frame["title"].tolist() == shown
    assert [item["title"] for item in processor.as_items(found, scores)] == shown
    assert OpenedRun("run", model, load_method("care")).titles == wanted
    printed = run_command(monkeypatch, capsys, "recommend", tmp_path / "run", "--history", f"{ids[1]},{ids[0]}")
    assert printed.startswith(f"history: 2 items, the newest last: {wanted[1]}, {wanted[0]}\n")
    for item_id, title in title_of.items():
        assert f". {title}  (item {item_id}, " in printed
    pq.write_table(pa.table({"user_id": ["u"], "item_ids": [[ids[1]]]}), tmp_path / "histories.parquet")
    recommend_users(tmp_path / "run", k=8, histories=tmp_path / "histories.parquet")
    table = pq.read_table(tmp_path / "run/recommendations")
    assert table["title"].to_pylist() == [title_of[item_id] for item_id in table["item_id"].to_pylist()]
