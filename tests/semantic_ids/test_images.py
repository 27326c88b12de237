"""Items' pictures, from a column of the items file to codes."""

import io
import json
import logging
import socket
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentence_transformers
from conftest import exit_code
from PIL import Image
from sentence_transformers import SentenceTransformer

from hf_genrec import hub_data
from hf_genrec.data.arguments import DataArguments
from hf_genrec.data.preparation import prepare
from hf_genrec.data.prepared import PreparedData
from hf_genrec.dataset_scripts import load_source
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.method import open_model
from hf_genrec.pictures import Pictures
from hf_genrec.semantic_ids import embedding, images
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.build import continue_semantic_ids, encode_new_items, item_parts
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.images import embed_images
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans
from hf_genrec.serving import new_items

if not hasattr(SentenceTransformer, "modalities"):
    pytest.skip(f"sentence-transformers {sentence_transformers.__version__} opens no CLIP", allow_module_level=True)
from tiny_clip import make_clip, picture

ITEMS = 12
LOG = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{item},{1_600_000_000 + 1000 * place}\n"
    for user in range(20)
    for place, item in enumerate(np.random.default_rng(user).permutation(ITEMS)[:6])
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(make_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture
def files(tmp_path):
    """A log, and items with their pictures beside them."""
    (tmp_path / "pics").mkdir()
    for item in range(ITEMS):
        picture(item).save(tmp_path / f"pics/{item}.png")
    rows = "".join(f"i{item},Game {item},pics/{item}.png\n" for item in range(ITEMS))
    (tmp_path / "items.csv").write_text(f"item_id,title,photo\n{rows}")
    (tmp_path / "log.csv").write_text(LOG)
    return tmp_path


def load(folder, items="items.csv", **settings):
    arguments = DataArguments(
        source="tabular", source_path=str(folder / "log.csv"), item_path=str(folder / items),
        **{"image_column": "photo"} | settings,
    )  # fmt: skip
    tables = load_source(arguments, cache_dir=str(folder / "cache"))
    return tables, prepare(tables["interactions"], tables["items"], arguments)


def as_parquet(folder, cells, row_group_size=5):
    rows = {
        "item_id": [f"i{item}" for item in range(len(cells))],
        "title": [f"Game {item}" for item in range(len(cells))],
    }
    table = datasets.Dataset.from_dict(rows | {"photo": cells}).cast_column("photo", datasets.Image())
    arrow = table.with_format("arrow")[:]
    pq.write_table(arrow.replace_schema_metadata(None), folder / "items.parquet", row_group_size=row_group_size)


def png(number):
    buffer = io.BytesIO()
    picture(number).save(buffer, "png")
    return buffer.getvalue()


def test_a_column_of_pictures(files):
    tables, prepared = load(files)
    shown = tables["items"][3]["image"]
    assert isinstance(shown, Image.Image)
    assert np.array_equal(np.asarray(shown), np.asarray(picture(3)))
    assert "photo" not in tables["items"].column_names
    assert prepared.items["image"].to_pylist() == [f"pics/{item}.png" for item in range(ITEMS)]  # no place of a machine
    content = Pictures.of_report(prepared.report).read("pics/3.png")
    assert content == (files / "pics/3.png").read_bytes()


def test_paths_from_another_folder(files):
    rows = "".join(f"i{item},{item}.png\n" for item in range(ITEMS - 1))
    (files / "items.csv").write_text(f"item_id,photo\n{rows}i{ITEMS - 1},{files / 'pics/0.png'}\n")
    _, prepared = load(files, image_folder=str(files / "pics"))
    assert prepared.items["image"].to_pylist() == [*(f"{item}.png" for item in range(ITEMS - 1)), "0.png"]
    assert Pictures.of_report(prepared.report).read("2.png") == (files / "pics/2.png").read_bytes()


def test_pictures_in_parquet(files, clip):
    """Structs of bytes and path, plain bytes and paths give the vectors of the files."""
    _, by_path = load(files)
    expected = embed_images(by_path.items, clip, files / "vectors", Pictures.of_report(by_path.report))
    kinds = {
        "struct": [{"bytes": png(item), "path": None} if item % 2 else {"bytes": None, "path": f"pics/{item}.png"}
                   for item in range(ITEMS)],
        "bytes": [png(item) for item in range(ITEMS)],
        "path": [f"pics/{item}.png" for item in range(ITEMS)],
    }  # fmt: skip
    for number, cells in enumerate(kinds.values()):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if number == 0 else None
        ids = [f"i{item}" for item in range(ITEMS)]
        pq.write_table(
            pa.table({"item_id": ids, "photo": pa.array(cells, kind)}), files / f"{number}.parquet", row_group_size=5
        )
        tables, prepared = load(files, f"{number}.parquet")
        assert np.array_equal(np.asarray(tables["items"][3]["image"]), np.asarray(picture(3)))
        # read in the catalogue's order and backwards, across row groups
        source = {"sources": {"item_path": {"path": str(files / f"{number}.parquet")}}}
        pictures = Pictures.of_report(prepared.report | source)
        found = embed_images(prepared.items, clip, files / f"vectors{number}", pictures)
        assert np.array_equal(found, expected)
        reverse = prepared.items.take(list(range(ITEMS))[::-1])
        backwards = embed_images(reverse, clip, files / f"reverse{number}", pictures)
        np.testing.assert_allclose(backwards, expected[::-1], atol=1e-6)


def test_the_vectors_are_those_of_the_model(files, clip):
    _, prepared = load(files)
    found = embed_images(prepared.items, clip, files / "vectors", Pictures.of_report(prepared.report))
    expected = SentenceTransformer(clip).encode([picture(item) for item in range(ITEMS)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(found.round(4), axis=0)) == ITEMS


def test_only_pictures_not_seen_before_are_encoded(files, clip, monkeypatch):
    _, prepared = load(files)
    pictures, asked = Pictures.of_report(prepared.report), []
    encode = images._encode
    monkeypatch.setattr(
        images, "_encode", lambda encoder, decoded, *rest: asked.append(len(decoded)) or encode(encoder, decoded, *rest)
    )
    first = embed_images(prepared.items.slice(0, 5), clip, files / "vectors", pictures)
    (files / "pics/1.png").rename(files / "pics/x.png")
    (files / "pics/x.png").rename(files / "pics/1.png")
    assert np.array_equal(embed_images(prepared.items, clip, files / "vectors", pictures)[:5], first)
    assert asked == [5, 7]
    (files / "pics/2.png").write_bytes(png(99))  # another picture under the same name
    assert not np.array_equal(embed_images(prepared.items, clip, files / "vectors", pictures)[2], first[2])
    assert asked == [5, 7, 1]
    assert [path.name.endswith("-images.safetensors") for path in (files / "vectors").iterdir()] == [True]


def test_an_interrupted_embedding_goes_on(files, clip, monkeypatch):
    _, prepared = load(files)
    pictures = Pictures.of_report(prepared.report)
    monkeypatch.setattr(images, "CHUNK", 4)
    encode, calls = images._encode, []

    def interrupted(encoder, decoded, *rest):
        calls.append(len(decoded))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(encoder, decoded, *rest)

    monkeypatch.setattr(images, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_images(prepared.items, clip, files / "vectors", pictures)
    embed_images(prepared.items, clip, files / "vectors", pictures)
    assert calls == [4, 4, 4, 4]  # the first four are not encoded again


def test_items_without_a_picture(files, clip, caplog):
    text = (files / "items.csv").read_text().replace("pics/4.png", "").replace("pics/7.png", "")
    (files / "items.csv").write_text(text)
    _, prepared = load(files)
    pictures = Pictures.of_report(prepared.report)
    vectors = embed_images(prepared.items, clip, files / "vectors", pictures)
    assert np.flatnonzero(~vectors.any(axis=1)).tolist() == [4, 7]
    assert "2 of 12 items have no picture, for instance 'i4': the mean stands in" in caplog.text
    none = prepared.items.filter(pa.array([row in (4, 7) for row in range(ITEMS)]))
    with pytest.raises(ValueError, match="image_model: no item has a picture: name their column by image_column"):
        embed_images(none, clip, files / "vectors", pictures)
    with pytest.raises(ValueError, match="image_model: no item has a picture"):
        embed_images(prepared.items.drop_columns("image"), clip, files / "vectors", pictures)


def damaged(folder, damage):
    path = folder / "pics/3.png"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"GIF89a no", "cut": path.read_bytes()[:-200]}[damage])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("gone", "item 'i3': the picture 'pics/3.png' is not a file in "),
        ("empty", "item 'i3': its picture 'pics/3.png' cannot be read (cannot identify image file"),
        ("text", "item 'i3': its picture 'pics/3.png' cannot be read ("),
        ("cut", "item 'i3': its picture 'pics/3.png' cannot be read ("),
    ],
)
def test_a_damaged_picture_names_the_item(files, clip, damage, message):
    _, prepared = load(files)
    damaged(files, damage)
    with pytest.raises(ValueError, match=r".") as error:
        embed_images(prepared.items, clip, files / "vectors", Pictures.of_report(prepared.report))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_too_large_to_hold(files, clip, monkeypatch):
    _, prepared = load(files)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        ValueError, match=r"item 'i0': its picture .* cannot be read \(Image size .* decompression bomb"
    ):
        embed_images(prepared.items, clip, files / "vectors", Pictures.of_report(prepared.report))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("pics/none.png", "items.csv, line 5: item 'i3': the picture 'pics/none.png' is not a file in"),
        ("pics", "line 5: item 'i3': the picture 'pics' is not a file in"),
        ("/dev/zero", "line 5: item 'i3': the picture '/dev/zero' is not a file in"),
        ("https://a.b/c.png", "line 5: item 'i3': the picture 'https://a.b/c.png' is a URL, which is not read"),
        ("pics/\0.png", "line 5"),
        ("x" * 5000, "line 5: item 'i3': the picture 'xxx"),
    ],
)  # fmt: skip
def test_what_prepare_refuses(files, cell, message):
    (files / "items.csv").write_text((files / "items.csv").read_text().replace("pics/3.png", cell))
    with pytest.raises(ValueError, match=r".") as error:
        load(files)
    assert message in str(error.value)
    assert "(1 bad row in this file: correct or remove)" in str(error.value)


def test_other_columns_and_settings_that_do_not_fit(files):
    with pytest.raises(ValueError, match=r"line 1: no column 'cover' \(image_column\); columns found: item_id, title"):
        load(files, image_column="cover")
    (files / "items.csv").write_text((files / "items.csv").read_text().replace("title", "image"))
    with pytest.raises(ValueError, match="column 'image' is also the name another one is mapped to"):
        load(files)
    as_parquet(files, [{"bytes": png(item), "path": None} for item in range(ITEMS)])
    with pytest.raises(ValueError, match="column 'photo' holds pictures: name it as image_column, or leave it out"):
        load(files, "items.parquet", image_column=None)
    pq.write_table(pa.table({"item_id": ["i0"], "length": [1.0]}), files / "x.parquet")
    with pytest.raises(ValueError, match=r"column 'length' \(image_column\) is of type double: pictures are paths"):
        load(files, "x.parquet", image_column="length")
    for settings, message in (
        ({"image_column": "a"}, "image_column needs source: tabular and item_path"),
        ({"source": "tabular", "source_path": "x", "image_folder": "y"}, "image_folder needs image_column"),
    ):
        with pytest.raises(ValueError, match=message):
            DataArguments(**settings)
    for settings, message in (
        ({"vectors": "image"}, "vectors: image needs image_model"),
        ({"vectors": "collaborative", "image_model": "x"}, "image_model is not read with vectors: collaborative"),
        (
            {"vectors": "image", "image_model": "x", "embeddings_path": "y"},
            "embeddings_path is not read with vectors: image",
        ),
        ({"image_model": "x", "image_weight": 0}, "image_weight must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenizerArguments(**settings)


def test_bytes_that_have_changed_since(files, clip):
    as_parquet(files, [{"bytes": png(item), "path": None} for item in range(ITEMS)])
    _, prepared = load(files, "items.parquet")
    as_parquet(files, [{"bytes": png(item + (item == 6)), "path": None} for item in range(ITEMS)])
    pictures = Pictures.of_report(prepared.report)
    with pytest.raises(
        ValueError, match=r"item 'i6': row 7 of .*items\.parquet holds another picture now: run prepare"
    ):
        embed_images(prepared.items, clip, files / "vectors", pictures)
    (files / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"item 'i0': .*items\.parquet, which holds it, cannot be read"):
        embed_images(prepared.items, clip, files / "vectors", Pictures.of_report(prepared.report))
    (files / "items.parquet").unlink()
    with pytest.raises(ValueError, match=r"item 'i0': .*items\.parquet, which holds it, is not a file"):
        embed_images(prepared.items, clip, files / "vectors", Pictures.of_report(prepared.report))


def test_a_table_of_the_users_own_with_bytes_is_refused(files):
    items = datasets.Dataset.from_dict({"item_id": ["i0"], "photo": [{"bytes": png(0), "path": None}]})
    items = items.cast_column("photo", datasets.Image())
    tables, _ = load(files)
    with pytest.raises(ValueError, match="items, row 1: the picture is bytes, not a file: write the items as Parquet"):
        prepare(tables["interactions"], items, DataArguments())


def test_models_that_read_no_pictures(files, tmp_path):
    _, prepared = load(files)
    pictures = Pictures.of_report(prepared.report)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"image_model .*empty cannot be loaded \([^\n]*\); name a folder, a model of the Hub$"
    ):
        embed_images(prepared.items, str(tmp_path / "empty"), tmp_path, pictures)
    with pytest.raises(ValueError, match=r"image_model .* reads text and no pictures: name another model"):
        embed_images(prepared.items, "minilm", tmp_path, pictures)


def test_parts_weights_and_new_items(files, clip, caplog):
    _, prepared = load(files)
    pictures, cache = Pictures.of_report(prepared.report), files / "vectors"
    train = prepared.train_sequences()
    for vectors, names in (
        ("image", ["image"]),
        ("text", ["text", "image"]),
        ("both", ["text", "image", "collaborative"]),
    ):
        arguments = TokenizerArguments(
            vectors=vectors, image_model=clip, text_model=clip, image_weight=2.0, codebook_sizes=[4, 4],
            projection_dim=4, collaborative_dim=4,
        )  # fmt: skip
        parts = item_parts(prepared.items, train, arguments, cache, pictures)
        assert list(parts) == names
        tokenizer = fit_residual_kmeans(
            parts, [4, 4], arguments.part_weights, projection_dim=4, text_model=clip, image_model=arguments.image_model
        )
        assert tokenizer.config.part_weights[names.index("image")] == 2.0
        # a new item with the picture and text of an old one has its codes
        ids = SemanticIds([f"i{item}" for item in range(ITEMS)], tokenizer.encode_parts(**parts).numpy(), [4, 4],
                          {"collisions": {"policy": "keep"}})  # fmt: skip
        new = pa.table({"item_id": ["new"], "title": ["Game 3"], "image": ["pics/3.png"]})
        grown = encode_new_items(tokenizer, ids, new, embedding_cache=cache, pictures=pictures)
        if "collaborative" not in names:
            assert grown.codes[-1].tolist() == ids.codes[3].tolist()
        if vectors == "text":
            with caplog.at_level(logging.WARNING):
                encode_new_items(tokenizer, ids, new.drop_columns("image"), embedding_cache=cache)
            assert "none of 1 new items has a picture: the mean stands in" in caplog.text
        if vectors == "image":
            with pytest.raises(ValueError, match="no item has a picture"):
                encode_new_items(tokenizer, ids, new.drop_columns("image"), embedding_cache=cache)


def test_a_server_opens_no_file_that_a_client_names(files, clip, monkeypatch):
    _, prepared = load(files)
    arguments = TokenizerArguments(image_model=clip, text_model=clip, projection_dim=4)
    monkeypatch.setattr(embedding, "DEFAULT_CACHE", files / "vectors")
    parts = item_parts(prepared.items, [], arguments, files / "vectors", Pictures.of_report(prepared.report))
    parts["text"] = parts["image"] + 1
    tokenizer = fit_residual_kmeans(parts, [4, 4], projection_dim=4, text_model=clip, image_model=clip)
    codes = tokenizer.encode_parts(**parts).numpy()
    processor = SimpleNamespace(item_ids=[f"i{item}" for item in range(ITEMS)], codes=codes, codebook_sizes=[4, 4])
    served = SimpleNamespace(folder=files, item_tokenizer=tokenizer, processor=processor)
    monkeypatch.setattr(Pictures, "read", lambda *args: pytest.fail("opened"))
    new = pa.table({"item_id": ["new"], "title": ["New"], "image": [str(files / "pics/3.png")]})
    assert new_items._codes(served, new).shape == (1, 2)


def test_propagated_pictures(files, clip):
    _, prepared = load(files)
    arguments = TokenizerArguments(vectors="propagated", text_model=clip, image_model=clip)
    settings = (
        prepared.items,
        prepared.train_sequences(),
        arguments,
        files / "vectors",
        Pictures.of_report(prepared.report),
    )
    assert list(item_parts(*settings)) == ["text", "image"]


def test_shared_data_hold_the_pictures(files):
    tables, prepared = load(files)
    prepared.save(files / "data")
    (files / "hub").mkdir()
    hub_data._write(files / "hub", files / "data", prepared, tables)
    rows = pq.read_table(files / "hub/items/train-00000-of-00001.parquet")["image"].to_pylist()
    assert rows[3]["bytes"] == (files / "pics/3.png").read_bytes()
    assert rows[3]["path"] == "3.png"
    assert str(files) not in json.dumps(pq.read_table(files / "hub/prepared/items.parquet")["image"].to_pylist())


@pytest.mark.parametrize("item_tokenizer", ["residual_kmeans", "rq_vae"])
def test_from_a_csv_with_pictures_to_a_recommendation(files, clip, monkeypatch, item_tokenizer):
    monkeypatch.setattr(images, "DEFAULT_CACHE", files / "vectors")
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a connection"))
    run = files / "run"
    shared = ["--method", "codetree", "--source", "tabular", "--source_path", files / "log.csv", "--output_dir", run]
    shared += ["--item_path", files / "items.csv", "--image_column", "photo", "--vectors", "image"]
    shared += ["--image_model", clip, "--codebook_sizes", "4", "4", "--item_tokenizer", item_tokenizer]
    shared += ["--tokenizer_epochs", "2", "--max_history", "4", "--hidden_size", "16", "--num_train_epochs", "1"]
    shared += ["--use_cpu", "true", "--disable_tqdm", "true"]
    for command in ("prepare", "tokenize", "train"):
        assert exit_code(command, *shared) == 0
    tokenizer = load_item_tokenizer(run / "semantic_ids/item_tokenizer")
    assert (tokenizer.config.part_names, tokenizer.config.image_model) == (["image"], clip)
    lists, _ = open_model(run).recommend(["i3", "i5"], k=3)
    assert len(set(lists)) == 3
    # newer data: the items keep their codes, a new one gets its own by its picture
    prepared = PreparedData.load(run / "data")
    picture(50).save(files / "pics/new.png")
    newer = pa.concat_tables([prepared.items, pa.table({
        "item_id": ["new"], "title": ["New"], "description": pa.nulls(1, pa.string()),
        "categories": pa.nulls(1, pa.string()), "image": ["pics/new.png"],
    })])  # fmt: skip
    grown, _, _ = continue_semantic_ids(run / "semantic_ids", newer, pictures=Pictures.of_report(prepared.report))
    assert np.array_equal(grown.codes[:-1], SemanticIds.load(run / "semantic_ids").codes)
