import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_reg4rec import make_set_processor

from hf_genrec.methods.reg4rec.categories import item_categories
from hf_genrec.methods.reg4rec.code_set_collator import CodeSetCollator


def names_of(items, *arguments) -> list[str]:
    categories, names = item_categories(items, *arguments)
    assert categories.dtype == np.int64
    return [names[category] for category in categories]


def test_the_first_category_counts():
    items = pa.table({"item_id": ["1", "2", "3", "4"], "categories": ["Action, Comedy", "Drama", None, "Action"]})
    assert names_of(items) == ["Action", "Drama", "other", "Action"]
    assert item_categories(items)[1] == ["Action", "Drama", "other"]  # the most frequent first


def test_the_most_frequent_one_that_at_most_a_quarter_have():
    # 9 is everywhere; 1 has three of twelve, 2 and 3 two each.
    cells = ["[9, 1]", "[9, 1, 2]", "[2, 1, 9]", "[9, 3]", "[3, 9]", "[9]"] + ["[9, 7]"] * 4 + [None, "[]"]
    items = pa.table({"item_id": [str(row) for row in range(12)], "attributes": cells})
    expected = ["1", "1", "1", "3", "3", "other", *["other"] * 4, "other", "other"]  # 7 has four of twelve: too many
    assert names_of(items, "attributes", "frequent") == expected
    assert names_of(items, "attributes", "first")[:4] == ["9", "9", "2", "9"]


def test_equally_frequent_ones_go_to_the_alphabet():
    items = pa.table({"item_id": [str(row) for row in range(8)], "kind": ["b, a", "a, b"] + ["c"] * 2 + [""] * 4})
    assert names_of(items, "kind", "frequent")[:4] == ["a", "a", "c", "c"]


def test_without_a_column_there_is_one_category():
    items = pa.table({"item_id": ["1", "2"]})
    assert item_categories(items)[0].tolist() == [0, 0]
    assert item_categories(items)[1] == ["other"]
    with pytest.raises(ValueError, match="no column genre; set category_column, from: item_id"):
        item_categories(items, "genre")
    with pytest.raises(ValueError, match="category_rule: 'last' is not one of first, frequent"):
        item_categories(items, None, "last")


def test_a_batch_holds_codes_and_categories_of_the_targets():
    processor = make_set_processor()
    examples = [{"history": np.array([3, 4]), "target": 9}, {"history": np.array([], dtype=int), "target": 2}]
    batch = CodeSetCollator(processor)(examples)
    assert batch["labels"].tolist() == processor.token_ids[[9, 2]].tolist()
    assert batch["category_labels"].tolist() == processor.categories[[9, 2]].tolist()
    inputs = processor.prompts([example["history"] for example in examples])
    assert torch.equal(batch["input_ids"], inputs["input_ids"])
    assert batch["attention_mask"].tolist() == [[1] * 6, [0] * 6]
