"""Random requests to `recommend` and `score_items`, right and wrong ones, and what must come of each."""

import traceback
from pathlib import Path

import numpy as np
import pyarrow
import torch
from conftest import make_model, make_processor
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor

import hf_genrec

PACKAGE = str(Path(hf_genrec.__file__).parent)
WRONG_IDS = [5, None, float("nan"), b"item-1", ["item-1"], {"a": 1}, np.int64(3), True, object(), 10**5000, ("item-1",)]
WRONG_COUNTS = [0, -1, 2.0, True, "5", None, float("nan"), np.array([1, 2]), -(10**5000), [3]]
HISTORIES = 30
WRONG_LISTS = ["12", "item-1", b"item-1", 7, None, {"item-1": 1}, {"item-1"}, object(), torch.tensor(3), 3.5]


def make_models() -> dict[str, object]:
    """One of each method, some items of which share their codes."""
    processors = make_processor(24, (3, 4, 3)), make_processor(24, (4, 4), unique=False)
    sets = make_set_processor(24, (3, 4, 3)), make_set_processor(24, (4, 4), unique=False)
    return {
        "trie": make_model(processors[0]),
        "trie, shared codes": make_model(processors[1], num_queries=[1, 1]),
        "scores": tiny_rearec(),
        "scores, depth by a rule": tiny_rearec(depth_rule="kl", depth_threshold=0.1),
        "sets": make_reg4rec(sets[0]),
        "sets, shared codes": make_reg4rec(sets[1]),
        "sets in order": make_reg4rec(sets[0], code_order="fixed"),
    }


def as_some_list(rng: np.random.Generator, ids: list):
    """The same entries as another kind of list."""
    kinds = [list, tuple, list, iter, lambda ids: (one for one in ids)]
    if all(isinstance(one, str) for one in ids):  # numpy makes strings of whatever stands beside one
        kinds += [np.array, lambda ids: pyarrow.array(ids, pyarrow.string()), lambda ids: np.array(ids, dtype=object)]
    return kinds[rng.integers(len(kinds))](ids)


class Request:
    """
    A random request.

    Attributes:
        arguments: of `recommend` or, where `scores`, of `score_items`.
        is_wrong: whether some part of it must be refused; else these are what was meant:
        histories, candidates: lists of known ids; `None` for the whole catalogue.
        single: whether one history was given.
    """

    def __init__(self, rng: np.random.Generator, model):
        self.is_wrong = False
        self.scores = rng.random() < 0.25
        self.model = model
        self.arguments = {"histories": self._histories(rng)}
        self.candidates = None
        if rng.random() < 0.4:
            name = "item_ids" if self.scores else "candidates"
            self.candidates = self._ids(rng, rng.integers(0 if self.scores else 1, 12))
            self.arguments[name] = as_some_list(rng, self.candidates)
            self._spoil(rng, 0.1, name, WRONG_LISTS if self.scores else [w for w in WRONG_LISTS if type(w) is not set])
            if self.arguments[name] is None:
                self.candidates = None
            elif rng.random() < 0.1:
                self._spoil(rng, 1, name, [[*self.candidates, wrong] for wrong in WRONG_IDS])
        if not self.scores:
            self._search(rng)

    def _ids(self, rng, count: int) -> list[str]:
        known = self.model.processor.item_ids
        return [known[row] for row in rng.integers(0, len(known), count)]

    def _spoil(self, rng, chance: float, name: str, wrong: list) -> None:
        if rng.random() < chance:
            self.arguments[name] = wrong[rng.integers(len(wrong))]
            self.is_wrong |= self.arguments[name] is not None

    def _histories(self, rng):
        self.single = bool(rng.random() < 0.4)
        # Of few: their exact scores are found once.
        numbers = rng.integers(0, HISTORIES, 1 if self.single else rng.integers(1, 5))
        self.histories = [
            self._ids(np.random.default_rng(number), number % 13 if number else 300) for number in numbers.tolist()
        ]
        given = [list(history) for history in self.histories]
        if rng.random() < 0.1:  # an id that is wrong or not known
            place = rng.integers(len(given))
            wrong = [*WRONG_IDS, "nobody", ""]
            given[place].insert(rng.integers(len(given[place]) + 1), wrong[rng.integers(len(wrong))])
            if self.single and len(given[0]) == 1 and isinstance(given[0][0], list | tuple):
                given[0].append(5)  # alone it would be a batch
            self.is_wrong = True
        if rng.random() < 0.08:
            self.is_wrong = True
            wrong = [one for one in WRONG_LISTS if not isinstance(one, dict | set)] + [{"a": 1}]
            bad = wrong[rng.integers(len(wrong))]
            return bad if rng.random() < 0.5 else [["nobody"], bad]
        if self.single:
            return as_some_list(rng, given[0])
        inner = [as_some_list(rng, history) for history in given]
        return inner if rng.random() < 0.7 else tuple(inner)

    def _search(self, rng) -> None:
        self.k, self.exclude_seen = int(rng.choice([1, 2, 3, 5, 10, 24, 30, 40, 10**9])), bool(rng.random() < 0.4)
        self.arguments["k"] = np.int64(self.k) if rng.random() < 0.2 else self.k
        self.arguments["exclude_seen"] = self.exclude_seen
        if rng.random() < 0.3:
            self.arguments["batch_size"] = int(rng.choice([1, 2, 10**9]))
        searches = "trie" in dir(self.model.processor) or "item_sets" in dir(self.model.processor)
        num_items = len(self.model.processor.item_ids if self.candidates is None else set(self.candidates))
        self.exhaustive = True
        if searches and rng.random() < 0.3:
            beams = int(rng.choice([1, 4, 24, 50, 10**9]))
            self.arguments["num_beams"] = beams
            self.is_wrong |= beams < min(self.k, num_items)
        if searches:
            self.exhaustive = self.arguments.get("num_beams", max(20, 2 * min(self.k, num_items))) >= num_items
        for name, wrong in (
            ("k", WRONG_COUNTS),
            ("batch_size", WRONG_COUNTS),
            ("exclude_seen", ["yes", None, 1, 2.0, []]),
            ("unknown", ["ignore", None, 5, []]),
            ("num_beams", [*WRONG_COUNTS[:-5], WRONG_COUNTS[-1]]),
            ("wings", [2]),
            ("normalize", ["rows", 3]),
            ("user_cache", [5, {}]),
            ("order", ["best", 3]),
            ("reflection_threshold", [float("nan"), -1.0, "high"]),
            ("lookahead", ["yes", 3]),
        ):
            if rng.random() < 0.02:
                self.arguments[name] = wrong[rng.integers(len(wrong))]
                self.is_wrong = True

    def run(self, exact) -> str | None:
        """
        Ask, and compare with the scores of all items.

        Args:
            exact: from a history to its (items,) exact scores.

        Returns:
            what is wrong with the answer, or `None`.
        """
        try:
            answer = (self.model.score_items if self.scores else self.model.recommend)(**self.arguments)
        except (ValueError, TypeError) as error:
            return self._of_error(error)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        if self.is_wrong:
            return "was answered"
        return self._of_scores(answer, exact) if self.scores else self._of_lists(answer, exact)

    def _of_error(self, error: Exception) -> str | None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error)
        if not last.filename.startswith(PACKAGE) or not (last.line or "").startswith("raise"):
            return f"raw {type(error).__name__}: {text}"
        if "\n" in text or len(text) > 500 or not any(word in text for word in (": ", "; ")):
            return f"no line with a remedy: {text}"
        return None if self.is_wrong else f"was refused: {text}"

    def _of_scores(self, answer: torch.Tensor, exact) -> str | None:
        known = self.model.processor.item_ids
        rows = [known.index(one) for one in (known if self.candidates is None else self.candidates)]
        expected = torch.stack([exact(self.model, history)[rows] for history in self.histories])
        answer = answer[None] if self.single else answer
        if answer.shape != expected.shape or not torch.allclose(answer, expected, atol=1e-4, rtol=1e-4):
            return f"scores {answer} instead of {expected}"
        return None

    def _of_lists(self, answer, exact) -> str | None:
        lists = [answer[0]] if self.single else answer[0]
        scores = [answer[1]] if self.single else answer[1]
        if not len(lists) == len(scores) == len(self.histories):
            return f"{len(lists)} lists for {len(self.histories)} histories"
        known = self.model.processor.item_ids
        for history, found, found_scores in zip(self.histories, lists, scores, strict=True):
            allowed = set(known if self.candidates is None else self.candidates)
            allowed -= set(history if self.exclude_seen else [])
            of_all = dict(zip(known, exact(self.model, history).tolist(), strict=True))
            if len(found) != min(self.k, len(allowed)) or len(set(found)) != len(found) or not set(found) <= allowed:
                return f"{found} of {len(allowed)} allowed items for k={self.k}"
            if found_scores != sorted(found_scores, reverse=True) or len(found_scores) != len(found):
                return f"scores are not sorted: {found_scores}"
            if not np.allclose(found_scores, [of_all[one] for one in found], atol=1e-4, rtol=1e-4):
                return f"scores are not exact: {found_scores}"
            best = sorted((of_all[one] for one in allowed), reverse=True)[: self.k]
            if self.exhaustive and not np.allclose(found_scores, best, atol=1e-4, rtol=1e-4):
                return f"not the best: {found_scores} instead of {best}"
        return None


def failures(models: dict, count: int, seed: int = 0) -> dict[str, int]:
    """What goes wrong with so many random requests, by the words, and how often."""
    rng = np.random.default_rng(seed)
    known: dict = {}

    def exact(model, history: list[str]) -> torch.Tensor:
        key = id(model), tuple(history)
        if key not in known:
            known[key] = model.score_items([history])[0]
        return known[key]

    found: dict[str, int] = {}
    names = list(models)
    for number in range(count):
        name = names[rng.integers(len(names))]
        request = Request(rng, models[name])
        words = request.run(exact)
        if words is not None:
            line = f"request {number} to {name}: {words}" if count <= 2000 else words[:60]
            found[line] = found.get(line, 0) + 1
    return found


if __name__ == "__main__":
    import sys

    wrong = failures(make_models(), int(sys.argv[1]))
    for words, times in sorted(wrong.items(), key=lambda pair: -pair[1])[:60]:
        print(times, words)
    print(sum(wrong.values()), "of", sys.argv[1])
