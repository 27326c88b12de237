"""CARE with adapters, and with tables untied by hand: what is trained is what is merged, saved and loaded."""

import pytest
import torch
from conftest import make_model, make_processor
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from hf_genrec.data.collator import NextItemCollator
from hf_genrec.hub import recommend_as_stranger
from hf_genrec.methods.care.modeling_care import CareForCausalLM

pytestmark = [
    pytest.mark.libraries,
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),  # which says that tables are tied, or part
]
PROCESSOR = make_processor()
HISTORY = ["item-3", "item-9", "item-1"]


def batch() -> dict[str, torch.Tensor]:
    rows = ((HISTORY, "item-2"), ([], "item-4"), (["item-5"], "item-30"))
    examples = [{"history": PROCESSOR.rows(history), "target": PROCESSOR.rows([target])[0]} for history, target in rows]
    return NextItemCollator(PROCESSOR)(examples)


def trained(model, **settings) -> PeftModel:
    """Two steps that move every adapter."""
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=2, **settings)).train()
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(**batch()).loss.backward()
        optimizer.step()
    return wrapped.eval()


def is_tied(model) -> bool:
    return model.lm_head.weight is model.model.embed_tokens.weight


def check_saved(model, folder) -> None:
    """The folder has what is needed, says what is tied, and opens as the same model."""
    model.save_pretrained(folder)
    again = CareForCausalLM.from_pretrained(folder)
    assert is_tied(again) == is_tied(model) == again.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) != is_tied(model)
    torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits)
    assert again.recommend(HISTORY, k=7) == model.recommend(HISTORY, k=7)


TARGETS = {
    "q and v": {"target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "codes whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "both whole and tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
        "ensure_weight_tying": True,
    },
    "queries whole": {"target_modules": ["q_proj"], "modules_to_save": ["query_embeddings"]},
    "queries": {"target_modules": ["query_embeddings"]},
    "codes": {"target_modules": ["embed_tokens"]},
    "codes, dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "codes and head, tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "head": {"target_modules": ["lm_head"]},
    "some codes": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2, 3]},
    "some queries": {"target_modules": ["q_proj"], "trainable_token_indices": {"query_embeddings": [0, 1]}},
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("settings", TARGETS.values(), ids=TARGETS.keys())
def test_what_is_trained_is_what_is_merged_and_saved(tmp_path, settings, tied):
    model = make_model(PROCESSOR, tie_word_embeddings=tied)
    before = model(**batch()).logits
    wrapped = trained(model, **settings)
    after = wrapped(**batch())
    searched = {way: wrapped.recommend(HISTORY, k=7, normalize=way) for way in ("vocabulary", "level")}
    assert (after.logits - before).abs().max() > 1e-3

    wrapped.save_pretrained(tmp_path / "adapters")
    fresh = make_model(PROCESSOR, tie_word_embeddings=tied)
    torch.testing.assert_close(
        PeftModel.from_pretrained(fresh, tmp_path / "adapters").eval()(**batch()).logits, after.logits
    )
    merged = wrapped.merge_and_unload().eval()
    torch.testing.assert_close(merged(**batch()).logits, after.logits, atol=1e-4, rtol=1e-4)
    assert merged(**batch()).loss.item() == pytest.approx(after.loss.item(), abs=1e-4)
    check_saved(merged, tmp_path / "model")
    for way, (items, scores) in searched.items():
        found, found_scores = merged.recommend(HISTORY, k=7, normalize=way)
        assert found == items
        assert found_scores == pytest.approx(scores, abs=1e-4)


def test_tables_untied_or_tied_by_hand(tmp_path):
    model = make_model(PROCESSOR)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    check_saved(model, tmp_path / "untied")
    model = make_model(PROCESSOR, tie_word_embeddings=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    check_saved(model, tmp_path / "tied")
    # and back: what was saved before does not stay
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    check_saved(model, tmp_path / "tied")


def test_a_stranger_opens_what_was_merged(tmp_path):
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "query_embeddings"]}
    merged = trained(make_model(PROCESSOR), **settings).merge_and_unload().eval()
    merged.save_pretrained(tmp_path)
    items, scores = merged.recommend(HISTORY, k=7)
    found, found_scores = recommend_as_stranger(tmp_path, HISTORY, k=7)
    assert found == items
    assert found_scores == pytest.approx(scores, abs=1e-5)


def test_adapters_taken_off_leave_the_model(tmp_path):
    model = make_model(PROCESSOR)
    before = model(**batch()).logits
    left = trained(model, target_modules=["embed_tokens"]).unload().eval()
    torch.testing.assert_close(left(**batch()).logits, before)
    check_saved(left, tmp_path)
