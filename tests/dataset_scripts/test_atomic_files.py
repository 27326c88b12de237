"""RecBole's atomic files with item features, in the headers that RecBole's own conversions write."""

import numpy as np
import pytest
from conftest import exit_code

from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.prepared import PreparedData
from hf_genrec.dataset_scripts import load_source
from hf_genrec.semantic_ids.ids import SemanticIds

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1193\t5\t978300760\n1\t661\t3\t978302109\n"


@pytest.fixture
def load(tmp_path):
    def load(items, inter=INTER, **settings):
        (tmp_path / "ml.inter").write_text(inter)
        (tmp_path / "ml.item").write_text(items)
        paths = {"source_path": str(tmp_path / "ml.inter"), "item_path": str(tmp_path / "ml.item")}
        return load_source(DataArguments(source="tabular", **paths, **settings), cache_dir=str(tmp_path / "cache"))

    return load


def only(tables):
    (item,) = tables["items"]
    return {name: value for name, value in item.items() if value is not None}


def test_usual_names_are_found(load):
    tables = load(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
        "1193\tOne Flew Over the Cuckoo's Nest\t1975\tDrama Film-Noir\n",
        min_rating=4,
    )
    assert [(row["timestamp"], row["rating"]) for row in tables["interactions"]] == [
        (978300760000, 5.0), (978302109000, 3.0)
    ]  # fmt: skip
    assert only(tables) == {
        "item_id": "1193", "title": "One Flew Over the Cuckoo's Nest", "categories": "Drama, Film-Noir",
        "release_year": "1975",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        # RecBole's ml-100k, anime and Amazon
        (
            "movie_title:token\tclass:token_seq",
            "Toy Story\tAnimation Children's",
            ("Toy Story", "Animation, Children's"),
        ),
        ("name:token_seq\tgenre:token_seq", "Gintama\tSci-Fi, Slice of Life", ("Gintama", "Sci-Fi, Slice of Life")),
        ("title:token\tcategories:token_seq", "Doom\t'Video Games', \"PC\"", ("Doom", "Video Games, PC")),
        # an own name comes first, and one token is not cut
        ("name:token\ttitle:token\tgenre:token", "n\tt\tSlice of Life", ("t", "Slice of Life")),
        ("title:token\tgenre:token_seq", "t\t", ("t", None)),
    ],
)
def test_titles_and_categories(load, header, cells, expected):
    item = only(load(f"item_id:token\t{header}\n1193\t{cells}\n"))
    assert (item["title"], item.get("categories")) == expected


def test_named_columns_win(load):
    items = "item_id:token\tmovie_title:token\tlabel:token\ttags:token_seq\n1193\tt\tn\ta b\n"
    item = only(load(items, title_column="label", categories_column="tags"))
    assert item["categories"] == "a, b"
    assert item["title"] == "n"


def test_vectors_are_left_out_of_the_text(load, caplog):
    items = "item_id:token\ttitle:token\tv:float_seq\tprice:float\n1193\tt\t0.5 1e-3\t9.99\n"
    assert only(load(items)) == {"item_id": "1193", "title": "t", "price": "9.99"}
    assert "column v holds vectors, not text" in caplog.text


@pytest.mark.parametrize(
    ("items", "inter", "message"),
    [
        ("item_id:token\tx:text\n1\ta\n", INTER, "line 1: column 'x' is of type 'text', none of token, token_seq,"),
        ("item_id:token\ta:b:token\n1\ta\n", INTER, "ml.item, line 1: column 'a' is of type 'b:token', none of"),
        ("business_id:token\n1\n", INTER, "line 1: no column 'item_id' (item_column); columns found: business_id"),
        ("item_id:token\n1\n", INTER.replace("user_id", "session_id"), "no column 'user_id' (user_column)"),
        ("item_id:token\n1\n", INTER.replace("timestamp", "t"), "(time_column, null if there are no times)"),
        ("item_id:token\n1\n", INTER + "1\t661\tgood\t5\n", "ml.inter, line 4: bad rating: 'good' is not a number"),
        ("item_id:token\tv:float_seq\n1\n", INTER, "ml.item, line 2: 1 fields where the header has 2"),
    ],
)  # fmt: skip
def test_what_is_refused(load, items, inter, message):
    with pytest.raises(ValueError, match=r".") as error:
        load(items, inter)
    assert message in str(error.value)


def test_ratings_of_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="min_rating needs rating_column"):
        DataArguments(source="tabular", source_path="log.csv", min_rating=4)


@pytest.mark.libraries
def test_from_atomic_files_to_codes_of_their_vectors(tmp_path):
    rng = np.random.default_rng(0)
    inter = ["user_id:token\titem_id:token\ttimestamp:float"]
    inter += [f"u{user}\ti{item}\t{1e9 + place}" for user in range(12) for place, item in enumerate(rng.permutation(9))]
    items = ["item_id:token\ttitle:token_seq\timage_vector:float_seq"]
    items += [f"i{item}\tGame {item}\t{' '.join(map(str, rng.normal(size=4) + item % 3))}" for item in range(9)]
    for name, lines in (("x.inter", inter), ("x.item", items)):
        (tmp_path / name).write_text("\n".join(lines))
    shared = ["--source", "tabular", "--source_path", tmp_path / "x.inter", "--item_path", tmp_path / "x.item"]
    shared += ["--output_dir", tmp_path / "run", "--codebook_sizes", "4", "4", "--method", "codetree"]
    assert exit_code("prepare", *shared) == 0
    assert exit_code("tokenize", *shared, "--embeddings_path", tmp_path / "x.item") == 0
    assert PreparedData.load(tmp_path / "run/data").items.column_names == [
        "item_id",
        "title",
        "description",
        "categories",
    ]
    codes = SemanticIds.load(tmp_path / "run/semantic_ids").codes
    assert len({tuple(row) for row in codes.tolist()}) == 9
