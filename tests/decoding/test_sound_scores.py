"""A model with NaN in its weights does not pass for one that recommends something, or nothing; and searches end."""

import inspect

import numpy as np
import pytest
import torch
from conftest import exit_code, make_model, make_processor
from tiny_cobra import make_cobra, make_cobra_processor
from tiny_codetree import make_codetree
from tiny_liger import make_liger
from tiny_mdgr import make_mdgr
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from tiny_s2gr import make_s2gr
from tiny_s3rec import tiny_s3rec
from tiny_stream import make_stream
from tiny_tiger import make_tiger

from hf_genrec.methods.reg4rec.reg4rec_search import js_divergence
from hf_genrec.methods.reg4rec.set_policy import sample_paths
from hf_genrec.post_training.trie_policy import sample_items

LINE = "hold NaN or infinity: train again"
MODELS = {
    "trie": lambda: make_model(make_processor(), attention_dropout=0.1),
    "seq2seq": lambda: make_tiger(make_processor(), dropout_rate=0.1),
    "seq2seq, heads of levels": lambda: make_tiger(make_processor(), level_heads=True, item_separators=True),
    "codes and vectors": lambda: make_cobra(make_cobra_processor(), item_embeddings=True),
    "seq2seq, thinking": lambda: make_s2gr(make_processor()),
    "seq2seq, thinking tokens": lambda: make_stream(make_processor()),
    "codes down a tree": lambda: make_codetree(make_processor()),
    "codes, ranked by vectors": lambda: make_liger(),
    "scores": lambda: tiny_rearec(),
    "scores of the newest state": lambda: tiny_s3rec(),
    "scores, depth by a rule": lambda: tiny_rearec(depth_rule="kl", depth_threshold=0.1),
    "sets": lambda: make_reg4rec(make_set_processor()),
    "sets, codes taken back": lambda: make_reg4rec(make_set_processor(), reflection_threshold=0.01),
    "sets in order": lambda: make_reg4rec(make_set_processor(), code_order="fixed"),
    "slots": lambda: make_mdgr(),
}


def histories_of(model) -> list[list[str]]:
    ids = model.processor.item_ids
    return [ids[3:6], [], [ids[7]], ids[:12]]


def ways_to_ask(model) -> dict:
    """Every way to an answer, each as a function of nothing; answers can be compared."""
    histories, processor = histories_of(model), model.processor
    rows = [processor.rows(history) for history in histories]
    found = {
        "recommend": lambda: model.recommend(histories, k=5),
        "all": lambda: model.recommend(histories, k=1000),
        "rows": lambda: [array.tolist() for array in model.recommend_rows(rows, 5, exclude_seen=True)],
        "candidates": lambda: model.recommend(histories, k=2, candidates=processor.item_ids[:3]),
        "scores": lambda: model.score_items(histories).tolist(),
    }
    if not model.can_generate():
        return found
    inputs = processor(histories=histories, return_tensors="pt")
    if hasattr(processor, "trie"):
        legal = processor.trie_logits_processor()
        options = inspect.signature(model.recommend_rows).parameters
        if "normalize" in options:
            found["level"] = lambda: model.recommend(histories, k=5, normalize="level")
        if "user_cache" in options:
            found["cache"] = lambda: model.recommend(histories, k=5, user_cache=model.user_cache())
        search = {"num_beams": 4, "custom_generate": processor.constrained_beam_search()}
        found["fast"] = lambda: model.generate(**inputs, **search).tolist()
        if not hasattr(model, "level_logits"):  # which is not post-trained
            found["policy"] = lambda: sample_items(model, inputs, processor.trie, 4)[0].tolist()
    else:
        legal = processor.set_logits_processor(order=model.config.code_order)
        found["policy"] = lambda: sample_paths(model, inputs, processor.item_sets, 4)[0].tolist()
    for name, options in {"greedy": {}, "beams": {"num_beams": 4}, "sampling": {"do_sample": True}}.items():
        found[name] = lambda options=options: model.generate(**inputs, **options, logits_processor=[legal]).tolist()
    return found


def is_refused(way) -> bool:
    torch.manual_seed(0)
    try:
        way()
    except ValueError as error:
        return LINE in str(error) and "\n" not in str(error)
    return False


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", MODELS)
def test_one_bad_number_in_any_weight_is_an_error(name, bad):
    """Whether or not it has a part in the answer: some kernels of attention make zeros of NaN."""
    model = MODELS[name]()
    ways = ways_to_ask(model)
    for ask in ways.values():
        ask()  # sound: no error
    rng = np.random.default_rng(0)
    for number, (weight, tensor) in enumerate(model.named_parameters()):
        if bad == -torch.inf and weight.endswith("bias"):
            continue  # says that something is never to be written
        flat = tensor.detach().view(-1)
        place = int(rng.integers(len(flat)))
        before = flat[place].item()
        flat[place] = bad
        for way in sorted(ways)[number % 3 :: 3]:
            assert is_refused(ways[way]), (weight, way)
        flat[place] = before
    assert not is_refused(ways["recommend"])


def spoil_scores(model, value: float) -> None:
    """One score that the model gives to every item or code becomes another value, whatever the weights."""
    if hasattr(model, "code_heads"):
        model.code_heads[1].register_forward_hook(
            lambda module, args, logits: logits.index_fill(-1, torch.tensor([1]), value)
        )
    elif hasattr(model, "slot_logits"):
        slots_of = model.slot_logits
        model.slot_logits = lambda *args: slots_of(*args).index_fill(-1, torch.tensor([1]), value)
    elif hasattr(model, "level_logits"):
        logits_of = model.level_logits
        model.level_logits = lambda *args: logits_of(*args).index_fill(-1, torch.tensor([1]), value)
    elif hasattr(model, "lm_head"):
        model.lm_head.register_forward_hook(
            lambda module, args, logits: logits.index_fill(-1, torch.tensor([1]), value)
        )
    if hasattr(model, "item_vectors"):  # beside codes, too: lists of all items need no codes
        vectors = model.item_vectors
        model.item_vectors = lambda: vectors().index_fill(0, torch.tensor([1]), value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", MODELS)
def test_one_score_that_is_no_number_is_an_error(name, bad):
    """What overflows shows in no weight."""
    model = MODELS[name]()
    spoil_scores(model, bad)
    for way, ask in ways_to_ask(model).items():
        if name.startswith(("trie", "seq2seq")) and way == "level":
            continue  # reads the weights of the head itself
        assert is_refused(ask), way


@pytest.mark.parametrize("name", MODELS)
def test_all_ways_refuse_a_model_of_nothing_but_nan(name, tmp_path):
    model = MODELS[name]()
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    for way, ask in ways_to_ask(model).items():
        assert is_refused(ask), way
    model.config._name_or_path = "runs/broken/model"
    with pytest.raises(ValueError, match=f"^{type(model).__name__} from runs/broken/model: "):
        model.recommend([])


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    model = MODELS["trie"]()
    model.model.norm.weight.data[3] = torch.nan
    model.save_pretrained(tmp_path / "run/model")
    assert exit_code("recommend", tmp_path / "run", "--history", "item-3") == 2
    assert "model.safetensors is damaged (model.norm.weight holds NaN or infinity)" in capsys.readouterr().err


def rule_out(model, codes) -> None:
    """The model never writes these codes: their logits are -inf."""
    if hasattr(model, "code_heads"):
        starts = np.cumsum([0, *model.config.codebook_sizes])
        for code in codes:
            codebook = int(np.searchsorted(starts, code, side="right")) - 1
            model.code_heads[codebook].bias.data[code - starts[codebook]] = -torch.inf
        return
    model.lm_head.register_forward_hook(
        lambda module, args, logits: logits.index_fill(-1, torch.tensor(codes), -torch.inf)
    )


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 30}, {"lookahead": False}, {"reflection_threshold": 0.01}], ids=str
)
@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("kind", ["trie", "sets", "sets in order"])
def test_what_the_model_rules_out_is_left_out_and_all_the_rest_is_found(kind, k, options):
    """-inf for some codes is no damage: fewer than k items come only where fewer can be reached."""
    if kind != "sets" and ("lookahead" in options or "reflection_threshold" in options):
        return
    sizes = (4, 5, 3)
    processor = make_processor(30, sizes) if kind == "trie" else make_set_processor(30, sizes)
    fields = {"code_order": "fixed"} if kind == "sets in order" else {}
    model = make_model(processor) if kind == "trie" else make_reg4rec(processor, **fields)
    rule_out(model, [0, 2, 5, 6, 9, 10])
    exact = model.score_items(histories_of(model))
    item_ids, scores = model.recommend(histories_of(model), k=k, **options)
    for line, found, found_scores in zip(exact, item_ids, scores, strict=True):
        reachable = line[line > -torch.inf].sort(descending=True).values
        assert 0 < len(reachable) < 30
        assert len(set(found)) == len(found) == min(k, len(reachable))
        assert found_scores == pytest.approx([line[processor.item_ids.index(one)].item() for one in found], abs=1e-4)


@pytest.mark.parametrize("levels", [[0], [1], [2], [0, 1, 2], "some"])
@pytest.mark.parametrize("kind", ["trie", "sets", "sets in order"])
def test_generate_writes_no_item_that_the_model_rules_out(kind, levels):
    """As `recommend`: items of -inf are no items of the answer, and sampling says that nothing is left."""
    sizes = (4, 5, 3)
    processor = make_processor(30, sizes) if kind == "trie" else make_set_processor(30, sizes)
    fields = {"code_order": "fixed"} if kind == "sets in order" else {}
    model = make_model(processor) if kind == "trie" else make_reg4rec(processor, **fields)
    starts = np.cumsum([0, *sizes])
    whole = [] if levels == "some" else levels
    codes = [code for level in whole for code in range(starts[level], starts[level + 1])]
    if kind == "trie":
        rule_out(model, codes or [0, 2, 5, 6, 9, 10])
    else:
        whole_log_probs, ruled_out = model.code_log_probs, torch.tensor(codes or [0, 2, 5, 6, 9, 10])
        model.code_log_probs = lambda states: whole_log_probs(states).index_fill(-1, ruled_out, -torch.inf)
    histories = histories_of(model)
    exact = model.score_items(histories)
    inputs = processor(histories=histories, return_tensors="pt")
    if kind == "trie":
        legal = processor.trie_logits_processor()
    else:
        legal = processor.set_logits_processor(order=model.config.code_order)
    for num_beams in (1, 2, 6, 30):
        wanted = min(num_beams, 4)
        options = {"num_beams": num_beams, "num_return_sequences": wanted}
        found = processor.batch_decode_items(model.generate(**inputs, **options, logits_processor=[legal]))
        for place, item in enumerate(found):
            assert item is None or exact[place // wanted, processor.item_ids.index(item)] > -torch.inf
        if whole:
            assert set(found) == {None}
        elif num_beams == 30:
            assert None not in found
    torch.manual_seed(0)
    if whole:
        with pytest.raises(ValueError, match=r"^The model's scores rule out every legal code \(-inf\), so there is"):
            model.generate(**inputs, do_sample=True, logits_processor=[legal])
    with pytest.raises(ValueError, match=r"^The model's scores rule out .*legal code"):
        model.generate(**inputs, do_sample=True, num_beams=3, logits_processor=[legal])


def test_beams_that_die_make_room_for_others():
    """The best first codes lead to nothing in the end: with as many beams the search came out empty."""
    processor = make_processor(40, (10, 40))
    model = make_model(processor, num_queries=[1, 1])
    best = model(**processor(histories=[[]], return_tensors="pt")).logits[0, -1, :10].topk(5).indices.tolist()
    rule_out(model, [second for first, second in processor.token_ids.tolist() if first in best])
    exact = model.score_items([])
    expected = exact[exact > -torch.inf].sort(descending=True).values.tolist()
    assert len(expected) > 3
    found, scores = model.recommend([], k=3, num_beams=3)
    assert len(set(found)) == 3
    assert scores == pytest.approx([exact[processor.item_ids.index(one)].item() for one in found], abs=1e-4)


def test_a_category_that_is_ruled_out_does_not_switch_corp_off():
    p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.0, 0.5, 0.5]).log()
    assert js_divergence(p, q).item() == pytest.approx(0.5 * np.log(2))
    assert js_divergence(p, p).item() == 0
