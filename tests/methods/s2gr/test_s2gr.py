"""S2GR's model against slower ways to compute the same; without thinking it is TIGER."""

import itertools

import numpy as np
import pytest
import torch
from conftest import make_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_s2gr import make_s2gr
from tiny_tiger import make_tiger
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM

from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.methods.s2gr.configuration_s2gr import S2grConfig
from hf_genrec.methods.s2gr.modeling_s2gr import S2grForConditionalGeneration
from hf_genrec.methods.s2gr.s2gr_losses import item_losses

pytestmark = pytest.mark.libraries

TARGETS = np.array([2, 4, 30, 7])
OPTIONS = {
    "all": {},
    "first": {"thinking": [True, False, False]},
    "last, untaught": {"thinking": [False, True, True], "num_clusters": [0, 0, 2]},
    "level heads": {"level_heads": True, "item_separators": True, "item_weight": 0.0},
    "pool": {"shared_kv_pool_size": 16, "shared_kv_user_dim": 3},
}


@pytest.fixture(params=OPTIONS, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def model(request, processor):
    return make_s2gr(processor, **OPTIONS[request.param])


@pytest.fixture
def batch(processor, histories):
    examples = [
        {"history": processor.rows(history), "target": row} for history, row in zip(histories, TARGETS, strict=True)
    ]
    return Seq2SeqCollator(processor)(examples)


def by_one_pass(model, batch) -> torch.Tensor:
    """States (B, L, d) that predict the codes: the whole sequence of slots through T5's own decoder, once per slot that
    is not known yet."""
    encoding = model.encoder(batch["input_ids"], batch["attention_mask"])
    tokens = model.shared(model._shift_right(batch["labels"]))
    slots, states, number = [], [], 0

    def last_state():
        return model.decoder(
            inputs_embeds=torch.cat(slots, 1),
            encoder_hidden_states=encoding.last_hidden_state,
            encoder_attention_mask=encoding.attention_mask,
            use_cache=False,
        ).last_hidden_state[:, -1:]

    for level in range(tokens.shape[1]):
        slots.append(tokens[:, level : level + 1])
        if model.config.thinking[level]:
            slots.append(last_state() + model.level_embeddings.weight[number])
            number += 1
        states.append(last_state())
    return torch.cat(states, 1)


def test_states_are_those_of_t5s_decoder_over_codes_and_thoughts(model, batch):
    states = by_one_pass(model, batch)
    expected = model.code_logits(model.scaled(states), torch.arange(3))
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level_heads", [False, True])
def test_without_thinking_it_is_tiger_bit_for_bit(processor, histories, batch, level_heads):
    fields = {"level_heads": level_heads, "label_smoothing": 0.1}
    tiger = make_tiger(processor, **fields)
    model = make_s2gr(processor, thinking=[False] * 3, **fields)
    assert model.state_dict().keys() == tiger.state_dict().keys()
    for name, weight in tiger.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    gradients = []
    for one in (tiger.train(), model.train()):
        torch.manual_seed(1)
        output = one(**batch)
        output.loss.backward()
        gradients.append((output.loss, output.logits, *(p.grad for p in one.parameters())))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert model.eval().recommend(histories, k=7) == tiger.eval().recommend(histories, k=7)
    assert torch.equal(model.score_items(histories), tiger.score_items(histories))


def test_beams_as_wide_as_the_catalogue_are_exact_scores(model, processor, histories):
    exact = model.score_items(histories)
    items, scores = model.recommend(histories, k=40)
    for line, (found, of_found) in enumerate(zip(items, scores, strict=True)):
        of_item = dict(zip(processor.item_ids, exact[line].tolist(), strict=True))
        assert sorted(found) == sorted(processor.item_ids)
        assert of_found == pytest.approx([of_item[one] for one in found], abs=1e-3)


def test_scores_are_those_of_one_pass(model, processor, histories):
    exact = model.score_items(histories)
    tokens = torch.from_numpy(processor.token_ids)
    for line, history in enumerate(histories):
        prompts = {name: part.expand(40, -1) for name, part in processor.prompts([processor.rows(history)]).items()}
        with torch.no_grad():
            logits = model(**prompts, labels=tokens).logits
        expected = logits.log_softmax(-1).gather(2, tokens[..., None]).sum((1, 2))
        torch.testing.assert_close(exact[line], expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    thinking=st.lists(st.booleans(), min_size=3, max_size=3),
    beams=st.integers(1, 30),
)
def test_any_batch_beam_and_thinking(seed, lengths, thinking, beams):
    """A list does not depend on who else is in the batch, and its scores are exact."""
    processor = make_processor(seed=seed % 7)
    model = make_s2gr(processor, seed, thinking=thinking, num_clusters=[0, 0, 0])
    rng = np.random.default_rng(seed)
    batch = [rng.integers(0, 40, length) for length in lengths]
    k = min(beams, 5)
    rows, scores = model.recommend_rows(batch, k, num_beams=beams)
    with torch.no_grad():
        exact = model.score_rows(batch, np.arange(40))
    for line, history in enumerate(batch):
        alone, _ = model.recommend_rows([history], k, num_beams=beams)
        np.testing.assert_array_equal(alone[0], rows[line])
        np.testing.assert_allclose(scores[line], exact[line][rows[line]].numpy(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}])
def test_generate_on_a_padded_batch(model, processor, histories, options):
    output = model.generate(
        **processor(histories=histories, return_tensors="pt"),
        num_beams=40,
        num_return_sequences=5,
        logits_processor=[processor.trie_logits_processor()],
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    items, scores = model.recommend(histories, k=5, num_beams=40)
    assert processor.batch_decode_items(output.sequences, 5) == items
    assert (output.sequences_scores * 3).tolist() == pytest.approx(list(itertools.chain(*scores)), abs=1e-3)


def test_a_cache_of_fixed_length_is_refused(processor, histories):
    inputs = processor(histories=histories, return_tensors="pt")
    with pytest.raises(ValueError, match="leave cache_implementation out"):
        make_s2gr(processor).generate(**inputs, cache_implementation="static", disable_compile=True)


def test_the_loss_is_the_sum_of_its_terms(model, processor, batch):
    config = model.config
    with torch.no_grad():
        output = model(**batch)
        encoding = model.encoder(batch["input_ids"], batch["attention_mask"])
        _, outputs = model._decode(model._shift_right(batch["labels"]), encoding, None, False)
    thoughts = outputs["thoughts"]
    assert sorted(thoughts) == [level for level in range(3) if config.thinking[level]]
    clusters, codes = 0.0, processor.codes[TARGETS]
    for level in model.taught_levels:
        centres, of_code = getattr(model, f"centres_{level}"), getattr(model, f"clusters_{level}")
        near = functional.cosine_similarity(model.mapped(thoughts[level], level), centres[None], dim=-1)
        right = of_code[codes[:, level]]
        clusters -= (near / 0.1).log_softmax(-1).gather(1, right[:, None]).sum().item()
    hits = output.logits.log_softmax(-1).gather(2, batch["labels"][..., None])
    losses = output.losses
    assert losses["code"].item() == pytest.approx(-hits.mean().item(), rel=1e-5)
    total = losses["code"].item()
    if model.taught_levels:
        assert losses["cluster"].item() == pytest.approx(clusters / 12, rel=1e-4)
        total += losses["cluster"].item()
    if config.learns_items:
        total += losses["item"].item()
        if 0 in thoughts:
            assert 0 <= losses["thought"].item() <= 2 / 3
            total += 0.1 * losses["thought"].item()
    assert output.loss.item() == pytest.approx(total, rel=1e-5)


def test_items_are_told_apart_from_other_items_only():
    rng = torch.Generator().manual_seed(0)
    vectors, items = torch.randn(4, 5, generator=rng), torch.randn(4, 5, generator=rng)
    items[2] = items[0]
    labels = torch.tensor([[0, 1], [1, 1], [0, 1], [2, 3]])
    found = item_losses(vectors, items, labels, 0.5)
    near = functional.cosine_similarity(vectors[:, None], items[None], dim=-1) / 0.5
    for row, others in enumerate(([0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3])):
        expected = -near[row, row] + near[row, others].logsumexp(0)
        torch.testing.assert_close(found[row], expected)


def test_the_first_thought_is_drawn_to_the_item_and_not_the_other_way(processor, batch):
    model = make_s2gr(processor, cluster_weight=0.0, item_weight=1e-12, thought_weight=1.0)
    model(**batch).losses["thought"].backward()
    assert model.level_embeddings.weight.grad[0].abs().sum() > 0
    of_decoder = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("item_decoder.")]
    assert all(gradient is None for gradient in of_decoder)


def test_accumulated_batches_average_over_codes(processor, batch):
    model = make_s2gr(processor, item_weight=0.0)
    whole, parts = model(**batch).loss, 0
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        parts = parts + model(**part, num_items_in_batch=12).loss
    torch.testing.assert_close(parts, whole)


def test_every_parameter_receives_a_gradient(model, batch):
    model.train()(**batch).loss.backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # The auxiliary decoder reads one slot: what of it attends to which of its own slots plays no part.
    ends = ("SelfAttention.q.weight", "SelfAttention.k.weight", "SelfAttention.relative_attention_bias.weight")
    assert not [name for name in lacking if not (name.startswith("item_decoder.") and name.endswith(ends))]


def test_hits_are_those_of_the_logits(model, processor, batch):
    hits = model.hits(**batch)
    logits, start = model(**batch).logits, 0
    for level, size in enumerate(processor.codebook_sizes):
        likeliest = logits[:, level, start : start + size].argmax(-1)
        assert hits["code"][:, level].tolist() == (likeliest.numpy() == processor.codes[TARGETS, level]).tolist()
        start += size
    assert ("cluster" in hits) == bool(model.taught_levels)
    if model.taught_levels:
        assert hits["cluster"].shape == (4, len(model.taught_levels))


def test_padding_changes_nothing(model, batch):
    together = model(**batch).logits
    for line in range(len(TARGETS)):
        real = batch["attention_mask"][line].bool()
        alone = model(batch["input_ids"][line, real][None], labels=batch["labels"][line][None])
        torch.testing.assert_close(alone.logits[0], together[line], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_and_opened(processor, histories, tmp_path, name):
    model = make_s2gr(processor, **OPTIONS[name])
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is S2grForConditionalGeneration
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    expected = model.recommend(histories, k=7)
    assert again.recommend(histories, k=7) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thinking": [True]}, "thinking has 1 entries"),
        ({"num_clusters": [1, 2, 3]}, "num_clusters has 3 entries"),
        ({"num_clusters": [1, -2]}, "num_clusters"),
        ({"temperature": 0}, "temperature"),
        ({"cluster_weight": -1}, "cluster_weight"),
        ({"code_dim": 0}, "code_dim"),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        S2grConfig(**{"vocab_size": 20, "codebook_sizes": [4, 4]} | fields)
