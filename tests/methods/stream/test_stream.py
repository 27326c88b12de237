"""STREAM's model against slower ways to compute the same; without thinking tokens it is TIGER."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import make_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_stream import make_stream
from tiny_tiger import make_tiger
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM

from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.methods.stream.configuration_stream import StreamConfig
from hf_genrec.methods.stream.modeling_stream import StreamForConditionalGeneration
from hf_genrec.methods.stream.stream_losses import preference_losses, quantization_losses, state_target_losses
from hf_genrec.methods.stream.traces import TraceCollator

pytestmark = pytest.mark.libraries

TARGETS = np.array([2, 4, 30, 7])
OPTIONS = {
    "four": {},
    "two": {"num_thinking_tokens": 2, "quantization_weight": 0.0},
    "seven, level heads": {"num_thinking_tokens": 7, "level_heads": True, "item_separators": True},
    "tokens alone": {"num_thinking_tokens": 3, "state_weight": 0.0, "quantization_weight": 0.0},
    "pool": {"shared_kv_pool_size": 16, "shared_kv_user_dim": 3},
}


@pytest.fixture(params=OPTIONS, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def model(request, processor):
    return make_stream(processor, **OPTIONS[request.param])


@pytest.fixture
def examples(processor, histories):
    return [{"history": processor.rows(one), "target": row} for one, row in zip(histories, TARGETS, strict=True)]


def traced(model, examples, preferred=False) -> dict:
    """The examples with random thinking tokens of the right levels."""
    rng, sizes = np.random.default_rng(0), model.config.codebook_sizes
    starts = np.cumsum([0, *sizes])
    levels = np.arange(model.config.num_thinking_tokens) % len(sizes)
    more = [{"trace": np.array([starts[level] + rng.integers(sizes[level]) for level in levels])} for _ in examples]
    if preferred:
        more = [line | {"rejected": 5 + place, "margin": 0.5 * place} for place, line in enumerate(more)]
    return TraceCollator(model.processor)([one | line for one, line in zip(examples, more, strict=True)])


def by_t5(model, prompts, written) -> tuple[torch.Tensor, torch.Tensor]:
    """States and logits (B, T, ...) of T5's own decoder over tokens (B, T), without any cache."""
    encoding = model.encoder(prompts["input_ids"], prompts["attention_mask"])
    states = model.decoder(
        input_ids=written,
        encoder_hidden_states=encoding.last_hidden_state,
        encoder_attention_mask=encoding.attention_mask,
        use_cache=False,
    ).last_hidden_state
    thinks = model.config.num_thinking_tokens
    levels = [slot % 3 if slot <= thinks else slot - thinks - 1 for slot in range(written.shape[1])]
    return states, model.code_logits(model.scaled(states), torch.tensor(levels))


def greedy_trace(model, prompts) -> torch.Tensor:
    """Start token and thinking tokens, the whole sequence through T5's decoder for each."""
    written = torch.full((len(prompts["input_ids"]), 1), model.config.answer_token_id)
    for _ in range(model.config.num_thinking_tokens):
        _, logits = by_t5(model, prompts, written)
        written = torch.cat([written, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return written


@torch.no_grad()
def exact_scores(model, prompts, tokens) -> torch.Tensor:
    """(B, items) by one pass of T5's decoder for each item."""
    before = greedy_trace(model, prompts)
    before = torch.cat([before, before[:, :1]], 1)
    columns = []
    for codes in tokens:
        codes = codes.expand(len(before), -1)
        _, logits = by_t5(model, prompts, torch.cat([before, codes[:, :-1]], 1))
        columns.append(logits[:, -3:].log_softmax(-1).gather(2, codes[..., None]).sum((1, 2)))
    return torch.stack(columns, 1)


def test_the_trace_is_greedy_and_scores_are_those_of_t5s_decoder(model, processor, histories):
    prompts = processor.prompts([processor.rows(history) for history in histories])
    encoding = model.encoder(**prompts)
    expected = greedy_trace(model, prompts)
    assert torch.equal(model.think(encoding), expected[:, 1:])
    assert torch.equal(model.decoder_prompts(encoding), torch.cat([expected, expected[:, :1]], 1))
    scores = exact_scores(model, prompts, torch.from_numpy(processor.token_ids))
    torch.testing.assert_close(model.score_items(histories), scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level_heads", [False, True])
def test_without_thinking_it_is_tiger_bit_for_bit(processor, histories, examples, level_heads):
    fields = {"level_heads": level_heads, "label_smoothing": 0.1}
    tiger = make_tiger(processor, **fields)
    model = make_stream(processor, num_thinking_tokens=0, **fields)
    assert model.state_dict().keys() == tiger.state_dict().keys()
    for name, weight in tiger.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    batch, gradients = Seq2SeqCollator(processor)(examples), []
    for one in (tiger.train(), model.train()):
        torch.manual_seed(1)
        output = one(**batch)
        output.loss.backward()
        gradients.append((output.loss, output.logits, *(p.grad for p in one.parameters())))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert model.eval().recommend(histories, k=7) == tiger.eval().recommend(histories, k=7)
    assert torch.equal(model.score_items(histories), tiger.score_items(histories))
    inputs = processor(histories=histories, return_tensors="pt")
    constraint = [processor.trie_logits_processor()]
    assert torch.equal(*(one.generate(**inputs, logits_processor=constraint) for one in (model, tiger)))


def test_beams_as_wide_as_the_catalogue_are_exact_scores(model, processor, histories):
    exact = model.score_items(histories)
    items, scores = model.recommend(histories, k=40)
    for line, (found, of_found) in enumerate(zip(items, scores, strict=True)):
        of_item = dict(zip(processor.item_ids, exact[line].tolist(), strict=True))
        assert sorted(found) == sorted(processor.item_ids)
        assert of_found == pytest.approx([of_item[one] for one in found], abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    thinks=st.integers(0, 7),
    beams=st.integers(1, 30),
)
def test_any_batch_beam_and_thinking(seed, lengths, thinks, beams):
    """A list does not depend on who else is in the batch, and its scores are exact."""
    processor = make_processor(seed=seed % 7)
    model = make_stream(processor, seed, num_thinking_tokens=thinks)
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


def test_the_trie_is_given_codes_of_items_alone(model, processor, histories, monkeypatch):
    """Thinking tokens are no part of the search: what the trie is asked about are prefixes of items."""
    walked = []
    walk = ItemTrie.walk
    monkeypatch.setattr(ItemTrie, "walk", lambda self, ids: walked.append(ids.clone()) or walk(self, ids))
    inputs = processor(histories=histories, return_tensors="pt")
    output = model.generate(**inputs, logits_processor=[processor.trie_logits_processor()])
    assert [ids.shape[1] for ids in walked] == [0, 1, 2]
    trace = model.think(model.encoder(**inputs))
    for level, ids in enumerate(walked):
        assert torch.equal(ids, output[:, trace.shape[1] + 2 :][:, :level])
    assert torch.equal(output[:, 1 : trace.shape[1] + 1], trace)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_generate_on_a_padded_batch(model, processor, histories, options):
    output = model.generate(
        **processor(histories=histories, return_tensors="pt"),
        num_beams=40,
        num_return_sequences=5,
        logits_processor=[processor.trie_logits_processor()],
        return_dict_in_generate=True,
        output_scores=True,
        disable_compile=True,
        length_penalty=0.0,
        **options,
    )
    items, scores = model.recommend(histories, k=5, num_beams=40)
    assert processor.batch_decode_items(output.sequences, 5) == items
    assert output.sequences_scores.tolist() == pytest.approx(list(itertools.chain(*scores)), abs=1e-3)


def test_the_fast_form_of_generate(model, processor, histories):
    inputs = processor(histories=histories, return_tensors="pt")
    search = processor.constrained_beam_search()
    output = model.generate(**inputs, custom_generate=search, num_beams=40, num_return_sequences=5)
    assert processor.batch_decode_items(output, 5) == model.recommend(histories, k=5, num_beams=40)[0]


# ---- loss ----


def unit(vectors):
    return functional.normalize(vectors, dim=-1)


def test_the_loss_is_the_sum_of_its_terms(model, examples):
    batch, config, thinks = traced(model, examples, preferred=True), model.config, model.config.num_thinking_tokens
    with torch.no_grad():
        output = model(**batch)
        trace, codes = batch["labels"][:, :thinks], batch["labels"][:, -3:]
        start = torch.full((4, 1), config.answer_token_id)
        states, logits = by_t5(model, batch, torch.cat([start, trace, start, codes[:, :-1]], 1))
        _, of_others = by_t5(model, batch, torch.cat([start, trace, start, batch["rejected"][:, :-1]], 1))
        torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=1e-4)

        def of_tokens(logits, tokens):
            return logits.log_softmax(-1).gather(2, tokens[..., None]).squeeze(-1)

        total, table = 4 * (thinks + 3), model.shared.weight
        expected = {
            "code": -of_tokens(logits[:, -3:], codes).sum(),
            "trace": -of_tokens(logits[:, :thinks], trace).sum(),
        }
        targets = unit(table[codes].mean(1))
        if config.state_weight:
            sums = states[:, : thinks + 1].cumsum(1)
            states = unit(model.state_map(sums))
            expected["state"] = torch.zeros(())
            for row, place in itertools.product(range(4), range(1, thinks + 1)):
                near = (states[row, place] @ targets.T / config.temperature).log_softmax(0)
                expected["state"] -= place / thinks * near[row]
        if config.quantization_weight:
            expected["quantization"] = torch.zeros(())
            for row, place in itertools.product(range(4), range(thinks)):
                left = model.residual_map(targets[row] - states[row, place])
                expected["quantization"] += 1.25 * (left - unit(table[trace[row, place]])).square().sum()
        ratios = of_tokens(logits[:, -3:], codes).sum(1) - of_tokens(of_others[:, -3:], batch["rejected"]).sum(1)
        expected["preference"] = -functional.logsigmoid(0.1 * (ratios - batch["reference_margins"])).sum()
    assert output.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert output.losses[name].item() == pytest.approx(value.item() / total, rel=1e-4), name
    weighted = sum(value * (0.1 if name == "preference" else 1) for name, value in output.losses.items())
    assert output.loss.item() == pytest.approx(weighted.item(), rel=1e-5)


def test_states_are_told_apart_by_hand():
    """Two rows, two states: cosines by hand."""
    states = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([[0, 4], [1, 4]])
    found = state_target_losses(states, targets, labels, 0.5)
    # -log of the share of the own target: log(1 + exp((other - own) / 0.5)), the first state by a half
    first = 0.5 * math.log1p(math.exp(-2)) + math.log1p(math.exp(0.4))
    second = 0.5 * math.log1p(math.exp(-2)) + math.log1p(math.exp(0.4))
    assert found.tolist() == pytest.approx([first, second], abs=1e-9)
    # The same item is not set against itself.
    assert state_target_losses(states, targets, labels[:1].expand(2, -1), 0.5).tolist() == [0, 0]
    # Rows of a later process begin further down.
    assert state_target_losses(states[1:], targets, labels, 0.5, start=1).tolist() == pytest.approx([second], abs=1e-9)


def test_quantization_by_hand():
    residual = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    codes = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    loss = quantization_losses(residual, codes)
    assert loss.tolist() == pytest.approx([1.25 * (4 + 2)], abs=1e-9)
    loss.sum().backward()
    assert residual.grad.flatten().tolist() == pytest.approx([0, 0.25 * 4, -0.25 * 2, 0.25 * 2], abs=1e-9)
    assert codes.grad.flatten().tolist() == pytest.approx([0, -4, 2, -2], abs=1e-9)


def test_preference_by_hand():
    chosen, rejected, margins = (torch.tensor([value], dtype=torch.float64) for value in (-2.0, -5.0, 1.0))
    expected = math.log1p(math.exp(-0.1 * 2))
    assert preference_losses(chosen, rejected, margins, 0.1).item() == pytest.approx(expected, abs=1e-9)


def test_accumulated_batches_average_over_tokens(processor, examples):
    model = make_stream(processor, state_weight=0.0)
    batch = traced(model, examples)
    whole, parts = model(**batch).loss, 0
    for rows in (slice(0, 1), slice(1, 4)):
        parts = parts + model(**{name: part[rows] for name, part in batch.items()}, num_items_in_batch=4 * 7).loss
    torch.testing.assert_close(parts, whole)


def test_every_parameter_receives_a_gradient(model, examples):
    model.train()(**traced(model, examples, preferred=True)).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_of_codes_alone_the_model_thinks_itself(model, processor, examples):
    batch = Seq2SeqCollator(processor)(examples)
    output = model(**batch)
    expected = torch.stack([
        model.score_rows([example["history"]], np.array([example["target"]]))[0, 0] for example in examples
    ])  # fmt: skip
    assert output.loss.item() == pytest.approx(-expected.sum().item() / 12, rel=1e-4)
    assert output.losses.keys() == {"code"}


def test_padding_changes_nothing(model, examples):
    batch = traced(model, examples)
    together = model(**batch).logits
    for line in range(len(TARGETS)):
        real = batch["attention_mask"][line].bool()
        alone = model(batch["input_ids"][line, real][None], labels=batch["labels"][line][None])
        torch.testing.assert_close(alone.logits[0], together[line], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_and_opened(processor, histories, tmp_path, name):
    model = make_stream(processor, **OPTIONS[name])
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is StreamForConditionalGeneration
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    expected = model.recommend(histories, k=7)
    assert again.recommend(histories, k=7) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_thinking_tokens": -1}, "num_thinking_tokens"),
        ({"num_thinking_tokens": 1, "codebook_sizes": None}, "num_thinking_tokens needs codebook_sizes"),
        ({"temperature": 0}, "temperature"),
        ({"state_weight": -1}, "state_weight"),
        ({"preference_beta": float("nan")}, "preference_beta"),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        StreamConfig(**{"vocab_size": 20, "codebook_sizes": [4, 4]} | fields)
