import numpy as np
import pytest
import torch
from tiny_reg4rec import CATEGORIES, make_reg4rec, make_set_processor

from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecForConditionalGeneration
from hf_genrec.methods.reg4rec.processing_reg4rec import Reg4RecProcessor
from hf_genrec.semantic_ids.tokens import add_code_tokens, code_tokenizer

pytestmark = pytest.mark.libraries


@pytest.fixture
def processor():
    return make_set_processor()


def test_histories_are_padded_on_the_left_by_whole_items(processor):
    inputs = processor(histories=[["item-3"], ["item-1", "item-2"], []], return_tensors="pt")
    assert inputs["attention_mask"].tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6, [0] * 6]
    assert inputs["input_ids"][0].tolist() == [13, 13, 13, *processor.token_ids[3].tolist()]
    assert inputs["input_ids"][1].tolist() == processor.token_ids[[1, 2]].flatten().tolist()
    assert processor(histories=[])["input_ids"] == [[13, 13, 13]]  # there is always one item's room
    long = [f"item-{row}" for row in range(10)]
    assert processor(histories=long)["input_ids"] == processor(histories=long[-6:])["input_ids"]


def test_codes_in_any_order_are_decoded(processor):
    tokens = torch.from_numpy(processor.token_ids)
    for columns in ([0, 1, 2], [2, 0, 1]):
        written = torch.cat([torch.full((30, 1), 12), tokens[:, columns]], 1)
        assert processor.batch_decode_items(written) == processor.item_ids
    twice = torch.cat([torch.full((30, 1), 12), tokens[:, [0, 0, 1]]], 1)
    assert processor.batch_decode_items(twice) == [None] * 30
    assert processor.batch_decode_items(twice[:, :3]) == [None] * 30
    missing = next([0, 4 + b, 9 + c] for b in range(5) for c in range(3) if [0, 4 + b, 9 + c] not in tokens.tolist())
    assert processor.batch_decode_items(torch.tensor([[12, *missing]])) == [None]


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = Reg4RecProcessor.from_pretrained(tmp_path)
    for name in ("item_ids", "titles", "codebook_sizes", "max_history", "category_names"):
        assert getattr(again, name) == getattr(processor, name), name
    for name in ("codes", "token_ids", "popularity", "categories"):
        assert np.array_equal(getattr(again, name), getattr(processor, name)), name
    for name, tensor in processor.item_sets.state_dict().items():
        assert torch.equal(again.item_sets.state_dict()[name], tensor), name


def test_new_items_are_recommended_without_training(processor):
    model = make_reg4rec(processor)
    used = set(map(tuple, processor.codes.tolist()))
    free = next((a, b, c) for a in range(4) for b in range(5) for c in range(3) if (a, b, c) not in used)
    before = dict(zip(*model.recommend(["item-1"], k=30), strict=True))
    processor.add_items(["new"], [free], ["Brand new"])
    after = dict(zip(*model.recommend(["item-1"], k=31), strict=True))
    assert processor.title("new") == "Brand new"
    assert processor.categories[-1] == -1
    assert after.pop("new") == pytest.approx(model.score_items(["item-1"], ["new"]).item(), abs=1e-5)
    assert after == pytest.approx(before, abs=1e-5)
    with pytest.raises(ValueError, match="'new' stands twice"):
        processor.add_items(["new"], [free])
    categories = np.delete(processor.categories, processor.rows(["new", "item-5"]))
    processor.remove_items(["new", "item-5"])
    del before["item-5"]
    assert dict(zip(*model.recommend(["item-1"], k=31), strict=True)) == pytest.approx(before, abs=1e-5)
    assert np.array_equal(processor.categories, categories)


@pytest.mark.parametrize(
    ("codes", "categories", "message"),
    [
        ([[0, 0]] * 2, None, "one row of codes per item"),
        ([[0, 0, 0], [0, 5, 0]], None, "Item 'b': code 5 of level 1 is outside its codebook of 5"),
        ([[0, 0, 0]] * 2, [0], r"categories have shape \(1,\) for 2 items"),
        ([[0, 0, 0]] * 2, [0, 3], "Item 'b': category 3 has no name, category_names has 3"),
    ],
)
def test_catalogues_that_make_no_sense(processor, codes, categories, message):
    with pytest.raises(ValueError, match=message):
        processor.set_catalogue(["a", "b"], codes, categories=categories)
    assert len(processor.item_ids) == 30  # the old one is untouched


def test_a_vocabulary_of_something_else_is_refused():
    tokenizer = add_code_tokens(code_tokenizer([2]), [2, 3])
    with pytest.raises(ValueError, match="first tokens must be the codes"):
        Reg4RecProcessor(tokenizer, [2, 3])
    with pytest.raises(ValueError, match="no token '<b_0>'"):
        Reg4RecProcessor(code_tokenizer([2]), [2, 2])


@pytest.mark.parametrize("name", ["catalogue.safetensors", "item_sets.safetensors", "catalogue.json"])
def test_a_damaged_or_missing_file_is_named(tmp_path, name):
    make_reg4rec(make_set_processor()).save_pretrained(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"truncated or damaged|is damaged") as error:
        Reg4RecForConditionalGeneration.from_pretrained(tmp_path)
    assert name in str(error.value)
    (tmp_path / name).unlink()
    if name != "catalogue.json":  # without it, the folder is a model without a processor
        with pytest.raises(OSError, match=name):
            Reg4RecForConditionalGeneration.from_pretrained(tmp_path)


def test_names_of_categories_are_optional(tmp_path):
    processor = Reg4RecProcessor(code_tokenizer([2, 2]), [2, 2]).set_catalogue(["a"], [[0, 1]])
    assert processor.categories.tolist() == [-1]
    assert CATEGORIES != processor.category_names == []
