"""Saved folders of every method and of what else their models can be, in one process that has no hf_genrec."""

import numpy as np
import pytest
from conftest import make_model, make_processor
from damaged_folders import MAKERS, export
from strangers import strangers_answers
from tiny_cobra import TEXT_SIZE, make_cobra, make_cobra_processor
from tiny_s2gr import make_s2gr
from tiny_stream import make_stream
from tiny_tiger import make_tiger

from hf_genrec.hub import WITHOUT_LIBRARY
from hf_genrec.method import auto_class, load_model

pytestmark = pytest.mark.libraries

STRANGER = (
    WITHOUT_LIBRARY
    + """
import json, transformers
found = []
for folder, auto_class, histories in json.loads(sys.argv[1]):
    for name in ("AutoConfig", "AutoModel", "AutoProcessor", auto_class):
        model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
    lists = model.recommend(histories, k=6)
    scores = model.score_items(histories, lists[0][0])
    model.save_pretrained(folder + "-again")  # what a stranger saves opens as well
    again = getattr(transformers, auto_class).from_pretrained(folder + "-again", trust_remote_code=True)
    assert again.recommend(histories, k=6) == lists
    found.append([*lists, scores.tolist()])
assert not any(name.split(".")[0] == "hf_genrec" for name in sys.modules)
print(json.dumps(found))
"""
)


def cobra_with_a_new_item():
    model = make_cobra(make_cobra_processor())
    return model.add_items(["new"], model.processor.codes[[3]] * 0, np.ones((1, TEXT_SIZE)))


QWEN3 = {"qk_norm": True, "attention_bias": False, "head_dim": 12, "num_queries": [1, 2, 1]}
LEVEL_HEADS = {"level_heads": True, "item_separators": True, "num_user_bins": 5, "mlp_layers": 2}
VARIANTS = {
    "care, layers of Qwen3": lambda: make_model(make_processor(), **QWEN3),
    "cobra, a new item": cobra_with_a_new_item,
    "tiger, level heads": lambda: make_tiger(make_processor(), **LEVEL_HEADS),
    "tiger, pool": lambda: make_tiger(make_processor(), shared_kv_pool_size=16, shared_kv_user_dim=3),
    "s2gr, level heads": lambda: make_s2gr(make_processor(), level_heads=True, item_weight=0.0),
    "stream, level heads": lambda: make_stream(make_processor(), num_thinking_tokens=7, level_heads=True),
}


def test_every_saved_model_opens_at_a_strangers(tmp_path):
    folders = []
    for method in MAKERS:
        folders.append(tmp_path / method)
        export(method, folders[-1], 0)
    for name, make in VARIANTS.items():
        folders.append(tmp_path / name.replace(", ", "-").replace(" ", "-"))
        make().save_pretrained(folders[-1])
    models = [load_model(folder) for folder in folders]
    asked = []
    for folder, model in zip(folders, models, strict=True):
        ids = model.processor.item_ids
        asked.append([str(folder), auto_class(folder), [ids[:3], [], ids[5:6], ids[:12]]])
    answers = strangers_answers(STRANGER, asked, tmp_path)
    for (folder, _, histories), model, (items, scores, of_candidates) in zip(asked, models, answers, strict=True):
        expected, expected_scores = model.recommend(histories, k=6)
        assert items == expected, folder
        for one, other in zip(scores, expected_scores, strict=True):
            assert one == pytest.approx(other, abs=1e-4), folder
        np.testing.assert_allclose(of_candidates, model.score_items(histories, items[0]), atol=1e-4, err_msg=folder)
