"""Semantic IDs: validation, files, published codes, health."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from learned_tokenizers import make_mpq
from safetensors.numpy import load_file, save_file

from hf_genrec.semantic_ids.health import draw_health, health_report, next_item_information
from hf_genrec.semantic_ids.ids import SemanticIds, read_table
from hf_genrec.semantic_ids.published_codes import load_published_codes
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans

BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon2014_beauty" / "letter_semantic_ids.tsv"


def small():
    return SemanticIds(["x", "ä", "z"], np.array([[0, 3], [1, 0], [1, 2]]), [2, 4], {"made": "by hand"})


@pytest.mark.parametrize(
    ("item_ids", "codes", "message"),
    [
        (["x", "y"], [[0, 1], [1, 4]], "item 'y', level 1: code 4 is outside the codebook of 4 codes"),
        (["x", "y"], [[0, 1], [-1, 0]], "item 'y', level 0: code -1 is outside the codebook of 2 codes"),
        (["x", "x"], [[0, 1], [1, 0]], "item 'x' has semantic IDs twice"),
        (["x"], [[0, 1], [1, 0]], r"codes have shape \(2, 2\), expected \(1, 2\)"),
        (["x"], [[0, 1, 2]], r"codes have shape \(1, 3\), expected \(1, 2\)"),
        (["x"], [[0.0, 1.0]], "codes are float64, expected integers"),
    ],
)
def test_wrong_ids_are_refused_by_place(item_ids, codes, message):
    with pytest.raises(ValueError, match=message):
        SemanticIds(item_ids, np.array(codes), [2, 4])


def test_save_and_load_give_the_same_ids(tmp_path):
    ids = small()
    ids.save(tmp_path / "new")
    loaded = SemanticIds.load(tmp_path / "new")
    assert np.array_equal(loaded.codes, ids.codes)
    assert loaded.codes.dtype == np.int64
    assert (loaded.item_ids, loaded.codebook_sizes, loaded.report) == (ids.item_ids, ids.codebook_sizes, ids.report)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "semantic_ids.json",
        "semantic_ids.safetensors",
    ]


def test_added_items_stand_at_the_end_and_the_old_catalogue_stays():
    old = small()
    new = old.add_items(["w"], np.array([[0, 0]]))
    assert new.item_ids == ["x", "ä", "z", "w"]
    assert new.codes.tolist() == [[0, 3], [1, 0], [1, 2], [0, 0]]
    assert (len(old), len(new), new.report["items_added"]) == (3, 4, 1)
    with pytest.raises(ValueError, match="item 'z' has semantic IDs twice"):
        old.add_items(["z"], np.array([[0, 0]]))


def test_missing_damaged_and_mismatched_files_are_named(tmp_path):
    small().save(tmp_path)
    codes, table = tmp_path / "semantic_ids.safetensors", tmp_path / "semantic_ids.json"
    whole = codes.read_bytes(), table.read_text(encoding="utf-8")
    codes.write_bytes(whole[0][:-3])
    with pytest.raises(ValueError, match=r"semantic_ids\.safetensors is damaged"):
        SemanticIds.load(tmp_path)
    save_file({"codes": np.zeros((3, 2), np.int64)}, codes)
    with pytest.raises(ValueError, match="are not of one save"):
        SemanticIds.load(tmp_path)
    codes.write_bytes(whole[0])
    table.write_text(whole[1][:50], encoding="utf-8")
    with pytest.raises(ValueError, match=r"semantic_ids\.json is damaged"):
        SemanticIds.load(tmp_path)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"semantic_ids\.json is missing"):
        SemanticIds.load(tmp_path)
    assert list(load_file(codes)) == ["codes"]


def test_published_tsv_in_the_order_of_the_catalogue(tmp_path, caplog):
    path = tmp_path / "codes.tsv"
    path.write_text("1\t<a_183> <b_70>\n2\t<a_0> <b_256>\n\n3\t<a_0> <b_256>\n9\t<a_1> <b_1>\n")
    with caplog.at_level(logging.WARNING):
        ids = load_published_codes(path, ["3", "1", "2"])
    assert ids.item_ids == ["3", "1", "2"]
    assert ids.codes.tolist() == [[0, 256], [183, 70], [0, 256]]
    assert ids.codebook_sizes == [512, 512]  # the power of two above 256
    assert "1 of 4 items are not in the catalogue" in caplog.text
    assert ids.report["collisions"]["after"] == {"items": 2, "groups": 1, "largest_group": 2, "unique": 2}
    assert load_published_codes(path, ["1"], [184, 300]).codebook_sizes == [184, 300]


@pytest.mark.parametrize(
    "entries", [{"0": ["<a_12>", "<b_255>"], "1": ["<a_0>", "<b_0>"]}, {"0": [12, 255], "1": [0, 0]}]
)
def test_published_json_of_tokens_or_numbers(tmp_path, entries):
    path = tmp_path / "index.json"
    path.write_text(json.dumps(entries))
    ids = load_published_codes(path, ["1", "0"])
    assert ids.codes.tolist() == [[0, 0], [12, 255]]
    assert ids.codebook_sizes == [256, 256]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.tsv", "1\t<a_1> <b_2>\n2 <a_1> <b_2>\n", r"c\.tsv, line 2: expected item_id, a tab"),
        ("c.tsv", "1\t<a_1> <b_2>\n2\t<a_1> <c_2>\n", r"c\.tsv, line 2, level 1: found '<c_2>', expected <b_number>"),
        ("c.tsv", "1\t<a_1> <b_2>\n2\t<a_1>\n", r"c\.tsv, line 2: 1 codes, but the items before have 2"),
        ("c.tsv", "1\t<a_1>\n1\t<a_2>\n", r"c\.tsv, line 2: item '1' has codes already"),
        ("c.tsv", "1\t\n", r"c\.tsv, line 1: expected a list of codes"),
        ("c.tsv", "\n", r"c\.tsv: the file holds no codes"),
        ("c.tsv", "2\t<a_1>\n", r"c\.tsv: 1 of 1 items of the catalogue have no codes, the first is '1'"),
        ("c.json", '{"1": [1],\n "2": [1,}', r"c\.json is damaged \(.*: line 2 column"),
        ("c.json", '["1"]', r"c\.json, line 1: expected an object"),
        ("c.json", '{"1": "<a_1>"}', r"c\.json, item '1': expected a list of codes"),
        ("c.json", '{"1": [-1]}', r"c\.json, item '1', level 0: found -1"),
        ("c.json", '{"1": [100000000]}', r"c\.json, item '1', level 0: code 100000000 is too large"),
        (
            "c.json",
            '{"1": [4611686018427387904]}',
            r"level 0: code 4611686018427387904 is too large, a codebook has at",
        ),
        ("c.json", f'{{"1": [{"9" * 400}]}}', r"c\.json, item '1', level 0: code 9+\.\.\.9+ is too large"),
        ("c.json", f'{{"1": [{"9" * 5000}]}}', r"c\.json is damaged \(Exceeds the limit"),
        ("c.json", '{"1": ' + "[" * 100_000, r"c\.json is damaged \(maximum recursion"),
        ("c.json", '{"1": [' + "1," * 1000 + "1]}", r"c\.json, item '1': 1,001 codes, and an item has at most 26"),
        ("c.tsv", f"1\t<a_{'0' * 50}1048576>\n", r"c\.tsv, line 1, level 0: code '<a_0+.*0+1048576>' is too large"),
        ("c.tsv", f"1\t<a_{'9' * 5000}>\n", r"c\.tsv, line 1, level 0: code '<a_9+\.\.\.9+>' is too large"),
        ("c.tsv", "1\t<a_\u0661>\n", r"c\.tsv, line 1, level 0: found '<a_.>', expected <a_number>"),
        ("c.tsv", "2\t<a_1>\n\udcff", r"c\.tsv, line 2: this is not UTF-8"),
        ("c.json", '{"1": [1], "1": [2]}', r"c\.json, item '1': item '1' has codes already"),
        (
            "c.json",
            '{"1": [1048576]}',
            r"c\.json, item '1', level 0: code 1048576 is too large, a codebook has at most",
        ),
        ("c.json", '{"1": [' + "9" * 400 + "]}", r"c\.json, item '1', level 0: code 999.*999 is too large"),
        ("c.tsv", "1\t<a_100000000>\n", r"c\.tsv, line 1, level 0: code '<a_100000000>' is too large"),
        ("c.tsv", "1\t<a_" + "9" * 5000 + ">\n", r"c\.tsv, line 1, level 0: code '<a_999.*999.*' is too large"),
    ],
)
def test_errors_of_published_files_name_file_and_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message) as error:
        load_published_codes(tmp_path / name, ["1"])
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_published_codes_with_leading_zeros(tmp_path):
    (tmp_path / "c.tsv").write_text(f"1\t<a_{'0' * 50}12> <b_0>\n")
    assert load_published_codes(tmp_path / "c.tsv", ["1"]).codes.tolist() == [[12, 0]]


def test_a_missing_published_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tsv.*codes_path"):
        load_published_codes(tmp_path / "none.tsv", ["1"])


@pytest.mark.slow
@pytest.mark.skipif(not BEAUTY.exists(), reason="the shared data sets are not beside the repository")
def test_the_codes_published_with_letter():
    item_ids = [str(number) for number in range(1, 12_102)]
    health = health_report(load_published_codes(BEAUTY, item_ids))
    assert (health["items"], health["unique_ids"]) == (12_101, 12_088)
    assert [level["used"] for level in health["levels"]] == [197, 256, 256, 256]
    assert [level["size"] for level in health["levels"]] == [256] * 4


def test_health_by_hand():
    ids = SemanticIds(list("abcd"), np.array([[0, 0], [0, 0], [1, 0], [1, 0]]), [4, 2])
    health = health_report(ids)
    first, second = health["levels"]
    assert (first["used"], first["usage"], second["usage"]) == (2, 0.5, 0.5)
    assert first["entropy"] == pytest.approx(np.log(2))
    assert (first["perplexity"], second["perplexity"]) == (pytest.approx(2), 1)
    assert (health["items"], health["unique_ids"], health["collisions"]["after"]["items"]) == (4, 2, 4)
    assert "reconstruction_error" not in first


def test_what_codes_tell_of_the_next_item():
    """The first code alternates, the second is drawn anew each time, and the third has four classes that stay."""
    rng = np.random.default_rng(0)
    codes = np.stack(np.meshgrid(range(2), range(8), range(4), indexing="ij"), axis=-1).reshape(-1, 3)
    row_of = {tuple(code): row for row, code in enumerate(codes.tolist())}
    sequences = [
        np.array([row_of[place % 2, int(rng.integers(8)), user % 4] for place in range(41)]) for user in range(200)
    ]
    alternates, drawn, stays = next_item_information(codes, [2, 8, 4], sequences)
    assert alternates == pytest.approx(1, abs=1e-3)  # bits: an even number of neighbours, half of each kind
    assert drawn < 0.01
    assert stays == pytest.approx(2, abs=0.01)
    assert next_item_information(codes, [2, 8, 4], []) == [0, 0, 0]
    ids = SemanticIds([str(row) for row in range(64)], codes, [2, 8, 4])
    levels = health_report(ids, sequences=sequences)["levels"]
    assert [level["next_bits"] for level in levels] == [alternates, drawn, stays]


def test_reconstruction_error_is_the_share_of_variance_left(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    tokenizer = fit_residual_kmeans({"text": vectors}, [8, 8])
    joined = tokenizer.join(text=vectors)
    codes = tokenizer.encode(joined).numpy()
    ids = SemanticIds([str(row) for row in range(60)], np.column_stack([codes, np.zeros(60, np.int64)]), [8, 8, 1])
    health = health_report(ids, tokenizer, joined.numpy())
    books = [codebook.numpy() for codebook in tokenizer.codebooks]
    left = joined.numpy() - books[0][codes[:, 0]]
    total = np.square(joined.numpy() - joined.numpy().mean(0)).sum()
    assert health["levels"][0]["reconstruction_error"] == pytest.approx(np.square(left).sum() / total)
    left = left - books[1][codes[:, 1]]
    assert health["levels"][1]["reconstruction_error"] == pytest.approx(np.square(left).sum() / total)
    assert "reconstruction_error" not in health["levels"][2]  # the level of the collision numbers
    json.dumps(health)

    draw_health(ids, health, tmp_path / "health.png")
    assert (tmp_path / "health.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["health.png"]


def test_an_unordered_tokenizer_has_one_reconstruction_error_for_all_codebooks(tmp_path):
    tokenizer = make_mpq(sizes=[20] * 12, dim=10)
    vectors = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    codes = tokenizer.encode(vectors).numpy()
    numbered = np.column_stack([codes, np.zeros(60, np.int64)])
    ids = SemanticIds([str(row) for row in range(60)], numbered, [20] * 12 + [1])
    health = health_report(ids, tokenizer, vectors)
    left = np.square(vectors - tokenizer.decode(codes).numpy()).sum()
    assert health["reconstruction_error"] == pytest.approx(left / np.square(vectors - vectors.mean(0)).sum())
    assert not any("reconstruction_error" in level for level in health["levels"])
    draw_health(ids, health, tmp_path / "health.png")
    assert (tmp_path / "health.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("item_ids", [1, 2]),
        ("item_ids", "ab"),
        ("codebook_sizes", [3, 0]),
        ("codebook_sizes", ["3", "3"]),
        ("report", 1),
    ],
)
def test_a_damaged_table_is_named(tmp_path, key, value):
    SemanticIds(["a", "b"], np.array([[0, 1], [1, 2]]), [3, 3]).save(tmp_path)
    table = json.loads((tmp_path / "semantic_ids.json").read_text())
    (tmp_path / "semantic_ids.json").write_text(json.dumps(table | {key: value}))
    with pytest.raises(ValueError, match=r"semantic_ids\.json is damaged \([^\n]*make the semantic IDs again"):
        SemanticIds.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"made_from": "x"}, "report.made_from"),
        ({"made_from": None}, "report.made_from"),
        ({"made_from": {"settings": [1]}}, "report.made_from.settings"),
        ({"items_added": "x"}, "report.items_added"),
        ({"collisions": 5}, "report.collisions"),
        ({"collisions": {"policy": "x"}}, "report.collisions.policy"),
        ({"collisions": {"policy": "keep", "before": {"items": 0}}}, "report.collisions.after"),
    ],
)
def test_a_report_of_another_shape_is_named(tmp_path, change, named):
    SemanticIds(["a"], np.array([[0]]), [1], change).save(tmp_path)
    for read in (read_table, SemanticIds.load):
        with pytest.raises(ValueError, match=f"{re.escape(named)} .*make the semantic IDs again") as error:
            read(tmp_path)
        assert str(error.value).startswith(str(tmp_path / "semantic_ids.json"))
        assert "\n" not in str(error.value)
