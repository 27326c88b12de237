"""What CARE's backbone promises: aligned rows, caches, packing, losses."""

import pytest
import torch
from conftest import make_model, make_processor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StaticCache,
)

from hf_genrec.data.collator import PackedCollator
from hf_genrec.methods.care.care_layout import CODE, QUERY, attention_allowed, care_layout
from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM, CareModel

pytestmark = pytest.mark.libraries


def batch(processor, histories, targets):
    """Prompts and codes of targets, as the collator lays them out."""
    prompts = processor.prompts([processor.rows(history) for history in histories])
    codes = torch.from_numpy(processor.token_ids[processor.rows(targets)])
    return {
        "input_ids": torch.cat([prompts["input_ids"], codes], 1),
        "attention_mask": torch.cat([prompts["attention_mask"], torch.ones_like(codes)], 1),
    }


TARGETS = ["item-2", "item-4", "item-30", "item-7"]


def test_rows_are_aligned_with_the_input(model, processor, histories):
    inputs = batch(processor, histories, TARGETS)
    output = model(**inputs, output_hidden_states=True)
    assert output.logits.shape[:2] == inputs["input_ids"].shape
    assert all(state.shape[:2] == inputs["input_ids"].shape for state in output.hidden_states)
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1]), output.logits)


def test_layout_by_hand():
    # two items of two codes, answer, two codes; one query before code 1, two before code 2
    layout = care_layout(torch.tensor([[5, 0, 1, 0, 1, 9, 0, 1]]), torch.tensor([[-1, 0, 0, 0, 0, 1, 1, 1]]), [1, 2], 9)
    assert layout.source.tolist() == [[0, 1, 2, 3, 4, 5, 5, 6, 6, 6, 7]]
    assert layout.query[layout.kind == QUERY].tolist() == [0, 1, 2]
    assert layout.stage[0, 1:5].tolist() == [0, 1, 0, 1]
    assert layout.position.tolist() == [[0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert layout.reading_slot.tolist() == [[0, 1, 2, 3, 4, 6, 9, 10]]
    allowed = attention_allowed(layout, [True, False])[0].int().tolist()
    assert allowed[6] == [0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 0]  # query of stage 1: first codes, the answer token, itself
    assert allowed[7] == [0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]  # first code: everything before it, not itself
    assert allowed[9] == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]  # second query of stage 2, not progressive
    assert allowed[4] == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]  # history: plainly causal


def test_later_tokens_do_not_change_earlier_rows(model, processor, histories):
    inputs = batch(processor, histories, TARGETS)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, -1] = inputs["input_ids"][:, -1].roll(1)
    torch.testing.assert_close(model(**inputs).logits[:, :-1], model(**other).logits[:, :-1])


def test_a_coarse_stage_reads_no_fine_history_codes_directly():
    processor = make_processor()
    # one layer: what the answer token has read reaches nobody else
    model = make_model(processor, num_hidden_layers=1, num_queries=[1, 1, 1])
    inputs = batch(processor, [["item-3", "item-9"]], ["item-2"])
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, 2] = inputs["input_ids"][0, 5]  # third code of the first item
    assert inputs["input_ids"][0, 2] != inputs["input_ids"][0, 5]
    before, after = model(**inputs).logits[0, 6:9], model(**changed).logits[0, 6:9]
    torch.testing.assert_close(before[:2], after[:2])
    assert (before[2] - after[2]).abs().max() > 1e-3


@pytest.mark.parametrize("num_queries", [[1, 2, 1], [0, 0, 0], [0, 3, 0]])
@pytest.mark.parametrize("static", [False, True])
def test_cached_steps_equal_one_pass(processor, histories, num_queries, static):
    model = make_model(processor, num_queries=num_queries)
    inputs = batch(processor, histories, TARGETS)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    whole = model(**inputs).logits
    prompt_length = ids.shape[1] - 3
    cache = StaticCache(config=model.config, max_cache_len=60) if static else DynamicCache(config=model.config)
    rows = [model(ids[:, :prompt_length], mask[:, :prompt_length], past_key_values=cache, use_cache=True).logits]
    for end in range(prompt_length + 1, ids.shape[1] + 1):
        step = model(
            ids[:, end - 1 : end], mask[:, :end], past_key_values=cache, use_cache=True, context_ids=ids[:, :end]
        )
        rows.append(step.logits)
    real = mask.bool()
    torch.testing.assert_close(torch.cat(rows, 1)[real], whole[real], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(model, processor, histories):
    together = model(**batch(processor, histories, TARGETS)).logits[:, -4:]
    for row, (history, target) in enumerate(zip(histories, TARGETS, strict=True)):
        alone = model(**batch(processor, [history], [target])).logits[:, -4:]
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_queries", [[1, 2, 1], [0, 1, 0]])
def test_packed_blocks_equal_rows(processor, num_queries):
    """Blocks that stand behind their own prefix give the loss and the gradients of one row per prefix."""
    model = make_model(processor, num_queries=num_queries)
    sequence = [f"item-{row}" for row in (4, 8, 15, 16, 23)]
    codes = torch.from_numpy(processor.token_ids[processor.rows(sequence)])
    answer = torch.tensor([processor.answer_token_id])
    ids, blocks, labels = [], [], []
    for number, code in enumerate(codes):  # block, then the item itself as history, and so on
        ids += [answer, code, code]
        blocks += [torch.full((4,), number + 1), torch.zeros(3, dtype=torch.long)]
        labels += [torch.tensor([-100]), code, torch.full((3,), -100)]
    packed = model(torch.cat(ids)[None], labels=torch.cat(labels)[None], block_ids=torch.cat(blocks)[None])
    packed.loss.backward()
    packed_gradients = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    rows = batch(processor, [sequence[:n] for n in range(5)], sequence)
    row_labels = rows["input_ids"].clone()
    row_labels[:, :-3] = -100
    one_by_one = model(**rows, labels=row_labels)
    one_by_one.loss.backward()
    assert packed.loss.item() == pytest.approx(one_by_one.loss.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed_gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_accumulated_batches_average_over_targets(model, processor, histories):
    inputs = batch(processor, histories, TARGETS)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    whole = model(**inputs, labels=labels).loss
    parts = 0
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[rows] for name, tensor in inputs.items()}
        parts = parts + model(**part, labels=labels[rows], num_items_in_batch=12).loss
    torch.testing.assert_close(parts, whole)


def test_a_code_sees_itself_only_if_asked(processor, histories):
    layout = care_layout(torch.tensor([[0, 1, 2, 9, 0, 1, 2]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]]), [1, 1, 1], 9)
    closed, opened = (attention_allowed(layout, [True] * 3, sees)[0].diagonal() for sees in (False, True))
    assert torch.equal(~closed, layout.kind[0] == CODE)
    assert opened.all()


def test_every_parameter_receives_a_gradient(processor, histories):
    model = make_model(processor, tie_word_embeddings=False).train()
    inputs = batch(processor, histories, TARGETS)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    model(**inputs, labels=labels).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]


def test_gradient_checkpointing_changes_nothing(model, processor, histories):
    inputs = batch(processor, histories, TARGETS)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    model.train()
    model(**inputs, labels=labels).loss.backward()
    plain = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    model.activation_checkpointing_enable()
    model(**inputs, labels=labels).loss.backward()
    torch.testing.assert_close(model.model.layers[0].mlp.up_proj.weight.grad, plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_stays_close(processor, histories, attention):
    model = make_model(processor, attn_implementation=attention)
    inputs = batch(processor, histories, TARGETS)
    exact = model(**inputs).logits[:, -4:].log_softmax(-1)
    half = model.to(torch.bfloat16)(**inputs).logits
    assert half.dtype == torch.bfloat16
    assert (half[:, -4:].float().log_softmax(-1) - exact).abs().mean() < 0.1


SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def pretrained(kind: str, **fields):
    """A base model with norms that are not all ones."""
    torch.manual_seed(0)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES | fields)).eval()
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES | {"head_dim": 16} | fields)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.uniform_(0.5, 2.0)
            layer.self_attn.k_norm.weight.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_from_a_pretrained_base(tmp_path, kind, tied):
    base = pretrained(kind, tie_word_embeddings=tied)
    base.generation_config.update(do_sample=True, repetition_penalty=1.5, top_k=3)
    base.save_pretrained(tmp_path)
    model = CareForCausalLM.from_base(tmp_path, 61, num_queries=[1, 1], answer_token_id=60)
    assert torch.equal(model.model.embed_tokens.weight[:50], base.model.embed_tokens.weight)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, base.model.layers[1].mlp.up_proj.weight)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model.model.query_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.5)
    assert not model.generation_config.do_sample
    assert model.generation_config.repetition_penalty is None
    # without an answer token in the row, and so without queries, it is the base model
    ids = torch.randint(0, 50, (2, 7))
    torch.testing.assert_close(model(ids).logits[..., :50], base(ids).logits, atol=1e-6, rtol=0)


def test_padded_rows_of_a_base_are_no_tokens(tmp_path):
    """Of 50 rows the tokenizer uses 40: the tokens after them start as new ones, whatever stood there."""
    base = pretrained("qwen2", tie_word_embeddings=True)
    with torch.no_grad():
        base.model.embed_tokens.weight[40:] = 1000.0
    base.save_pretrained(tmp_path)
    for vocab_size in (45, 61):
        model = CareForCausalLM.from_base(tmp_path, vocab_size, 40, num_queries=[1], answer_token_id=44)
        table = model.model.embed_tokens.weight
        assert table.shape[0] == vocab_size == model.config.vocab_size
        assert torch.equal(table[:40], base.model.embed_tokens.weight[:40])
        assert table[40:].abs().max() < 1


def test_a_base_with_other_weights_is_refused(tmp_path):
    pretrained("qwen3", attention_bias=True).save_pretrained(tmp_path)  # of the projection back, too
    with pytest.raises(
        ValueError, match=r"has weights that CARE has no place for: model\.layers\.0\.self_attn\.o_proj"
    ):
        CareForCausalLM.from_base(tmp_path, 61, num_queries=[1], answer_token_id=60)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_qwen3s_layers_all_ways_agree(processor, histories, attention):
    """Cached steps, packed rows, beams and exact scores."""
    model = make_model(
        processor, qk_norm=True, attention_bias=False, head_dim=12, num_queries=[1, 2, 1], attn_implementation=attention
    )
    layer = model.model.layers[0].self_attn
    assert layer.q_proj.bias is None
    with torch.no_grad():
        layer.q_norm.weight.uniform_(0.5, 2.0)
    inputs = batch(processor, histories, TARGETS)
    ids, mask, whole = inputs["input_ids"], inputs["attention_mask"], model(**inputs).logits
    cache, end = DynamicCache(config=model.config), ids.shape[1] - 3
    rows = [model(ids[:, :end], mask[:, :end], past_key_values=cache, use_cache=True).logits]
    rows.append(model(ids[:, end:], mask, past_key_values=cache, use_cache=True, context_ids=ids).logits)
    torch.testing.assert_close(torch.cat(rows, 1)[mask.bool()], whole[mask.bool()], atol=1e-5, rtol=1e-5)

    sequence = processor.rows(["item-4", "item-8", "item-15"])
    packed = PackedCollator(processor)([{"segments": [(sequence, 0)]}])
    one_by_one = batch(processor, [[], ["item-4"], ["item-4", "item-8"]], ["item-4", "item-8", "item-15"])
    labels = one_by_one["input_ids"].clone()
    labels[:, :-3] = -100
    assert model(**packed).loss.item() == pytest.approx(model(**one_by_one, labels=labels).loss.item(), abs=1e-5)

    items, scores = model.recommend(histories, k=7, num_beams=len(processor.item_ids))
    exact = model.score_items(histories)
    for line, (found, of_found) in enumerate(zip(items, scores, strict=True)):
        best = exact[line].sort(descending=True)
        assert found == [processor.item_ids[row] for row in best.indices[:7]]
        assert of_found == pytest.approx(best.values[:7].tolist(), abs=1e-4)


def test_lora_trains_queries_through_their_module(processor, histories):
    from peft import LoraConfig, get_peft_model

    model = make_model(processor)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["query_embeddings"]))
    inputs = batch(processor, histories, TARGETS)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    wrapped(**inputs, labels=labels).loss.backward()
    trained = {name for name, p in wrapped.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert any("query_embeddings.modules_to_save" in name for name in trained)
    assert any("q_proj.lora_B" in name for name in trained)
    assert not any("embed_tokens" in name for name in trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 2, 32)}, "inputs_embeds"),
        ({"input_ids": torch.zeros(1, 2, dtype=torch.long), "position_ids": torch.zeros(1, 2)}, "position_ids"),
        ({"input_ids": torch.zeros(1, 2, dtype=torch.long), "attention_mask": torch.ones(1, 1, 2, 2)}, "2-D"),
    ],
)
def test_inputs_that_cannot_be_laid_out(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.model(**arguments)


def test_a_cache_that_does_not_fit_is_refused(model, processor, histories):
    inputs = batch(processor, histories, TARGETS)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = DynamicCache(config=model.config)
    model(ids[:, :-3], mask[:, :-3], past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="context_ids"):
        model(ids[:, -1:], mask, past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="do not go on"):
        model(ids[:, -1:], mask, past_key_values=cache, use_cache=True, context_ids=ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_queries": []},
        {"num_queries": [1, -1]},
        {"num_queries": [1, 1], "progressive": [True]},
        {"num_queries": [1, 1], "codebook_sizes": [4]},
        {"use_sliding_window": True},
    ],
)
def test_configurations_that_make_no_sense(fields):
    with pytest.raises(ValueError, match=next(iter(fields)) if len(fields) == 1 else "give one"):
        CareConfig(**fields)


def test_auto_classes_know_care(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is CareForCausalLM
    assert type(again.model) is CareModel
    assert again.recommend(["item-3"], k=7) == model.recommend(["item-3"], k=7)


def test_hidden_dropout_acts_in_training_only(processor, histories):
    inputs = batch(processor, histories, TARGETS)
    plain, dropped = make_model(processor), make_model(processor, hidden_dropout=0.5)
    torch.testing.assert_close(dropped(**inputs).logits, plain(**inputs).logits)
    assert not torch.allclose(dropped.train()(**inputs).logits, plain(**inputs).logits)


def test_label_smoothing_acts_in_training_only(processor, histories):
    inputs = batch(processor, histories, TARGETS)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    model = make_model(processor, label_smoothing=0.2, query_diversity_weight=0.0)
    plain = model(**inputs, labels=labels)
    log_probs = plain.logits[:, -4:-1].log_softmax(-1)
    hits = log_probs.gather(2, labels[:, -3:, None])
    torch.testing.assert_close(plain.loss, -hits.mean())
    smoothed = model.train()(**inputs, labels=labels).loss
    torch.testing.assert_close(smoothed, -0.8 * hits.mean() - 0.2 * log_probs.mean())
