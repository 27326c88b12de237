"""Beam search over the trie against a search that encodes every prefix anew, for CARE and for stock decoders."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_processor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    TemperatureLogitsWarper,
)

from hf_genrec.catalogue import trie_arrays
from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.beam_search import beam_search, constrained_beam_search

pytestmark = pytest.mark.libraries

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def stock_decoder(kind: str, vocab_size: int, attention: str = "sdpa"):
    torch.manual_seed(0)
    settings = {"vocab_size": vocab_size, "initializer_range": 0.3, "attn_implementation": attention}
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **settings)).eval()
    classes = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config, model = classes[kind]
    return model(config(**SIZES, num_key_value_heads=2, **settings)).eval()


@torch.no_grad()
def search_by_hand(model, prompt: torch.Tensor, ids: np.ndarray, num_beams: int, normalize="vocabulary"):
    """(token ids, score) of the beams, every prefix encoded in a row of its own."""
    beams = [((), 0.0)]
    for level in range(ids.shape[1]):
        candidates = []
        for prefix, score in beams:
            logits = model(torch.cat([prompt, torch.tensor(prefix, dtype=torch.long)])[None]).logits[0, -1].double()
            tokens = np.unique(ids[:, level]) if normalize == "level" else slice(None)
            logits = logits - logits[tokens].logsumexp(0)
            for token in {line[level] for line in ids.tolist() if tuple(line[:level]) == prefix}:
                candidates.append(((*prefix, token), score + logits[token].item()))
        beams = sorted(candidates, key=lambda beam: (-beam[1], beam[0]))[:num_beams]
    return beams


def make_inputs(processor, histories):
    return processor.prompts([processor.rows(history) for history in histories])


@pytest.mark.parametrize("normalize", ["vocabulary", "level"])
@pytest.mark.parametrize("num_beams", [1, 4, 40])
@pytest.mark.parametrize("kind", ["care", "qwen2", "llama", "gpt2", "qwen2-eager"])
def test_equal_to_encoding_every_prefix_anew(processor, histories, kind, num_beams, normalize):
    name, _, attention = kind.partition("-")
    vocab_size = len(processor.tokenizer)
    model = make_model(processor) if name == "care" else stock_decoder(name, vocab_size, attention or "sdpa")
    inputs = make_inputs(processor, histories)
    leaves, scores = beam_search(model, inputs, processor.trie, num_beams, normalize=normalize)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        expected = search_by_hand(model, inputs["input_ids"][row, mask], processor.token_ids, num_beams, normalize)
        first_items, _ = processor.trie.items_below(leaves[row], processor.num_levels)
        assert processor.trie.token_ids(first_items).tolist() == [list(ids) for ids, _ in expected]
        assert scores[row].tolist() == pytest.approx([score for _, score in expected], abs=2e-5)


def test_level_normalisation_is_a_distribution_over_the_catalogue_of_one_level(processor, histories):
    """With one item only nothing is left to choose: its probability is 1."""
    model = make_model(processor)
    one = processor.trie.restrict([7])
    _, scores = beam_search(model, make_inputs(processor, histories), one, 5, normalize="level")
    assert torch.equal(scores, torch.zeros(len(histories), 1))
    with pytest.raises(ValueError, match="'vocabulary', 'level' or 'legal'"):
        beam_search(model, make_inputs(processor, histories), one, 5, normalize="codes")


@pytest.mark.parametrize("num_beams", [1, 7, 40])
def test_ties_are_listed_in_the_order_of_the_trie(processor, histories, num_beams):
    model = make_model(processor)
    for parameter in model.parameters():
        parameter.data.zero_()
    leaves, scores = beam_search(model, make_inputs(processor, histories), processor.trie, num_beams)
    assert torch.equal(leaves, torch.arange(num_beams).expand(len(histories), -1))
    assert scores.unique().numel() == 1


@pytest.mark.parametrize("normalize", ["vocabulary", "level"])
@pytest.mark.parametrize("with_seen", [False, True])
@pytest.mark.parametrize("num_beams", [3, 40])
def test_tables_of_nearly_full_levels_change_nothing(
    model, processor, histories, monkeypatch, num_beams, with_seen, normalize
):
    monkeypatch.setattr(trie_arrays, "MAX_TABLE", 0)
    bare = ItemTrie.from_token_ids(processor.token_ids, popularity=processor.popularity)
    assert any(processor.trie._tables)
    assert not any(bare._tables)
    seen = torch.tensor([3, 40, 41]) if with_seen else None
    inputs = make_inputs(processor, histories)
    found, expected = (
        beam_search(model, inputs, trie, num_beams, seen, normalize=normalize) for trie in (processor.trie, bare)
    )
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("num_beams", "wanted"), [(20, 20), (20, 5), (1, 1)])
@pytest.mark.parametrize("kind", ["care", "llama"])
def test_custom_generate_writes_what_stock_generate_writes(processor, histories, kind, num_beams, wanted):
    model = make_model(processor) if kind == "care" else stock_decoder(kind, len(processor.tokenizer))
    inputs = processor(histories=histories, return_tensors="pt")
    settings = {"num_beams": num_beams, "num_return_sequences": wanted, "max_new_tokens": 3, "output_scores": True}
    settings |= {"return_dict_in_generate": True, "eos_token_id": None, "pad_token_id": 0}
    stock = model.generate(**inputs, **settings, logits_processor=[processor.trie_logits_processor()])
    found = model.generate(**inputs, **settings, custom_generate=processor.constrained_beam_search())
    assert torch.equal(found.sequences, stock.sequences)
    if num_beams > 1:
        torch.testing.assert_close(found.sequences_scores, stock.sequences_scores, atol=1e-5, rtol=0)
    plain = model.generate(
        **inputs, **settings | {"return_dict_in_generate": False}, custom_generate=processor.constrained_beam_search()
    )
    assert torch.equal(plain, found.sequences)


def test_custom_generate_with_fewer_items_than_asked_for(model, processor, histories):
    inputs = processor(histories=histories, return_tensors="pt")
    search = processor.constrained_beam_search(["item-3", "item-4"])
    settings = {"num_beams": 4, "num_return_sequences": 4, "return_dict_in_generate": True}
    output = model.generate(**inputs, **settings, custom_generate=search)
    item_ids = processor.batch_decode_items(output.sequences)
    for row in range(len(histories)):
        line = slice(4 * row, 4 * row + 4)
        assert sorted(item_ids[line][:2]) == ["item-3", "item-4"]
        assert item_ids[line][2:] == [None, None]
        assert output.sequences_scores[line][2:].tolist() == [-np.inf, -np.inf]


def test_custom_generate_refuses_what_it_would_ignore(model, processor, histories):
    inputs = processor(histories=histories, return_tensors="pt")
    with pytest.raises(ValueError, match="leave out TemperatureLogitsWarper"):
        model.generate(
            **inputs,
            num_beams=3,
            logits_processor=[TemperatureLogitsWarper(0.5)],
            custom_generate=constrained_beam_search(processor.trie),
        )


def test_shared_leaves_and_a_large_vocabulary():
    """Codes that stand high in a large vocabulary, two items in one leaf."""
    processor = make_processor(num_items=12, sizes=(3, 4), unique=False)
    model = stock_decoder("qwen2", 5000)
    inputs = make_inputs(processor, [["item-3"], []])
    shifted = ItemTrie.from_token_ids(processor.token_ids + 4900, popularity=processor.popularity)
    leaves, scores = beam_search(model, inputs, shifted, 12)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        expected = search_by_hand(model, inputs["input_ids"][row, mask], processor.token_ids + 4900, 12)
        found = leaves[row][leaves[row] >= 0]
        first_items, _ = shifted.items_below(found, 2)
        assert shifted.token_ids(first_items).tolist() == [list(ids) for ids, _ in expected]
        assert scores[row, : len(found)].tolist() == pytest.approx([score for _, score in expected], abs=2e-5)
