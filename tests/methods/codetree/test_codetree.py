"""CodeTree's probabilities, lists, loss and catalogue, against what is counted item by item."""

import math

import numpy as np
import pytest
import torch
from conftest import make_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codetree import make_codetree
from transformers import AutoModelForSeq2SeqLM

from hf_genrec.data.windows import ItemWindows
from hf_genrec.methods.codetree.modeling_codetree import CodeTreeConfig, CodeTreeForConditionalGeneration
from hf_genrec.methods.codetree.training_codetree import WindowCollator
from hf_genrec.training.code_shares import CodeShares
from hf_genrec.training.soft_targets import SoftTargetMaker

pytestmark = pytest.mark.libraries

HISTORIES = [["item-3", "item-7", "item-1"], [], ["item-12"], [f"item-{row}" for row in range(12)]]


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def model(processor):
    return make_codetree(processor)


# ---- the tree ----


def test_an_item_is_its_codes_and_a_vector_of_its_own(model, processor):
    for row in (0, 17, 39):
        codes = model.embed_tokens(torch.from_numpy(processor.token_ids[row])).sum(0)
        torch.testing.assert_close(model.item_vectors()[row], codes + model.item_embeddings.weight[row])


@pytest.mark.parametrize("unique", [True, False])
def test_a_node_is_the_mean_of_its_items(unique):
    processor = make_processor(unique=unique)
    model = make_codetree(processor)
    items, tree = model.item_vectors(), model.tree()
    for level, vectors in enumerate(tree.levels, start=1):
        prefixes = sorted({tuple(codes[:level]) for codes in processor.token_ids.tolist()})
        assert len(vectors) == len(prefixes)
        for prefix, vector in zip(prefixes, vectors, strict=True):
            below = (processor.token_ids[:, :level] == prefix).all(1)
            torch.testing.assert_close(vector, items[torch.from_numpy(below)].mean(0))


def test_the_tree_is_made_anew_when_something_changes():
    processor = make_processor()
    model = make_codetree(processor)
    with torch.no_grad():
        before = model.tree()
        assert model.tree() is before
        model.item_embeddings.weight[3] += 1
        assert not torch.equal(model.tree().levels[-1], before.levels[-1])
        model.add_items(["new"], processor.codes[:1])
        assert len(model.tree().trie) == 41
    scores = model.score_items(HISTORIES)
    model.load_state_dict(make_codetree(make_processor(), seed=7).state_dict())
    assert not torch.equal(model.score_items(HISTORIES), scores)
    assert model.tree() is not model.tree()  # with gradients


# ---- probabilities ----


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 50), unique=st.booleans(), sizes=st.sampled_from([(5, 6, 7), (4, 11), (43,), (3, 3, 3, 3)]))
def test_the_leaves_share_all_of_the_probability(seed, unique, sizes):
    processor = make_processor(sizes=sizes, unique=unique, seed=seed)
    model = make_codetree(processor, seed)
    scores = model.score_items(HISTORIES[:3])
    _, first = np.unique(processor.codes, axis=0, return_index=True)
    total = scores[:, torch.from_numpy(first)].exp().sum(1)
    torch.testing.assert_close(total, torch.ones(3))


def test_logits_are_those_of_the_scores(model, processor):
    """Row i for the code behind token i: what is no child of the codes so far has no probability."""
    inputs = processor(histories=HISTORIES[:2], return_tensors="pt")
    rows = [4, 21]
    codes = torch.from_numpy(processor.token_ids[rows])
    start = torch.full((2, 1), processor.answer_token_id)
    logits = model(**inputs, decoder_input_ids=torch.cat([start, codes], 1)).logits
    assert logits.shape == (2, 4, model.config.vocab_size)
    log_probs = logits[:, :3].log_softmax(-1)
    scores = model.score_items(HISTORIES[:2], item_ids=[f"item-{row}" for row in rows])
    torch.testing.assert_close(log_probs.gather(2, codes.unsqueeze(2)).sum((1, 2)), scores.diagonal())
    for line in range(2):
        for level in range(3):
            same = (processor.token_ids[:, :level] == processor.token_ids[rows[line], :level]).all(1)
            legal = set(processor.token_ids[same, level].tolist())
            assert set(log_probs[line, level].exp().nonzero()[:, 0].tolist()) == legal


def test_padding_changes_nothing(model):
    together = model.score_items(HISTORIES)
    for line, history in enumerate(HISTORIES):
        torch.testing.assert_close(together[line], model.score_items([history])[0], rtol=1e-5, atol=1e-5)


# ---- lists ----


@pytest.mark.parametrize("unique", [True, False])
def test_as_many_beams_as_items_find_what_exact_scoring_finds(unique):
    processor = make_processor(unique=unique)
    model = make_codetree(processor)
    item_ids, scores = model.recommend(HISTORIES, k=40, num_beams=40)
    exact = model.score_items(HISTORIES)
    for line in range(len(HISTORIES)):
        assert sorted(item_ids[line]) == sorted(processor.item_ids)
        rows = [processor.item_ids.index(item_id) for item_id in item_ids[line]]
        torch.testing.assert_close(torch.tensor(scores[line]), exact[line, rows], rtol=1e-5, atol=1e-5)
        assert scores[line] == sorted(scores[line], reverse=True)


def test_generate_writes_what_recommend_lists(model, processor):
    inputs = processor(histories=HISTORIES[:3], return_tensors="pt")
    wanted = [item_id for ids in model.recommend(HISTORIES[:3], k=5, num_beams=20)[0] for item_id in ids]
    settings = {"num_beams": 20, "num_return_sequences": 5}
    stock = model.generate(**inputs, **settings, logits_processor=[processor.trie_logits_processor()])
    assert processor.batch_decode_items(stock) == wanted
    ours = model.generate(**inputs, **settings, custom_generate=processor.constrained_beam_search())
    assert processor.batch_decode_items(ours) == wanted
    sampled = model.generate(
        **inputs, do_sample=True, num_return_sequences=4, logits_processor=[processor.trie_logits_processor()]
    )
    assert all(item_id in processor for item_id in processor.batch_decode_items(sampled))


def test_candidates_and_seen_items(model):
    allowed = ["item-5", "item-3", "item-30"]
    item_ids, scores = model.recommend(HISTORIES[0], k=5, candidates=allowed, exclude_seen=True)
    assert sorted(item_ids) == ["item-30", "item-5"]
    exact = model.score_items([HISTORIES[0]], item_ids=item_ids)[0]
    torch.testing.assert_close(torch.tensor(scores), exact, rtol=1e-5, atol=1e-5)


# ---- training ----


def test_windows_are_trained_on_as_a_row_for_each_target(model, processor):
    sequences = [np.array([3, 7, 1, 9]), np.array([12]), np.array([0, 1, 2, 3, 4])]
    windows = ItemWindows(sequences, "all", processor.max_history)
    batch = WindowCollator(processor)([windows[place] for place in range(len(windows))])
    together = model(**batch)
    losses = []
    for sequence in sequences:
        for place, target in enumerate(sequence):
            labels = torch.from_numpy(processor.token_ids[[target]])
            losses.append(model(**processor.prompts([sequence[:place]]), labels=labels).loss)
    assert windows.num_targets == len(losses)
    torch.testing.assert_close(together.loss, torch.stack(losses).mean())
    torch.testing.assert_close(sum(together.losses.values()), together.loss)
    halved = model(**batch, num_items_in_batch=2 * len(losses))
    torch.testing.assert_close(halved.loss, together.loss / 2)


def test_the_loss_is_minus_the_score(model, processor):
    labels = torch.from_numpy(processor.token_ids[[5]])
    loss = model(**processor.prompts([np.array([3, 7])]), labels=labels).loss
    score = model.score_items([["item-3", "item-7"]], item_ids=["item-5"])
    torch.testing.assert_close(-loss, score[0, 0])


@pytest.mark.parametrize("cross_entropy", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_soft_targets_code_by_code(model, processor, weight, cross_entropy):
    rows = [3, 17, 8]
    histories = [np.array([1, 2]), np.array([5]), np.array([], dtype=np.int64)]
    token_ids = torch.from_numpy(processor.token_ids[rows])
    codes = CodeShares(processor.trie)
    teacher = torch.randn(len(processor.trie), 3, generator=torch.Generator().manual_seed(0))  # in the trie's order
    shares = codes.shares(teacher.clone(), codes.path(token_ids))
    maker = SoftTargetMaker(codes, token_ids, shares if weight else None, weight, cross_entropy=cross_entropy)
    batch = {**processor.prompts(histories), "labels": token_ids}
    found = model(**batch, soft_targets=maker(torch.arange(3))).loss
    if not weight:
        torch.testing.assert_close(found, model(**batch).loss)  # without any (weight 0 in a training) it is bit for bit
        return
    start = torch.full((3, 1), processor.answer_token_id)
    written = torch.cat([start, token_ids[:, :-1]], 1)
    log_probs = model(**processor.prompts(histories), decoder_input_ids=written).logits.log_softmax(-1)
    of_item = dict(zip(processor.trie.items.tolist(), teacher.exp(), strict=True))
    expected = 0.0
    for line, row in enumerate(rows):
        for level in range(3):
            below = [
                item
                for item in of_item
                if (processor.token_ids[item, :level] == processor.token_ids[row, :level]).all()
            ]
            total = sum(of_item[item][line].item() for item in below)
            weights = {int(processor.token_ids[row, level]): 1 - weight}
            for item in below:
                code = int(processor.token_ids[item, level])
                weights[code] = weights.get(code, 0.0) + weight * of_item[item][line].item() / total
            log_prob = {code: log_probs[line, level, code].item() for code in weights}
            if cross_entropy:
                expected -= sum(share * log_prob[code] for code, share in weights.items()) / 3
            else:
                expected -= math.log(sum(share * math.exp(log_prob[code]) for code, share in weights.items())) / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_every_weight_is_trained(processor):
    model = make_codetree(processor).train()
    windows = ItemWindows([np.arange(9), np.arange(20, 28)], "all", processor.max_history)
    model(**WindowCollator(processor)([windows[0], windows[1]])).loss.backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not without


# ---- catalogue ----


def test_new_items_have_the_vectors_of_their_codes_until_they_leave(processor, tmp_path):
    processor = make_processor()
    model = make_codetree(processor)
    before = model.score_items(HISTORIES)
    free = next(codes for codes in np.ndindex(5, 6, 7) if not (processor.codes == codes).all(1).any())
    shared = processor.codes[4]
    assert model.add_items(["new", "twin"], np.array([free, shared]), ["A new one", "Its twin"]) is model
    tokens = torch.from_numpy(processor.token_ids[40])
    torch.testing.assert_close(model.item_vectors()[40], model.embed_tokens(tokens).sum(0))
    item_ids, scores = model.recommend([["new", "item-3"]], k=42, num_beams=42)
    assert sorted(item_ids[0]) == sorted(processor.item_ids)
    model.save_pretrained(tmp_path)
    again = CodeTreeForConditionalGeneration.from_pretrained(tmp_path)
    found, their_scores = again.recommend([["new", "item-3"]], k=42, num_beams=42)
    assert found == item_ids
    torch.testing.assert_close(torch.tensor(their_scores), torch.tensor(scores))
    model.remove_items(["new", "twin"])
    assert torch.equal(model.score_items(HISTORIES), before)


def test_an_item_that_leaves_takes_its_vector_along(processor):
    processor = make_processor()
    model = make_codetree(processor)
    wanted = model.item_vectors()[torch.arange(40) != 5]
    model.remove_items(["item-5"])
    assert model.config.num_items == 39
    torch.testing.assert_close(model.item_vectors(), wanted)
    with pytest.raises(ValueError, match="item-5"):
        model.remove_items(["item-5"])
    processor.remove_items(["item-6"])
    with pytest.raises(ValueError, match="38 items, the model 39: items leave by the model's remove_items"):
        model.recommend(HISTORIES[0])


def test_saved_and_opened_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert again.recommend(HISTORIES, k=7) == model.recommend(HISTORIES, k=7)
    assert torch.equal(again.score_items(HISTORIES), model.score_items(HISTORIES))


# ---- what is refused ----


def test_what_is_refused(model, processor):
    prompts = processor.prompts([np.array([3, 7])])
    with pytest.raises(ValueError, match="Give histories as input_ids"):
        model()
    with pytest.raises(ValueError, match="Give histories as input_ids"):
        model(labels=torch.from_numpy(processor.token_ids[[5]]))
    with pytest.raises(ValueError, match="Prompts of 6 tokens: make them with the processor"):
        model(input_ids=prompts["input_ids"][:, 1:])
    with pytest.raises(ValueError, match="codes of no item of the catalogue"):
        model(input_ids=prompts["input_ids"].flip(1))
    with pytest.raises(ValueError, match="labels hold codes of no item"):
        model(**prompts, labels=torch.zeros(1, 3, dtype=torch.long))
    long = torch.from_numpy(processor.token_ids[np.arange(9)].reshape(1, -1))
    with pytest.raises(ValueError, match="Histories of 9 items: cut them to the newest max_history=8"):
        model(input_ids=torch.cat([long, prompts["input_ids"][:, -1:]], 1))
    bare = CodeTreeForConditionalGeneration(model.config)
    with pytest.raises(ValueError, match="processor"):
        bare(**prompts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codebook_sizes": []}, "codebook_sizes is empty"),
        ({"num_items": 0}, "num_items"),
        ({"hidden_dropout": 1.5}, "hidden_dropout"),
        ({"hidden_size": 15}, "does not divide into 2 heads"),
        ({"vocab_size": 3}, "make it 770, leave it out"),
        ({"hidden_act": "loud"}, "hidden_act"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        CodeTreeConfig(**fields)


def test_lists_of_rows_have_the_scores_of_all_rows():
    """Some lists are shorter than the widest one: beams of theirs die, with codes that no item has."""
    model = make_codetree(make_processor(sizes=(20, 20, 20)))
    rng = np.random.default_rng(0)
    histories = [np.array([3, 9, 1]), np.array([], dtype=np.int64), np.arange(8), np.array([7])]
    for widest in (1, 3, 12, 30):
        lists = np.full((len(histories), widest), -1)
        for line, size in zip(lists, (widest, 1, max(widest // 2, 1), 0), strict=True):
            line[:size] = rng.choice(40, size, replace=False)
        scores = model.score_row_lists(histories, lists)
        exact = model.score_rows(histories, np.arange(40))
        for line, found, expected in zip(lists, scores, exact, strict=True):
            torch.testing.assert_close(found[line >= 0], expected[line[line >= 0]], rtol=1e-5, atol=1e-5)
            assert (found[line < 0] == -torch.inf).all()


@torch.no_grad()
def test_weights_that_are_written_past_torch_are_read(tmp_path):
    """As an average of weights is put in: `parameter.data.copy_(average)`."""
    model = make_codetree(make_processor())
    histories = [["item-3", "item-9", "item-1"], []]
    model.recommend(histories, k=5)
    for table in (model.embed_tokens, model.item_embeddings):
        table.weight.data[:, :4] += 0.7
        found, scores = model.recommend(histories, k=5)
        model.save_pretrained(tmp_path)
        expected, expected_scores = type(model).from_pretrained(tmp_path).recommend(histories, k=5)
        assert found == expected
        assert scores == [pytest.approx(line, abs=1e-5) for line in expected_scores]
