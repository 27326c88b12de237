"""ReaRec with adapters: tables of items and steps that are read whole take part, too."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_rearec import ITEMS, WIDTH, tiny_rearec

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("ignore::UserWarning:peft")]
IDS = torch.randint(0, ITEMS + 1, (5, WIDTH), generator=torch.Generator().manual_seed(0))
IDS[0] = ITEMS  # no item: PAD is read


def text_model():
    model = tiny_rearec(reasoning="erl", backbone="unisrec", item_vector_size=6)
    model.set_item_vectors(np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float32))
    return model


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (tiny_rearec, {"target_modules": "all-linear", "use_dora": True}),
        (tiny_rearec, {"target_modules": ["embeddings"]}),
        (tiny_rearec, {"target_modules": ["query"], "modules_to_save": ["embeddings"]}),
        (tiny_rearec, {"target_modules": ["query"], "trainable_token_indices": {"model.items.embeddings": [1, 2]}}),
        (tiny_rearec, {"target_modules": ["reasoning_embeddings"]}),
        (tiny_rearec, {"target_modules": ["query"], "modules_to_save": ["reasoning_embeddings"]}),
        (tiny_rearec, {"target_modules": ["position_embeddings"]}),
        (text_model, {"target_modules": ["pad"]}),
    ],
)
def test_what_is_trained_is_what_is_merged_and_saved(tmp_path, make, settings):
    model = make()
    before = model(IDS).logits
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=2, **settings)).train()
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(IDS, labels=torch.arange(5)).loss.backward()
        optimizer.step()
    after = wrapped.eval()(IDS).logits
    assert (after - before).abs().max() > 1e-4
    wrapped.save_pretrained(tmp_path / "adapters")
    torch.testing.assert_close(PeftModel.from_pretrained(make(), tmp_path / "adapters").eval()(IDS).logits, after)
    merged = wrapped.merge_and_unload().eval()
    torch.testing.assert_close(merged(IDS).logits, after, atol=1e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path / "model")
    again = type(merged).from_pretrained(tmp_path / "model")
    assert torch.equal(again(IDS).logits, merged(IDS).logits)
    assert again.recommend(["i3", "i9"], k=5) == merged.recommend(["i3", "i9"], k=5)
