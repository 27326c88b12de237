import json

import numpy as np
import pytest
from conftest import make_model, make_processor
from transformers import AutoTokenizer

from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.care.modeling_care import CareForCausalLM
from hf_genrec.semantic_ids.tokens import add_code_tokens, code_tokenizer, code_tokens

pytestmark = pytest.mark.libraries


def test_tokens_stand_level_by_level():
    tokenizer = code_tokenizer([3, 2])
    assert tokenizer.convert_tokens_to_ids(["<a_0>", "<a_2>", "<b_0>", "<b_1>", "|start_of_answer|", "<pad>"]) == [
        0,
        2,
        3,
        4,
        5,
        6,
    ]
    assert tokenizer("<a_2><b_1>|start_of_answer|")["input_ids"] == [2, 4, 5]
    with pytest.raises(ValueError, match="27 code levels"):
        code_tokens([1] * 27)


def test_tokens_are_added_to_a_base_vocabulary():
    base = code_tokenizer([2])
    extended = add_code_tokens(base, [2, 3])
    assert extended.convert_tokens_to_ids("<a_1>") == 1  # was there
    assert extended.convert_tokens_to_ids("<b_0>") == 4
    processor = GenRecProcessor(extended, [2, 3]).set_catalogue(["x"], [[1, 2]])
    assert processor.token_ids.tolist() == [[1, 6]]


def test_prompts_are_padded_on_the_left_by_whole_items(processor):
    inputs = processor(histories=[["item-3"], ["item-1", "item-2"], []], return_tensors="pt")
    assert inputs["input_ids"].shape == (3, 7)
    assert inputs["attention_mask"].tolist() == [[0, 0, 0, 1, 1, 1, 1], [1] * 7, [0] * 6 + [1]]
    assert inputs["input_ids"][:, -1].tolist() == [processor.answer_token_id] * 3
    assert inputs["input_ids"][0, 3:6].tolist() == processor.token_ids[3].tolist()
    assert processor(histories=["item-3"])["input_ids"] == [
        [*processor.token_ids[3].tolist(), processor.answer_token_id]
    ]


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = GenRecProcessor.from_pretrained(tmp_path)
    for name in ("item_ids", "titles", "codebook_sizes", "max_history", "answer_token_id"):
        assert getattr(again, name) == getattr(processor, name), name
    assert np.array_equal(again.codes, processor.codes)
    assert np.array_equal(again.popularity, processor.popularity)
    assert again.trie.items.tolist() == processor.trie.items.tolist()
    assert again(histories=["item-3"])["input_ids"] == processor(histories=["item-3"])["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids("<a_1>") == 1


def test_new_items_are_recommended_without_training(processor):
    model = make_model(processor)
    used = {tuple(row) for row in processor.codes.tolist()}
    free = next((a, b, c) for a in range(5) for b in range(6) for c in range(7) if (a, b, c) not in used)
    before = dict(zip(*model.recommend(["item-1"], k=40), strict=True))
    processor.add_items(["new"], [free], ["Brand new"])
    item_ids, scores = model.recommend(["item-1"], k=41)
    after = dict(zip(item_ids, scores, strict=True))
    assert processor.title("new") == "Brand new"
    assert after.pop("new") == pytest.approx(model.score_items(["item-1"], ["new"]).item(), abs=1e-5)
    assert after == pytest.approx(before, abs=1e-5)
    with pytest.raises(ValueError, match="'nothing' in item_ids is not in the catalogue"):
        processor.remove_items(["new", "nothing"])
    processor.remove_items(["new", "item-5"])
    del before["item-5"]
    assert dict(zip(*model.recommend(["item-1"], k=41), strict=True)) == pytest.approx(before, abs=1e-5)
    with pytest.raises(ValueError, match="empty"):
        processor.remove_items(list(before))
    assert len(processor.item_ids) == len(processor.trie.items) == 39


@pytest.mark.parametrize(
    ("item_ids", "codes", "message"),
    [
        ([], np.empty((0, 3)), "catalogue is empty"),
        (["a"], [[0, 0]], "one row of codes per item"),
        (["a", "b"], [[0, 0, 0], [0, 6, 0]], "Item 'b': code 6 of level 1 is outside its codebook of 6"),
        (["a", "b"], [[0, 0, 0], [0, 0, -1]], "code -1 of level 2"),
        (["a", "a"], [[0, 0, 0], [0, 0, 1]], "Item 'a' stands twice"),
    ],
)
def test_catalogues_that_make_no_sense(processor, item_ids, codes, message):
    with pytest.raises(ValueError, match=message):
        processor.set_catalogue(item_ids, codes)


def test_other_mistakes(processor):
    with pytest.raises(ValueError, match="no catalogue"):
        GenRecProcessor(code_tokenizer([2]), [2])(histories=[["a"]])
    with pytest.raises(ValueError, match="no token '<b_0>'"):
        GenRecProcessor(code_tokenizer([2]), [2, 2])
    with pytest.raises(ValueError, match="histories="):
        processor(text="hello")
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        processor(histories=["item-1"], unknown="ignore")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "catalogue.safetensors", "item_trie.safetensors", "catalogue.json"]
)
def test_a_truncated_file_is_named(tmp_path, name):
    make_model(make_processor()).save_pretrained(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"truncated or damaged|is damaged") as error:
        CareForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    assert name in str(error.value) or (name == "model.safetensors" and str(tmp_path) in str(error.value))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "catalogue.safetensors", "item_trie.safetensors", "tokenizer.json"]
)
def test_a_missing_file_is_named(tmp_path, name):
    make_model(make_processor()).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises((OSError, ValueError)) as error:
        CareForCausalLM.from_pretrained(tmp_path)
    assert name in str(error.value) or name.split(".")[0] in str(error.value)


def test_weights_that_a_checkpoint_lacks_are_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    make_model(make_processor()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.query_embeddings.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.query_embeddings\.weight"):
        CareForCausalLM.from_pretrained(tmp_path)


def test_titles_may_be_missing(processor, tmp_path):
    processor.set_catalogue(["a", "b"], [[0, 0, 0], [0, 0, 1]]).save_pretrained(tmp_path)
    again = GenRecProcessor.from_pretrained(tmp_path)
    assert again.title("a") == "a"
    assert json.loads((tmp_path / "catalogue.json").read_text())["titles"] is None
