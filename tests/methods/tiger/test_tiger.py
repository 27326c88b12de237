"""TIGER's model against slower ways to compute the same, and `recommend` against exact scores."""

import itertools

import numpy as np
import pytest
import torch
from conftest import make_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tiger import make_tiger
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.decoding.beam_search import beam_search
from hf_genrec.decoding.code_t5_config import CodeT5Config
from hf_genrec.methods.tiger.modeling_tiger import TigerConfig, TigerForConditionalGeneration

pytestmark = pytest.mark.libraries

TARGETS = np.array([2, 4, 30, 7])
OPTIONS = {
    "plain": {},
    "separators": {"item_separators": True},
    "level heads": {"level_heads": True, "item_separators": True, "num_user_bins": 5, "mlp_layers": 2},
    "gated": {"feed_forward_proj": "gated-gelu", "num_layers": 1, "num_decoder_layers": 3},
    "pool": {"shared_kv_pool_size": 16, "shared_kv_user_dim": 3},
}


@pytest.fixture(params=OPTIONS, ids=lambda name: name.replace(" ", "-"))
def model(request, processor):
    return make_tiger(processor, **OPTIONS[request.param])


@pytest.fixture
def inputs(processor, histories):
    return processor(histories=histories, return_tensors="pt")


@pytest.fixture
def batch(processor, histories):
    examples = [
        {"history": processor.rows(history), "target": row} for history, row in zip(histories, TARGETS, strict=True)
    ]
    return Seq2SeqCollator(processor)(examples)


def test_a_batch(processor, batch, inputs):
    assert batch["labels"].tolist() == processor.token_ids[TARGETS].tolist()
    assert torch.equal(batch["input_ids"], inputs["input_ids"])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}


def test_without_options_it_is_t5(processor, batch):
    model = make_tiger(processor)
    fields = {name: getattr(model.config, name) for name in ("d_model", "d_ff", "d_kv", "num_heads", "num_layers")}
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=model.config.vocab_size,
            num_decoder_layers=2,
            decoder_start_token_id=processor.answer_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
            **fields,
        )
    ).eval()
    t5.load_state_dict(model.state_dict())
    ours, theirs = model(**batch), t5(**batch)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(ours.loss, theirs.loss)


def test_padding_changes_nothing(model, processor, batch):
    together = model(**batch)
    for line in range(len(TARGETS)):
        real = batch["attention_mask"][line].bool()
        alone = model(batch["input_ids"][line, real][None], labels=batch["labels"][line][None])
        torch.testing.assert_close(alone.logits[0], together.logits[line], atol=1e-4, rtol=1e-4)
    # on the right as well, behind the answer token
    if model.encoder.separator is None:
        padded = {
            "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 3), value=1),
            "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 3)),
        }
        torch.testing.assert_close(
            model(**padded, labels=batch["labels"]).logits, together.logits, atol=1e-4, rtol=1e-4
        )


def test_rows_read_the_codes_before_them(model, processor, batch):
    changed = batch["labels"].clone()
    changed[:, 2] = torch.from_numpy(processor.code_token_ids[2][:1]).expand(4)
    before, after = model(**batch).logits, model(**batch | {"labels": changed}).logits
    torch.testing.assert_close(before, after)
    changed[:, 0] = batch["labels"][:, 0].roll(1)
    after = model(**batch | {"labels": changed}).logits
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3


def test_separators_stand_behind_each_item_and_are_read_where_it_is(processor, inputs):
    model = make_tiger(processor, item_separators=True, num_user_bins=5)
    encoding = model.encoder(**inputs, user_bins=torch.tensor([3, -1, 0, 4]))
    assert encoding.attention_mask.shape == (4, 1 + 8 * 4 + 1)
    assert encoding.attention_mask.sum(1).tolist() == [1 + 3 * 4 + 1, 1, 1 + 4 + 1, 1 + 8 * 4 + 1]
    seen = {}
    model.encoder.block[0].register_forward_pre_hook(lambda block, args: seen.update(states=args[0]))
    model.encoder(**inputs)
    slots = seen["states"][3, 1:-1].view(8, 4, -1)
    assert torch.equal(slots[:, 3], model.encoder.separator.weight.expand(8, -1))
    codes = model.shared.weight[inputs["input_ids"][3, :-1]].view(8, 3, -1)
    assert torch.equal(slots[:, :3], codes)


def test_users_have_vectors_and_unknown_ones_have_none(processor, batch):
    model = make_tiger(processor, num_user_bins=5)
    known = [model(**batch, user_bins=torch.full((4,), row)).logits for row in (1, 2)]
    assert (known[0] - known[1]).abs().max() > 1e-3
    nobody = model(**batch, user_bins=torch.full((4,), -1)).logits
    torch.testing.assert_close(nobody, model(**batch).logits)
    with torch.no_grad():
        model.encoder.user_embeddings.weight.mul_(3)
    torch.testing.assert_close(model(**batch).logits, nobody)
    with pytest.raises(ValueError, match=r"user_bins: the model has no vectors"):
        make_tiger(processor)(**batch, user_bins=torch.zeros(4, dtype=torch.long))


def test_a_level_has_a_head_of_its_own(processor, batch):
    model = make_tiger(processor, level_heads=True)
    logits = model(**batch).logits.log_softmax(-1)
    start = 0
    for level, size in enumerate(processor.codebook_sizes):
        assert logits[:, level, start : start + size].exp().sum(-1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
        start += size
    hits = logits.gather(2, batch["labels"][..., None])
    torch.testing.assert_close(model(**batch).loss, -hits.mean())
    assert model.lm_head.weight is not model.shared.weight


@pytest.mark.parametrize("level_heads", [False, True])
def test_label_smoothing_acts_in_training_only(processor, batch, level_heads):
    model = make_tiger(processor, label_smoothing=0.2, level_heads=level_heads, dropout_rate=0.0)
    output = model(**batch)
    log_probs = output.logits.log_softmax(-1)
    hits = log_probs.gather(2, batch["labels"][..., None])
    torch.testing.assert_close(output.loss, -hits.mean())
    means = log_probs.mean(-1)
    if level_heads:
        parts = log_probs[..., : sum(processor.codebook_sizes)].split(processor.codebook_sizes, -1)
        means = torch.stack([part[:, level].mean(-1) for level, part in enumerate(parts)], 1)
    torch.testing.assert_close(model.train()(**batch).loss, -0.8 * hits.mean() - 0.2 * means.mean())


def test_accumulated_batches_average_over_codes(model, batch):
    whole, parts = model(**batch).loss, 0
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        parts = parts + model(**part, num_items_in_batch=12).loss
    torch.testing.assert_close(parts, whole)


def test_every_parameter_receives_a_gradient(model, batch):
    bins = {"user_bins": torch.arange(4)} if model.config.num_user_bins else {}
    model.train()(**batch, **bins).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beams_as_wide_as_the_catalogue_are_exact_scores(model, processor, histories, dtype):
    model = model.to(dtype)
    exact = model.score_items(histories)
    items, scores = model.recommend(histories, k=40)
    for line, (found, of_found) in enumerate(zip(items, scores, strict=True)):
        assert sorted(found) == sorted(processor.item_ids)
        of_item = dict(zip(processor.item_ids, exact[line].tolist(), strict=True))
        assert of_found == pytest.approx([of_item[one] for one in found], abs=1e-3 if dtype == torch.float32 else 1.5)


def test_scores_are_those_of_one_pass(model, processor, histories):
    """Without cache, beams or trie: each item behind each history in a batch of its own."""
    exact = model.score_items(histories)
    tokens = torch.from_numpy(processor.token_ids)
    for line, history in enumerate(histories):
        prompt = processor.prompts([processor.rows(history)])["input_ids"]
        with torch.no_grad():
            logits = model(prompt.expand(40, -1), labels=tokens).logits
        expected = logits.log_softmax(-1).gather(2, tokens[..., None]).sum((1, 2))
        torch.testing.assert_close(exact[line], expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    separators=st.booleans(),
    level_heads=st.booleans(),
    beams=st.integers(1, 30),
)
def test_any_batch_and_beam(seed, lengths, separators, level_heads, beams):
    """A list does not depend on who else is in the batch, and its scores are exact."""
    processor = make_processor(seed=seed % 7)
    model = make_tiger(processor, seed, item_separators=separators, level_heads=level_heads)
    rng = np.random.default_rng(seed)
    batch = [rng.integers(0, 40, length) for length in lengths]
    k = min(beams, 5)
    rows, scores = model.recommend_rows(batch, k, num_beams=beams)
    exact = model.score_rows(batch, np.arange(40))
    for line, history in enumerate(batch):
        alone, _ = model.recommend_rows([history], k, num_beams=beams)
        np.testing.assert_array_equal(alone[0], rows[line])
        np.testing.assert_allclose(scores[line], exact[line][rows[line]].detach().numpy(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "static", [{}, {"cache_implementation": "static", "disable_compile": True}, {"use_cache": False}]
)
def test_generate_on_a_padded_batch(model, processor, histories, inputs, static):
    """Stock beam search, which repeats histories for its beams, finds what `recommend` finds: padding is not read."""
    output = model.generate(
        **inputs,
        num_beams=40,
        num_return_sequences=5,
        logits_processor=[processor.trie_logits_processor()],
        return_dict_in_generate=True,
        output_scores=True,
        **static,
    )
    items, scores = model.recommend(histories, k=5, num_beams=40)
    assert processor.batch_decode_items(output.sequences, 5) == items
    assert (output.sequences_scores * 3).tolist() == pytest.approx(list(itertools.chain(*scores)), abs=1e-3)
    fast = model.generate(
        **inputs, num_beams=40, num_return_sequences=5, custom_generate=processor.constrained_beam_search()
    )
    assert processor.batch_decode_items(fast, 5) == items


def test_generate_for_known_users(processor, inputs):
    model = make_tiger(processor, num_user_bins=5)
    bins = torch.tensor([0, 3, -1, 4])
    asked = {"num_beams": 40, "num_return_sequences": 5}
    stock = model.generate(**inputs, user_bins=bins, **asked, logits_processor=[processor.trie_logits_processor()])
    leaves, _ = beam_search(model, {**inputs, "user_bins": bins}, processor.trie, 40)
    first = processor.trie.items[processor.trie.items_below(leaves[:, :5].flatten(), 3)[0]]
    found = processor.batch_decode_items(stock)
    assert found == [processor.item_ids[row] for row in first.tolist()]
    assert found != processor.batch_decode_items(
        model.generate(**inputs, **asked, logits_processor=[processor.trie_logits_processor()])
    )
    fast = model.generate(**inputs, user_bins=bins, **asked, custom_generate=processor.constrained_beam_search())
    assert processor.batch_decode_items(fast) == found


def test_the_history_is_encoded_once_for_all_beams(processor, histories):
    model, rows = make_tiger(processor), []
    model.encoder.register_forward_hook(lambda module, args, output: rows.append(len(output.last_hidden_state)))
    model.decoder.block[0].layer[1].EncDecAttention.k.register_forward_hook(
        lambda module, args, output: rows.append(tuple(output.shape[:2]))
    )
    model.recommend(histories, k=5, num_beams=20)
    assert rows == [4, (4, 8 * 3 + 1)]


def test_seen_items_and_candidates(model, processor, histories):
    exact = model.score_items(histories)
    items, scores = model.recommend(histories, k=40, exclude_seen=True)
    for history, found in zip(histories, items, strict=True):
        assert sorted(found) == sorted(set(processor.item_ids) - set(history))
    some = ["item-4", "item-30", "item-11"]
    items, scores = model.recommend(histories, k=3, candidates=some)
    for line, found in enumerate(items):
        assert sorted(found) == sorted(some)
        of_some = exact[line][[processor.item_ids.index(one) for one in found]]
        assert scores[line] == pytest.approx(of_some.tolist(), abs=1e-3)


def test_probabilities_over_what_is_legal(processor, histories):
    """`normalize="legal"`: of a catalogue of one branch, each choice but the last is certain."""
    model = make_tiger(processor)
    _, scores = model.recommend(histories, k=40, normalize="legal")
    for line in scores:
        assert np.exp(line).sum() == pytest.approx(1.0, abs=1e-4)
    (_, one), (_, other) = (
        model.recommend(["item-3"], k=1, candidates=["item-7"], normalize=how) for how in ("legal", "vocabulary")
    )
    assert one == [pytest.approx(0.0, abs=1e-5)]
    assert other[0] < -0.1


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_and_opened(processor, histories, tmp_path, name):
    model = make_tiger(processor, **OPTIONS[name])
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is TigerForConditionalGeneration
    assert type(AutoConfig.from_pretrained(tmp_path)) is TigerConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is TigerForConditionalGeneration
    expected = model.recommend(histories, k=7)
    assert again.recommend(histories, k=7) == expected
    assert again.encoder.embed_tokens.weight is again.shared.weight is again.decoder.embed_tokens.weight
    assert (again.lm_head.weight is again.shared.weight) != model.config.level_heads


def test_new_weights_are_as_wide_as_t5s(processor):
    """transformers initializes modules like T5's attention in its own classes only, unless it is told."""
    sizes = {"initializer_factor": 1.0, "d_model": 256, "d_ff": 300, "d_kv": 32}
    ours = make_tiger(processor, **sizes)
    config = T5Config(
        **{name: getattr(ours.config, name) for name in (*sizes, "num_heads", "num_layers", "vocab_size")}
    )
    theirs = T5ForConditionalGeneration(config).state_dict()
    assert theirs.keys() == ours.state_dict().keys()
    for name, weight in ours.state_dict().items():
        if weight.numel() > 200:
            assert weight.std().item() == pytest.approx(theirs[name].std().item(), rel=0.15, abs=1e-6), name


@pytest.mark.parametrize("level_heads", [False, True])
def test_new_tables_are_as_wide_as_t5s(processor, level_heads):
    torch.manual_seed(0)
    model = make_tiger(
        processor, initializer_factor=1.0, d_model=256, d_ff=64, level_heads=level_heads, item_separators=True,
        num_user_bins=9, mlp_layers=2,
    )  # fmt: skip
    encoder = model.encoder
    for table in (model.shared.weight, encoder.separator.weight, encoder.user_embeddings.weight):
        assert table.std().item() == pytest.approx(1.0, rel=0.2)
    for stack in (encoder, model.decoder):
        inner = stack.block[0].layer[-1].inner
        assert [layer.weight.std().item() for layer in inner] == pytest.approx([256**-0.5, 64**-0.5], rel=0.1)
        assert not inner[0].bias.any()
    if level_heads:
        assert model.lm_head.weight.std().item() == pytest.approx(256**-0.5, rel=0.1)


def test_lora(processor, batch):
    from peft import LoraConfig, get_peft_model

    model = make_tiger(processor)
    before = model.recommend(["item-3"], k=7)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q", "v"]))
    wrapped(**batch).loss.backward()
    trained = {name for name, p in wrapped.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert any("encoder" in name for name in trained)
    assert any("EncDecAttention.q.lora_B" in name for name in trained)
    found = wrapped.get_base_model().recommend(["item-3"], k=7)
    assert found[0] == before[0]
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    _, scores = wrapped.get_base_model().recommend(["item-3"], k=40)
    exact = wrapped.get_base_model().score_items(["item-3"])
    best = exact.sort(descending=True).values
    assert scores == pytest.approx(best.tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 0}, "d_model"),
        ({"num_decoder_layers": 0}, "num_decoder_layers"),
        ({"dropout_rate": 1.5}, "dropout_rate"),
        ({"label_smoothing": -1}, "label_smoothing"),
        ({"item_separators": True, "codebook_sizes": None}, "need codebook_sizes"),
        ({"level_heads": True, "codebook_sizes": [50, 50]}, "more codes than vocab_size=20"),
        ({"mlp_layers": 0}, "mlp_layers"),
        ({"num_user_bins": 0}, "num_user_bins"),
        ({"feed_forward_proj": "lion"}, "feed_forward_proj"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets"),
        ({"relative_attention_max_distance": 8}, "relative_attention_max_distance"),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        CodeT5Config(**{"vocab_size": 20, "codebook_sizes": [4, 4]} | fields)


def test_histories_that_are_no_whole_items(processor):
    model = make_tiger(processor, item_separators=True)
    with pytest.raises(ValueError, match="5 tokens are no whole items of 3 codes"):
        model(torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="Give histories"):
        model()
