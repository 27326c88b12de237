"""CRSS and CORP against a search in plain Python, brute force, and distributions written by hand."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_reg4rec import log_probs_after, make_reg4rec, make_set_processor, model_path_score, surest_codebook

from hf_genrec.catalogue.item_sets import ItemSets
from hf_genrec.decoding.code_set_encoding import CodeSetEncoding
from hf_genrec.methods.reg4rec.reg4rec_search import (
    CrssSearch,
    Reflection,
    confidence_orders,
    js_divergence,
    path_scores,
)

HISTORIES = [np.array([3, 9, 1]), np.array([], dtype=int), np.array([5]), np.arange(6)]
NEVER = Reflection(threshold=float("inf"))  # looks, and goes on to the last code


def encode(model, histories):
    with torch.no_grad():
        return model.get_encoder()(**model.processor.prompts(histories))


def search(model, histories=HISTORIES, num_beams=5, **settings):
    return CrssSearch(model, encode(model, histories), model.processor.item_sets, num_beams, **settings).run()


# ---- in plain Python ----


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Jensen-Shannon divergence of category logits."""
    p, q = p.double().softmax(-1), q.double().softmax(-1)
    m = (p + q) / 2
    return (0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()).item()


def in_plain_python(model, history, num_beams, order="confidence", reflection=None, lookahead=False):
    """(leaf, score, codes taken back) of each path, best first; one path and one code at a time, without a cache."""
    leaves = list(map(tuple, model.processor.item_sets.leaf_tokens.tolist()))
    num_codebooks = len(leaves[0])
    encoding = encode(model, [history])

    @functools.cache
    def after(path):
        """log S of all codes as a list, and category logits, after the codes of a path."""
        ids = torch.tensor([[model.config.decoder_start_token_id, *path]])
        with torch.no_grad():
            output = model(encoder_outputs=encoding, decoder_input_ids=ids)
        return output.logits[0, -1].tolist(), output.category_logits[0, -1]

    @functools.cache
    def next_codebook(path):
        """Looking ahead: the only codebook that a path goes on with."""
        unused = [r for r, tokens in enumerate(zip(*leaves, strict=True)) if not set(path) & set(tokens)]
        return unused[0] if order == "fixed" else surest_codebook(after(path)[0], model.config.codebook_sizes, unused)

    @functools.cache
    def left_to(path):
        return [leaf for leaf in leaves if set(path) <= set(leaf)]

    def outcome(path):
        left = left_to(path)
        return left[0] if len(left) == 1 else frozenset(path)

    def extensions(path):
        codebooks = range(num_codebooks) if order == "confidence" else [len(path)]
        return sorted({leaf[r] for leaf in left_to(path) for r in codebooks} - set(path))

    def extensions_of_items(path):
        """What the next codes of the items left are worth: the best sum of all codes that such an item still needs."""
        log_probs, _ = after(path)
        worth = {}
        for leaf in left_to(path):
            needed = [token for token in leaf if token not in path]
            chosen = leaf[next_codebook(path)]
            worth[chosen] = max(worth.get(chosen, -np.inf), sum(log_probs[token] for token in needed))
        return worth

    paths = [((), 0.0, 0)]
    for count in range(1, num_codebooks + 1):
        candidates = []
        for rank, (path, score, lost) in enumerate(paths):
            log_probs, _ = after(path)
            worth = extensions_of_items(path) if lookahead else {token: log_probs[token] for token in extensions(path)}
            for token in sorted(worth):
                extended = score + log_probs[token]
                candidates.append((-(score + worth[token]), rank, token, (*path, token), lost, extended))
        candidates.sort()
        slots, tried = [], set()
        for _, rank, token, path, lost, score in candidates:
            if len(slots) == num_beams:
                break
            if outcome(path) not in [outcome(slot[0]) for slot in slots]:
                slots.append((path, score, lost, rank))
                tried.add((rank, token))
        if reflection is not None and count < num_codebooks and count % reflection.interval == 0:
            suspects = list(range(len(slots)))
            while suspects:
                replaced = []
                for place in suspects:
                    path, _, lost, rank = slots[place]
                    jump = divergence(after(path[: -reflection.interval])[1], after(path)[1])
                    if jump > reflection.threshold and lost < reflection.max_rollbacks:
                        others = [outcome(slot[0]) for other, slot in enumerate(slots) if other != place]
                        for _, parent, token, extended, _, score in candidates:
                            if parent == rank and (rank, token) not in tried:
                                tried.add((rank, token))
                                if outcome(extended) not in others:
                                    slots[place] = (extended, score, lost + 1, rank)
                                    replaced.append(place)
                                    break
                suspects = replaced
        paths = [slot[:3] for slot in slots]
    paths.sort(key=lambda path: -path[1])
    return [(leaves.index(left_to(path)[0]), score, lost) for path, score, lost in paths]


@pytest.mark.parametrize("num_beams", [1, 4, 30])
@pytest.mark.parametrize("order", ["confidence", "fixed"])
@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("lookahead", [True, False])
def test_the_search_equals_one_in_plain_python(num_beams, order, unique, lookahead):
    model = make_reg4rec(make_set_processor(num_items=18, unique=unique, seed=num_beams))
    found = search(model, num_beams=num_beams, order=order, reflection=NEVER, lookahead=lookahead)
    for line, history in enumerate(HISTORIES):
        expected = in_plain_python(model, history, num_beams, order, lookahead=lookahead)
        alive = found.leaves[line] >= 0
        assert found.leaves[line][alive].tolist() == [leaf for leaf, _, _ in expected]
        assert found.scores[line][alive].tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-4)
        assert (found.scores[line][~alive] == -torch.inf).all()


@pytest.mark.parametrize(
    ("threshold", "interval", "max_rollbacks", "num_beams"),
    [(0.02, 1, 2, 1), (0.02, 1, 2, 4), (0.05, 1, 1, 3), (0.05, 2, 3, 4), (0.0, 1, 5, 10), (0.02, 1, 0, 4)],
)
@pytest.mark.parametrize("lookahead", [True, False])
@pytest.mark.parametrize("code_reading", ["path", "set"])
def test_corp_equals_one_in_plain_python(threshold, interval, max_rollbacks, num_beams, lookahead, code_reading):
    processor = make_set_processor(num_items=20, sizes=(3, 4, 3, 2))
    model = make_reg4rec(processor, seed=1, code_reading=code_reading)
    reflection = Reflection(threshold, interval, max_rollbacks)
    found = search(model, num_beams=num_beams, reflection=reflection, lookahead=lookahead)
    for line, history in enumerate(HISTORIES):
        expected = in_plain_python(model, history, num_beams, reflection=reflection, lookahead=lookahead)
        alive = found.leaves[line] >= 0
        assert found.leaves[line][alive].tolist() == [leaf for leaf, _, _ in expected]
        assert found.scores[line][alive].tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-4)
        assert found.rollbacks[line][alive].tolist() == [lost for _, _, lost in expected]
    assert (found.rollbacks.sum() > 0) == (max_rollbacks > 0)


def test_ending_early_finds_the_same_items():
    model = make_reg4rec(make_set_processor(num_items=25))
    for num_beams, lookahead in itertools.product((1, 4, 12), (True, False)):
        early = search(model, num_beams=num_beams, lookahead=lookahead)
        late = search(model, num_beams=num_beams, lookahead=lookahead, reflection=NEVER)
        assert early.leaves.sort(1).values.tolist() == late.leaves.sort(1).values.tolist()
        assert late.rollbacks.sum() == 0
        if lookahead:  # the codes that are left are scored all the same
            assert early.leaves.tolist() == late.leaves.tolist()
            torch.testing.assert_close(early.scores, late.scores, rtol=0, atol=1e-5)


# ---- against brute force ----


def test_enough_beams_find_the_best_of_all_orders_and_items():
    """All pairs of codes are items: no code alone tells the item, so nothing is merged before a path is complete."""
    processor = make_set_processor(num_items=20, sizes=(4, 5))
    model = make_reg4rec(processor)
    found = search(model, num_beams=20, reflection=NEVER)
    tokens = processor.item_sets.leaf_tokens.tolist()
    for line, history in enumerate(HISTORIES):
        best = {}
        for leaf, item in enumerate(tokens):
            for first, second in itertools.permutations(item):
                score = log_probs_after(model, history, [])[first] + log_probs_after(model, history, [first])[second]
                best[leaf] = max(best.get(leaf, -torch.inf), score.item())
        assert found.leaves[line].tolist() == sorted(best, key=lambda leaf: -best[leaf])
        assert found.scores[line].tolist() == pytest.approx(sorted(best.values(), reverse=True), abs=1e-4)


@pytest.mark.parametrize(
    ("order", "lookahead", "reflection"),
    [("confidence", True, None), ("confidence", True, NEVER), ("fixed", True, None), ("fixed", False, NEVER)],
)
def test_wide_beams_are_exact_scoring(order, lookahead, reflection):
    processor = make_set_processor(num_items=25)
    model = make_reg4rec(processor)
    found = search(model, num_beams=100, order=order, lookahead=lookahead, reflection=reflection)
    tokens = processor.item_sets.leaf_tokens[found.leaves].long()
    exact = path_scores(model, encode(model, HISTORIES), tokens, order)
    assert found.leaves.sort(1).values.tolist() == [list(range(25))] * len(HISTORIES)
    torch.testing.assert_close(found.scores, exact, rtol=0, atol=1e-5)
    assert (found.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("order", ["confidence", "fixed"])
def test_looking_ahead_finds_more_of_what_exact_scoring_ranks_first(order):
    """Of the five best of 400 items for 20 users, with ten beams; their codes say little one by one."""
    processor = make_set_processor(num_items=400, sizes=(12, 12, 12, 12))
    tokens = processor.item_sets.leaf_tokens.long().expand(len(HISTORIES), -1, -1)
    found = {True: 0, False: 0}
    for seed in range(5):
        model = make_reg4rec(processor, seed=seed)
        best = path_scores(model, encode(model, HISTORIES), tokens, order).topk(5, dim=1).indices
        for lookahead in found:
            leaves = search(model, num_beams=10, order=order, lookahead=lookahead).leaves
            found[lookahead] += sum(map(len, map(np.intersect1d, leaves, best)))
    assert found[True] > found[False] + 5, found


@pytest.mark.parametrize("fixed", [False, True])
def test_path_scores_are_those_of_the_models_paths(fixed):
    processor = make_set_processor(num_items=12)
    model = make_reg4rec(processor)
    tokens = torch.from_numpy(processor.token_ids).expand(len(HISTORIES), -1, -1)
    scores = path_scores(model, encode(model, HISTORIES), tokens, "fixed" if fixed else "confidence")
    for line, history in enumerate(HISTORIES):
        expected = [model_path_score(model, history, item, fixed) for item in processor.token_ids.tolist()]
        assert scores[line].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", ["confidence", "fixed"])
def test_scores_are_a_distribution(order):
    """Over all combinations of codes, whatever order each path goes through the codebooks in."""
    processor = make_set_processor(num_items=60)
    model = make_reg4rec(processor)
    found = search(model, num_beams=60, order=order, lookahead=True)
    assert found.leaves.sort(1).values.tolist() == [list(range(60))] * len(HISTORIES)
    torch.testing.assert_close(found.scores.double().exp().sum(1), torch.ones(len(HISTORIES)).double())


@pytest.mark.parametrize("lookahead", [True, False])
def test_with_one_path_the_surest_code_of_any_unused_codebook_is_next(lookahead):
    """Equation (5), with all combinations of codes in the catalogue; then it is also the best code to look ahead by."""
    processor = make_set_processor(num_items=60)
    model = make_reg4rec(processor)
    found = search(model, num_beams=1, lookahead=lookahead)
    offsets = np.cumsum([0, *processor.codebook_sizes])
    for line, history in enumerate(HISTORIES):
        path, left = [], set(range(3))
        while left:
            log_probs = log_probs_after(model, history, path)
            best = max((log_probs[offsets[r] : offsets[r + 1]].max().item(), r) for r in left)
            path.append(int(offsets[best[1]] + log_probs[offsets[best[1]] : offsets[best[1] + 1]].argmax()))
            left.remove(best[1])
        assert processor.item_sets.leaf_tokens[found.leaves[line, 0]].tolist() == sorted(path)


def test_the_confidence_order_of_a_target():
    """The surest codebook is next, and the target's code of it is fed, whether it is the surest code or not."""
    processor = make_set_processor(num_items=12)
    model = make_reg4rec(processor, dropout=0.3).train()
    inputs = processor.prompts(HISTORIES)
    labels = torch.from_numpy(processor.token_ids[[0, 5, 7, 11]])
    orders = confidence_orders(model, inputs["input_ids"], inputs["attention_mask"], labels)
    assert model.training
    model.eval()
    for line, history in enumerate(HISTORIES):
        order = []
        while len(order) < 3:
            log_probs = log_probs_after(model, history, labels[line, order].tolist()).tolist()
            left = [r for r in range(3) if r not in order]
            order.append(surest_codebook(log_probs, processor.codebook_sizes, left))
        assert orders[line].tolist() == order


# ---- merging, exclusion, batches ----


@pytest.mark.parametrize("num_beams", [2, 5, 30])
def test_paths_lead_to_different_items(num_beams):
    model = make_reg4rec(make_set_processor(num_items=25))
    for settings in ({}, {"reflection": NEVER}, {"reflection": Reflection(0.01, 1, 3)}):
        for line in search(model, num_beams=num_beams, **settings).leaves:
            found = line[line >= 0].tolist()
            assert len(set(found)) == len(found)


def test_the_same_codes_in_another_order_are_one_path():
    """Codebooks a and b always go together. Of a_0 then b_0 and b_0 then a_0, one path is left, and room for others."""
    sets = ItemSets.from_token_ids(np.array([[0, 2, 4], [0, 2, 5], [1, 3, 4], [1, 3, 5]]))
    log_probs = torch.log(torch.tensor([0.9, 0.1, 0.8, 0.2, 0.5, 0.5]))
    found = CrssSearch(Fake(log_probs, torch.zeros(7, 1)), one_history(), sets, num_beams=4, reflection=NEVER).run()
    # After two codes: {a_0, b_0} (0.72), leaf 0 by {a_0, c_0} and leaf 1 by {a_0, c_1} (0.45), leaf 2 by {c_0, b_1}
    # (0.1). What {a_0, b_0} leads to then is what other paths hold already, the leaves 0 and 1.
    assert found.leaves.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(found.scores.exp(), torch.tensor([[0.36, 0.36, 0.01]]))


def test_excluded_leaves_are_not_found():
    model = make_reg4rec(make_set_processor(num_items=25))
    leaves = model.processor.item_sets.num_leaves
    first = search(model, num_beams=3)
    users = torch.arange(len(HISTORIES))[:, None]
    keys = (users * leaves + first.leaves).flatten().sort().values
    second = search(model, num_beams=leaves, excluded=keys)
    for line, gone in zip(second.leaves, first.leaves, strict=True):
        assert set(line[line >= 0].tolist()).isdisjoint(gone.tolist())
    allowed = search(model, num_beams=1, excluded=torch.arange(4 * leaves - 1))
    assert allowed.leaves.tolist() == [[-1], [-1], [-1], [leaves - 1]]


@pytest.mark.parametrize("reflection", [None, Reflection(0.02)])
def test_a_search_does_not_depend_on_its_batch(reflection):
    model = make_reg4rec(make_set_processor(num_items=25))
    together = search(model, num_beams=6, reflection=reflection)
    for line, history in enumerate(HISTORIES):
        alone = search(model, [history], num_beams=6, reflection=reflection)
        assert alone.leaves[0].tolist() == together.leaves[line].tolist()
        assert alone.rollbacks[0].tolist() == together.rollbacks[line].tolist()


def test_an_unknown_order():
    with pytest.raises(ValueError, match="order='random': use one of confidence, fixed"):
        search(make_reg4rec(make_set_processor()), order="random")


# ---- CORP by hand ----


class Fake:
    """A model whose S(c) is always the same and whose category distribution is that of the newest token."""

    def __init__(self, log_probs: torch.Tensor, categories: torch.Tensor):
        self.config = SimpleNamespace(decoder_start_token_id=len(log_probs), code_reading="path")
        self.log_probs, self.categories = log_probs, categories
        self.fed = []

    def model(self, decoder_input_ids, encoder_outputs, cache):
        ids = torch.full((1, 1), len(self.log_probs)) if decoder_input_ids is None else decoder_input_ids
        self.fed.append(ids.flatten().tolist())
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(ids, len(self.log_probs) + 1).float())

    def code_log_probs(self, hidden):
        return self.log_probs.expand(*hidden.shape[:-1], -1)

    def category_head(self, hidden):
        return hidden @ self.categories


def one_history() -> CodeSetEncoding:
    return CodeSetEncoding(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))


CONSTANT = torch.log(torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3]))  # codebooks a: 0, 1; b: 2, 3; c: 4, 5
ALL_ITEMS = ItemSets.from_token_ids(np.array(list(itertools.product((0, 1), (2, 3), (4, 5)))))


def category_table(far: set[int]) -> torch.Tensor:
    """Logits of two categories by newest token: (0.9, 0.1) for tokens in `far`, else (0.5, 0.5)."""
    return torch.log(torch.tensor([[0.9, 0.1] if token in far else [0.5, 0.5] for token in range(7)]))


def test_js_divergence_by_hand():
    even, far = torch.log(torch.tensor([0.5, 0.5])), torch.log(torch.tensor([0.9, 0.1]))
    # m = (0.7, 0.3): (0.5 ln(0.5/0.7) + 0.5 ln(0.5/0.3) + 0.9 ln(0.9/0.7) + 0.1 ln(0.1/0.3)) / 2
    assert js_divergence(even, far).item() == pytest.approx(0.101749, abs=1e-6)
    assert js_divergence(far, even).item() == pytest.approx(0.101749, abs=1e-6)
    sure, other = torch.log(torch.tensor([1.0, 1e-30])), torch.log(torch.tensor([1e-30, 1.0]))
    assert js_divergence(sure, other).item() == pytest.approx(np.log(2), abs=1e-6)


def run_fake(far, threshold=0.06, interval=1, max_rollbacks=2, num_beams=1):
    fake = Fake(CONSTANT, category_table(far))
    reflection = Reflection(threshold, interval, max_rollbacks)
    found = CrssSearch(fake, one_history(), ALL_ITEMS, num_beams, reflection=reflection).run()
    items = [ALL_ITEMS.leaf_tokens[leaf].tolist() for leaf in found.leaves[0]]
    return fake.fed, items, found.rollbacks[0].tolist()


def test_nothing_is_taken_back_where_the_category_stays():
    fed, items, rollbacks = run_fake(far=set())
    assert (fed, items, rollbacks) == ([[6], [0], [2]], [[0, 2, 4]], [0])


def test_a_code_after_which_the_category_jumps_is_taken_back():
    # b_0 (token 2) jumps after a_0: c_0 stands in its place, and b_0 comes last, where nothing is looked at any more.
    assert run_fake(far={2}) == ([[6], [0], [2], [4]], [[0, 2, 4]], [1])
    # c_0, too: then c_1, which is another item.
    assert run_fake(far={2, 4}) == ([[6], [0], [2], [4], [5]], [[0, 2, 5]], [2])
    # That would be taken back as well, but the path has lost its two codes.
    assert run_fake(far={2, 4, 5}) == ([[6], [0], [2], [4], [5]], [[0, 2, 5]], [2])


def test_the_path_is_kept_once_it_has_lost_its_two_codes():
    # a_0, b_0 go at the first step; c_0 is far from the start, too, and stays. From c_0 to a_0 nothing jumps.
    assert run_fake(far={0, 2, 4}) == ([[6], [0], [2], [4], [0]], [[0, 2, 4]], [2])
    assert run_fake(far={0, 2, 4}, max_rollbacks=1) == ([[6], [0], [2], [0]], [[0, 2, 4]], [1])
    assert run_fake(far={0, 2, 4}, max_rollbacks=0)[2] == [0]


def test_the_threshold_and_the_interval():
    assert run_fake(far={2}, threshold=0.11)[2] == [0]  # 0.1017 is not above it
    assert run_fake(far={2}, threshold=float("inf")) == run_fake(far=set())
    # Every second code: p_0 and p_2 are compared. b_0 is far, c_0 is not.
    assert run_fake(far={2}, interval=2) == ([[6], [0], [2], [4]], [[0, 2, 4]], [1])
    assert run_fake(far={0}, interval=2) == ([[6], [0], [2]], [[0, 2, 4]], [0])


def test_a_path_does_not_take_what_another_has():
    """Two paths after one code: a_0 (far) and b_0. Not b_0 but c_0 takes the place of a_0."""
    fed, _, rollbacks = run_fake(far={0}, num_beams=2, max_rollbacks=1)
    assert fed[:3] == [[6], [0, 2], [4]]
    assert sum(rollbacks) >= 1


def test_a_path_without_another_code_keeps_its_own():
    sets = ItemSets.from_token_ids(np.array([[0, 2, 4]]))
    fake = Fake(CONSTANT, category_table({0, 2, 4}))
    found = CrssSearch(fake, one_history(), sets, 1, reflection=Reflection(0.06, 1, 9)).run()
    # All three codes are tried as the first and the third is kept; the others do not jump from it.
    assert fake.fed == [[6], [0], [2], [4], [0]]
    assert (found.leaves.tolist(), found.rollbacks.tolist()) == ([[0]], [[2]])
