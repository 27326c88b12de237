"""REG4Rec's model against slower ways to compute the same, and `recommend` against exact scores."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_reg4rec import CATEGORIES, log_probs_after, make_reg4rec, make_set_processor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecConfig, Reg4RecForConditionalGeneration, Reg4RecModel
from hf_genrec.methods.reg4rec.reg4rec_losses import teacher_path

pytestmark = pytest.mark.libraries

HISTORIES = [["item-3", "item-9", "item-1"], [], ["item-5"], [f"item-{row}" for row in range(6)]]


@pytest.fixture
def processor():
    return make_set_processor()


@pytest.fixture
def model(processor):
    return make_reg4rec(processor)


@pytest.fixture
def inputs(processor):
    return processor(histories=HISTORIES, return_tensors="pt")


def targets(processor, rows=(0, 7, 11, 29)):
    rows = list(rows)
    labels, categories = torch.from_numpy(processor.token_ids[rows]), torch.from_numpy(processor.categories[rows])
    return {"labels": labels, "category_labels": categories}


# ---- layers ----


def attended(attention, states, keys, mask):
    """Multi-head attention of one row, states (S, d), by the formula."""
    size = states.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * size, (head + 1) * size)
        query, key = attention.query(states)[:, part], attention.key(keys)[:, part]
        value = attention.value(keys)[:, part]
        scores = query @ key.T / size**0.5
        heads.append(scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value)
    return attention.output(torch.cat(heads, -1))


def by_the_formulas(model, history_tokens, path):
    """States (S, d) of one path after one history, a list of items' token lists; without batches."""
    encoder, decoder = model.model.encoder, model.model.decoder
    items = history_tokens or [[model.config.pad_token_id] * model.config.num_codebooks]
    vectors = [
        encoder.embed_tokens.weight[tokens].sum(0) + encoder.embed_places.weight[len(items) - 1 - place]
        for place, tokens in enumerate(items)
    ]
    memory = encoder.embedding_norm(torch.stack(vectors))
    everything = torch.ones(len(items), len(items), dtype=torch.bool)
    for layer in encoder.layers:
        normed = layer.attention_norm(memory)
        memory = memory + attended(layer.attention, normed, normed, everything)
        forward = layer.feed_forward
        memory = memory + forward.down(functional.gelu(forward.up(layer.feed_forward_norm(memory))))
    memory = encoder.norm(memory)
    states = decoder.embedding_norm(encoder.embed_tokens.weight[path])
    causal = torch.ones(len(path), len(path)).tril().bool()
    for layer in decoder.layers:
        normed = layer.attention_norm(states)
        states = states + attended(layer.attention, normed, normed, causal)
        read = attended(layer.cross_attention, layer.cross_norm(states), memory, everything[:1].expand(len(path), -1))
        states = states + read
        forward = layer.feed_forward
        states = states + forward.down(functional.gelu(forward.up(layer.feed_forward_norm(states))))
    return decoder.norm(states)


def test_states_are_those_of_the_formulas(model, processor, inputs):
    path = torch.tensor([[12, 3, 8], [12, 0, 10], [12, 5, 1], [12, 11, 6]])
    assert model.config.decoder_start_token_id == 12
    states = model.model(**inputs, decoder_input_ids=path).last_hidden_state
    for line, history in enumerate(HISTORIES):
        tokens = processor.token_ids[processor.rows(history)].tolist()
        expected = by_the_formulas(model, tokens, path[line].tolist())
        torch.testing.assert_close(states[line], expected, rtol=1e-4, atol=1e-5)


def test_logits_are_log_softmaxes_within_codebooks(model, inputs):
    output = model(**inputs, decoder_input_ids=torch.tensor([[12, 3]] * 4))
    assert output.logits.shape == (4, 2, 14)
    states = model.model(**inputs, decoder_input_ids=torch.tensor([[12, 3]] * 4)).last_hidden_state
    expected = torch.cat([head(states).log_softmax(-1) for head in model.code_heads], -1)
    torch.testing.assert_close(output.logits[..., :12], expected)
    assert (output.logits[..., 12:] == torch.finfo(torch.float32).min).all()
    sums = [part.exp().sum(-1) for part in output.logits[..., :12].split([4, 5, 3], -1)]
    torch.testing.assert_close(torch.stack(sums), torch.ones(3, 4, 2))
    torch.testing.assert_close(output.category_logits, model.category_head(states))


def test_cached_decoding_equals_uncached(model, inputs):
    path = torch.tensor([[12, 3, 8], [12, 0, 10], [12, 5, 1], [12, 11, 6]])
    whole = model(**inputs, decoder_input_ids=path)
    first = model(**inputs, decoder_input_ids=path[:, :1], use_cache=True)
    parts = [first.logits]
    encoding = model.get_encoder()(**inputs)
    for step in (1, 2):
        # With a cache the histories' states are not read again.
        encoding.last_hidden_state.fill_(float("nan"))
        output = model(
            encoder_outputs=encoding,
            decoder_input_ids=path[:, step : step + 1],
            past_key_values=first.past_key_values,
        )
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=1e-5, atol=1e-5)
    two_at_once = model(**inputs, decoder_input_ids=path[:, :1], use_cache=True)
    output = model(**inputs, decoder_input_ids=path[:, 1:], past_key_values=two_at_once.past_key_values)
    torch.testing.assert_close(output.logits, whole.logits[:, 1:], rtol=1e-5, atol=1e-5)


def test_paths_of_one_history_share_its_encoding(model, inputs):
    paths = torch.tensor([[12, token] for token in (0, 5, 9, 3, 4, 10, 11, 2)])  # two to each history
    together = model(**inputs, decoder_input_ids=paths)
    repeated = {name: tensor.repeat_interleave(2, 0) for name, tensor in inputs.items()}
    apart = model(**repeated, decoder_input_ids=paths)
    torch.testing.assert_close(together.logits, apart.logits)
    torch.testing.assert_close(together.category_logits, apart.category_logits)
    with pytest.raises(ValueError, match="7 rows of decoder_input_ids for 4 histories"):
        model(**inputs, decoder_input_ids=paths[:7])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.integers(0, 29), max_size=6), min_size=1, max_size=4), st.randoms())
def test_neither_padding_nor_the_order_of_an_items_codes_matters(histories, random):
    model = make_reg4rec(make_set_processor())
    batch = model.processor.prompts([np.array(history, dtype=int) for history in histories])
    together = model(**batch).logits
    for line, history in enumerate(histories):
        alone = model.processor.prompts([np.array(history, dtype=int)])
        columns = list(range(3))
        random.shuffle(columns)
        alone["input_ids"] = alone["input_ids"].unflatten(1, (-1, 3))[..., columns].flatten(1)
        torch.testing.assert_close(model(**alone).logits[0], together[line], rtol=1e-4, atol=1e-5)
    inferred = model(input_ids=batch["input_ids"]).logits  # what is not the padding token
    torch.testing.assert_close(inferred, together)


# ---- losses ----


def test_losses_by_hand(model, processor, inputs):
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]])
    batch = targets(processor)
    output = model(**inputs, **batch, orders=orders)
    token, category = 0.0, 0.0
    for line, history in enumerate(HISTORIES):
        labels, rows = batch["labels"][line].tolist(), processor.rows(history)
        path = []
        for step, codebook in enumerate(orders[line].tolist()):
            log_probs = log_probs_after(model, rows, path)
            unused = orders[line, step:].tolist()
            token += -sum(log_probs[labels[r]].item() for r in unused) / len(unused)
            state = torch.tensor([[12, *path]])
            logits = model(**processor.prompts([rows]), decoder_input_ids=state).category_logits[0, -1]
            category += -logits.log_softmax(-1)[batch["category_labels"][line]].item() / 3
            path.append(labels[codebook])
    assert output.losses["token"].item() == pytest.approx(token / 4, rel=1e-5)
    assert output.losses["category"].item() == pytest.approx(category / 4, rel=1e-5)
    assert output.loss.item() == pytest.approx(token / 4 + 0.2 * category / 4, rel=1e-5)
    # The logits beside them are those of what the decoder read.
    read = teacher_path(batch["labels"], orders, 12)
    assert read[1].tolist() == [12, batch["labels"][1, 2], batch["labels"][1, 0]]
    torch.testing.assert_close(output.logits, model(**inputs, decoder_input_ids=read).logits)


def test_the_mean_over_unused_codebooks_is_the_expected_cross_entropy(model, processor, inputs):
    """Averaged over all orders, equation (6) as it stands has the same value."""
    batch, drawn, mean = targets(processor), [], []
    for order in itertools.permutations(range(3)):
        orders = torch.tensor([order] * 4)
        output = model(**inputs, **batch, orders=orders)
        mean.append(output.losses["token"].item())
        chosen = batch["labels"].gather(1, orders)
        drawn.append(-output.logits.gather(2, chosen[..., None]).sum().item() / 4)
    assert np.mean(mean) == pytest.approx(np.mean(drawn), rel=1e-5)


def test_a_fixed_order_is_taught_written_and_recommended(processor, inputs):
    """The loss is the plain cross-entropy of codebook 1, 2, 3; `generate` and `recommend` keep to that order."""
    fixed, free = make_reg4rec(processor, code_order="fixed"), make_reg4rec(processor)
    batch = targets(processor)
    output = fixed(**inputs, **batch)
    expected = -output.logits.gather(2, batch["labels"][..., None]).sum() / 4
    assert output.losses["token"].item() == pytest.approx(expected.item(), rel=1e-5)
    read = teacher_path(batch["labels"], torch.arange(3).expand(4, 3), 12)
    torch.testing.assert_close(output.logits, free(**inputs, decoder_input_ids=read).logits)

    torch.manual_seed(0)
    legal = [processor.set_logits_processor(order="fixed")]
    written = fixed.generate(**inputs, logits_processor=legal, do_sample=True, num_return_sequences=8)
    assert (processor.item_sets.codebook_of[written[:, 1:]] == torch.arange(3)).all()
    assert None not in processor.batch_decode_items(written)
    assert fixed.recommend(HISTORIES, k=5) == free.recommend(HISTORIES, k=5, order="fixed")
    assert fixed.recommend(HISTORIES, k=5) != free.recommend(HISTORIES, k=5)
    assert torch.equal(fixed.score_items(HISTORIES), free.score_items(HISTORIES, order="fixed"))


@pytest.mark.parametrize("permutation", [[1, 0, 2], [2, 0, 1]])
def test_the_codebooks_have_no_order(model, processor, inputs, permutation):
    """With the columns of the codes and the weights permuted alike, losses and gradients are the same."""
    sizes = [processor.codebook_sizes[r] for r in permutation]
    other = make_reg4rec(processor, seed=1, codebook_sizes=sizes)
    starts = np.cumsum([0, 4, 5, 3])
    old_ids = np.concatenate([np.arange(starts[r], starts[r + 1]) for r in permutation] + [[12, 13]])
    new_id = torch.from_numpy(np.argsort(old_ids))
    weights = model.state_dict()
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("code_heads."):
            _, codebook, kind = name.split(".")
            renamed[f"code_heads.{permutation.index(int(codebook))}.{kind}"] = tensor
        else:
            renamed[name] = tensor[torch.from_numpy(old_ids)] if "embed_tokens" in name else tensor
    other.load_state_dict(renamed)
    batch = targets(processor)
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]])
    place = torch.tensor([permutation.index(r) for r in range(3)])
    permuted = {
        "input_ids": new_id[inputs["input_ids"].unflatten(1, (-1, 3))[..., permutation]].flatten(1),
        "attention_mask": inputs["attention_mask"],
        "labels": new_id[batch["labels"][:, permutation]],
        "category_labels": batch["category_labels"],
        "orders": place[orders],
    }
    results = [model.double().train()(**inputs, **batch, orders=orders), other.double().train()(**permuted)]
    for result in results:
        result.loss.backward()
    torch.testing.assert_close(results[1].losses, results[0].losses)
    gradients = [m.model.encoder.embed_tokens.weight.grad for m in (model, other)]
    torch.testing.assert_close(gradients[1], gradients[0][torch.from_numpy(old_ids)])


def test_orders_are_drawn_from_the_generator(model, processor, inputs):
    batch = targets(processor)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(**inputs, **batch).loss.item())
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(ValueError, match="leave decoder_input_ids out"):
        model(**inputs, **batch, decoder_input_ids=torch.zeros(4, 1, dtype=torch.long))


def test_training_computes_no_logits_and_batches_add_up(model, processor, inputs):
    batch = targets(processor) | {"orders": torch.tensor([[0, 1, 2]] * 4)}
    whole = model.train()(**inputs, **batch)
    assert whole.logits is None
    assert whole.category_logits.shape == (4, 3, len(CATEGORIES))
    parts = []
    for part in (slice(0, 1), slice(1, 4)):
        cut = {name: tensor[part] for name, tensor in (dict(inputs) | batch).items()}
        parts.append(model(**cut, num_items_in_batch=4))
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    for name, value in whole.losses.items():
        torch.testing.assert_close(sum(part.losses[name] for part in parts), value)
    without = model(**inputs, labels=batch["labels"], orders=batch["orders"])
    assert without.losses.keys() == {"token"}
    torch.testing.assert_close(without.loss, whole.losses["token"])


# ---- generate ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 5, "num_return_sequences": 5},
        {"do_sample": True, "num_return_sequences": 10},
        {"num_beams": 3, "do_sample": True},
        {"use_cache": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("candidates", [None, ["item-2", "item-4", "item-7", "item-20", "item-21", "item-29"]])
def test_whatever_is_generated_is_an_item(model, processor, inputs, options, candidates):
    torch.manual_seed(0)
    output = model.generate(**inputs, logits_processor=[processor.set_logits_processor(candidates)], **options)
    assert output.shape[1] == 4
    found = processor.batch_decode_items(output)
    assert set(found) <= set(candidates or processor.item_ids)


def test_greedy_generation_is_a_search_with_one_path(model, processor, inputs):
    output = model.generate(**inputs, logits_processor=[processor.set_logits_processor()])
    found, _ = model.recommend(HISTORIES, k=1, num_beams=1)
    assert processor.batch_decode_items(output) == [line[0] for line in found]


def test_stock_beam_search_scores_its_paths_as_the_model_does(model, processor, inputs):
    """The sum of the log-probabilities, each less log M: transformers normalises over all codebooks."""
    output = model.generate(
        **inputs,
        num_beams=6,
        num_return_sequences=6,
        length_penalty=0.0,
        logits_processor=[processor.set_logits_processor()],
        return_dict_in_generate=True,
        output_scores=True,
    )
    for line, (path, found) in enumerate(zip(output.sequences.tolist(), output.sequences_scores.tolist(), strict=True)):
        history = processor.rows(HISTORIES[line // 6])
        scores = [log_probs_after(model, history, path[1:step])[path[step]].item() for step in (1, 2, 3)]
        assert found == pytest.approx(sum(scores) - 3 * np.log(3), abs=1e-4)


def test_sampling_follows_the_renormalised_log_probabilities(model, processor):
    """The first code of many samples: softmax of S over what is legal, that is, S over the number of codebooks."""
    history = processor(histories=["item-3"], return_tensors="pt")
    torch.manual_seed(0)
    output = model.generate(
        **history, do_sample=True, num_return_sequences=4000, logits_processor=[processor.set_logits_processor()]
    )
    counts = torch.bincount(output[:, 1], minlength=12) / 4000
    legal = processor.item_sets.allowed(processor.item_sets.start(1))[0]
    scores = log_probs_after(model, processor.rows(["item-3"]), []).masked_fill(~legal, -torch.inf)
    torch.testing.assert_close(counts, scores.softmax(-1), rtol=0, atol=0.03)


def test_each_history_is_encoded_once(model, inputs):
    rows = []
    hook = model.model.encoder.register_forward_hook(lambda module, args, output: rows.append(len(output[0])))
    model.generate(**inputs, num_beams=4)
    model.recommend(HISTORIES, k=3)
    hook.remove()
    assert rows == [4, 4]
    keys = []
    cross = model.model.decoder.layers[0].cross_attention
    hook = cross.key.register_forward_hook(lambda module, args, output: keys.append(output.shape[:2]))
    model.recommend(HISTORIES, k=3)
    assert keys == [(4, 6)]
    model.recommend(HISTORIES, k=3, lookahead=False)
    assert keys[1:] == [(4, 6), (4, 6)]  # once for the search, once for the exact scores
    model.generate(**inputs, num_beams=4)
    hook.remove()
    assert keys[3:] == [(4, 6)]  # not once per beam


def test_a_cache_of_fixed_length_is_refused(model, inputs):
    with pytest.raises(ValueError, match="leave cache_implementation out"):
        model.generate(**inputs, cache_implementation="static")


# ---- recommend ----


def brute_force(model, history, allowed=None, order="confidence"):
    """All items by exact score, best first."""
    scores = model.score_items(history, order=order)
    ids = model.processor.item_ids
    ranked = sorted(range(len(scores)), key=lambda row: -scores[row].item())
    return [(ids[row], scores[row].item()) for row in ranked if allowed is None or ids[row] in allowed]


@pytest.mark.parametrize("order", ["confidence", "fixed"])
def test_asked_for_everything_it_ranks_everything(model, order):
    item_ids, scores = model.recommend(HISTORIES, k=40, order=order)
    for history, found, found_scores in zip(HISTORIES, item_ids, scores, strict=True):
        expected = brute_force(model, history, order=order)
        assert found == [item_id for item_id, _ in expected]
        assert found_scores == pytest.approx([score for _, score in expected], abs=1e-5)


def test_scores_are_exact_and_depend_neither_on_k_nor_on_the_beam(model):
    exact = [dict(brute_force(model, history)) for history in HISTORIES]
    for settings_ in ({"k": 1}, {"k": 5}, {"k": 5, "num_beams": 5}, {"k": 4, "reflection_threshold": 0.01}):
        for line, (item_ids, scores) in enumerate(zip(*model.recommend(HISTORIES, **settings_), strict=True)):
            assert scores == pytest.approx([exact[line][item_id] for item_id in item_ids], abs=1e-5)
            assert scores == sorted(scores, reverse=True)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_excluding_and_restricting(data):
    """Different allowed items, k of them however few paths there are, or all in the order of their scores."""
    unique = data.draw(st.booleans())
    processor = make_set_processor(num_items=12, sizes=(3, 4, 2), unique=unique, seed=data.draw(st.integers(0, 5)))
    model = make_reg4rec(processor)
    items = st.sampled_from(processor.item_ids)
    histories = data.draw(st.lists(st.lists(items, max_size=8), min_size=1, max_size=3))
    candidates = data.draw(st.none() | st.lists(items, min_size=1, unique=True))
    exclude_seen, order = data.draw(st.booleans()), data.draw(st.sampled_from(["confidence", "fixed"]))
    threshold = data.draw(st.sampled_from([None, 0.005]))
    k = data.draw(st.integers(1, 14))
    found, scores = model.recommend(
        histories, k, exclude_seen, candidates, num_beams=k, order=order, reflection_threshold=threshold
    )
    for history, line, line_scores in zip(histories, found, scores, strict=True):
        allowed = set(processor.item_ids if candidates is None else candidates) - set(history if exclude_seen else [])
        expected = brute_force(model, history, allowed, order)
        assert len(line) == min(k, len(allowed)) == len(set(line))
        assert set(line) <= allowed
        exact = dict(expected)
        assert line_scores == pytest.approx([exact[item_id] for item_id in line], abs=1e-5)
        if k >= len(allowed):
            assert line_scores == pytest.approx([score for _, score in expected], abs=1e-5)


def test_too_few_items_are_searched_for_again(monkeypatch):
    """
    A path {a_0, b_0} takes a place, and what it leads to in the end is what other paths have found already; the item
    that this leaves out is found by a second search.
    """
    from hf_genrec.methods.reg4rec import recommending_reg4rec as set_recommender

    processor = make_set_processor(num_items=12, sizes=(3, 4, 2), seed=2)
    model, searches = make_reg4rec(processor), []

    class Watched(set_recommender.CrssSearch):
        def run(self):
            paths = super().run()
            searches.append((paths.leaves >= 0).sum(1).tolist())
            return paths

    monkeypatch.setattr(set_recommender, "CrssSearch", Watched)
    found, _ = model.recommend(HISTORIES, k=10, num_beams=10, lookahead=False)
    assert [len(line) for line in found] == [10] * 4
    assert min(searches[0]) < 10
    assert len(searches) > 1


def test_a_model_taught_one_order_is_searched_without_lookahead():
    """At its first step it knows the first codebook alone: nothing may depend on what it says of the others there."""
    processor = make_set_processor(num_items=40, sizes=(5, 5, 5), seed=3)
    settings = {"k": 3, "num_beams": 3}
    free, fixed = make_reg4rec(processor), make_reg4rec(processor, code_order="fixed")
    found = {choice: free.recommend(HISTORIES, lookahead=choice, **settings) for choice in (None, True, False)}
    assert found[None] == found[True] != found[False]
    without = free.recommend(HISTORIES, order="fixed", lookahead=False, **settings)
    assert fixed.recommend(HISTORIES, **settings) == without == fixed.recommend(HISTORIES, lookahead=False, **settings)
    with pytest.raises(ValueError, match=r"lookahead=True reads .* leave lookahead out"):
        fixed.recommend(HISTORIES, lookahead=True)
    for ask in (fixed.recommend, fixed.score_items):
        with pytest.raises(ValueError, match=r"order='confidence' reads .* leave order out"):
            ask(HISTORIES, order="confidence")


def test_items_that_share_codes_stand_in_order_of_popularity():
    processor = make_set_processor(num_items=30, sizes=(4, 4), unique=False)
    model = make_reg4rec(processor)
    found, scores = model.recommend(["item-1"], k=30)
    assert sorted(found) == sorted(processor.item_ids)
    popularity = dict(zip(processor.item_ids, processor.popularity, strict=True))
    pairs = zip(zip(found, scores, strict=True), zip(found[1:], scores[1:], strict=True), strict=False)
    ties = [(a, b) for (a, s), (b, t) in pairs if s == t]
    assert ties
    assert all(popularity[a] >= popularity[b] for a, b in ties)


def test_the_batch_changes_nothing(model):
    together, one_by_one = model.recommend(HISTORIES, k=5), model.recommend(HISTORIES, k=5, batch_size=1)
    assert together[0] == one_by_one[0]
    assert np.allclose(together[1], one_by_one[1], atol=1e-5)
    item_ids, scores = model.recommend(HISTORIES[0], k=5)
    assert (item_ids, scores) == (together[0][0], pytest.approx(together[1][0], abs=1e-5))


def test_codes_taken_back_are_counted():
    # More items than paths: a path that loses a code has others to go to.
    model = make_reg4rec(make_set_processor(num_items=400, sizes=(40, 40, 40)))
    rows = [model.processor.rows(history) for history in HISTORIES]
    *_, none = model.recommend_rows(rows, 5, return_rollbacks=True)
    *_, some = model.recommend_rows(rows, 5, reflection_threshold=0.01, return_rollbacks=True)
    assert none.tolist() == [0] * 4
    assert some.min() > 0
    model.config.reflection_threshold = 0.01
    *_, same = model.recommend_rows(rows, 5, return_rollbacks=True)
    assert same.tolist() == some.tolist()
    *_, off = model.recommend_rows(rows, 5, reflection_threshold=float("inf"), return_rollbacks=True)
    assert off.tolist() == [0] * 4


def test_dropout_is_off_and_the_mode_is_kept(processor):
    model = make_reg4rec(processor, dropout=0.5).train()
    assert model.recommend(["item-3"]) == model.recommend(["item-3"])
    assert torch.equal(model.score_items(["item-3"]), model.score_items(["item-3"]))
    assert model.training


def test_arguments_that_make_no_sense(model, inputs):
    for arguments in ({"k": 0}, {"k": 10, "num_beams": 5}, {"candidates": []}):
        with pytest.raises(ValueError, match="at least"):
            model.recommend(["item-1"], **arguments)
    with pytest.raises(ValueError, match="'nobody' in the history is not in the catalogue"):
        model.recommend(["item-1", "nobody"])
    with pytest.raises(ValueError, match="order='best'"):
        model.recommend(["item-1"], order="best")
    with pytest.raises(ValueError, match="4 tokens wide: give 1 to max_history=6 items of 3 codes"):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="21 tokens wide"):
        model(input_ids=torch.zeros(1, 21, dtype=torch.long))
    with pytest.raises(ValueError, match="Give histories as input_ids"):
        model()
    model.processor = None
    with pytest.raises(ValueError, match=r"set model\.processor = Reg4RecProcessor"):
        model.recommend(["item-1"])


# ---- files ----


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".py", ".safetensors"}
    again = Reg4RecForConditionalGeneration.from_pretrained(tmp_path)
    assert again.recommend(HISTORIES, k=7) == model.recommend(HISTORIES, k=7)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    assert again.generation_config.max_new_tokens == 3
    loaded = [
        AutoConfig.from_pretrained(tmp_path),
        AutoModel.from_pretrained(tmp_path),
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True),
    ]
    names = ["Reg4RecConfig", "Reg4RecModel", "Reg4RecForConditionalGeneration", "Reg4RecProcessor"]
    assert [type(thing).__name__ for thing in loaded] == names
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(loaded[1].state_dict()[name], tensor), name


def test_the_backbone_alone(inputs):
    model = Reg4RecModel(Reg4RecConfig(codebook_sizes=[4, 5, 3], max_history=6, hidden_size=16, intermediate_size=24))
    assert model(**inputs).last_hidden_state.shape == (4, 1, 16)
    assert model.get_encoder() is model.encoder
    assert model.get_input_embeddings() is model.encoder.embed_tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codebook_sizes": []}, "codebook_sizes is empty: give the number of codes of each level"),
        ({"codebook_sizes": [3, 0]}, "codebook_sizes=0: give at least 1"),
        ({"num_categories": 0}, "num_categories=0: give at least 1"),
        ({"hidden_size": 10}, "does not divide into 4 heads"),
        ({"reflection_threshold": -1.0}, "reflection_threshold=-1.0: give 0 or more"),
        ({"reflection_interval": 0}, "reflection_interval=0"),
        ({"pad_token_id": 0}, "make it 2401, leave it out"),
    ],
)
def test_configurations_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Reg4RecConfig(**fields)
