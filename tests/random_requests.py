"""Random requests to `recommend`, `score_items` and `generate`, right and wrong ones, and what must come of each."""

import inspect
import io
import traceback
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from conftest import make_model, make_processor
from tiny_cobra import make_cobra, make_cobra_processor
from tiny_codetree import make_codetree
from tiny_ensemble import tiny_ensemble
from tiny_liger import make_liger
from tiny_mdgr import make_mdgr
from tiny_rearec import tiny_rearec
from tiny_reg4rec import make_reg4rec, make_set_processor
from tiny_s2gr import make_s2gr
from tiny_s3rec import tiny_s3rec
from tiny_stream import make_stream
from tiny_tiger import make_tiger

import hf_genrec

PACKAGE = str(Path(hf_genrec.__file__).parent)
WRONG_IDS = [5, None, float("nan"), b"item-1", ["item-1"], {"a": 1}, np.int64(3), True, object(), 10**5000, ("item-1",)]
NO_NUMBERS = ["5", float("nan"), np.float32("nan"), np.array([1, 2]), [3], True, np.bool_(True), Decimal(5), 5j]
WRONG_COUNTS = [0, -1, 2.0, None, -(10**5000), Fraction(5), np.float64(5), float("inf"), np.int8(0), *NO_NUMBERS]
WRONG_THRESHOLDS = [-1.0, Fraction(-1, 2), -(10**5000), *NO_NUMBERS]
THRESHOLDS = [0, 10**30, 10**5000, Fraction(1, 3), np.float16(0.5), np.int64(2), float("inf"), 0.01]
WRONG_TEMPERATURES = [0, float("inf"), 10**5000, *WRONG_THRESHOLDS]
TEMPERATURES = [1, 10**30, Fraction(1, 2), np.float32(0.7), np.int64(2), 1e-3]
HISTORIES = 30
POOL = {"shared_kv_pool_size": 16, "shared_kv_user_dim": 2}
CACHE_BYTES = 4000  # of few histories, so that some are dropped
WRONG_LISTS = ["12", "item-1", b"item-1", 7, None, {"item-1": 1}, {"item-1"}, object(), torch.tensor(3), 3.5]
# Empty or not, they are no lists of ids: nothing comes of a file, and of an iterator only once.
WRONG_LISTS += [
    b"",
    bytearray(b"1"),
    memoryview(b""),
    {},
    io.StringIO(),
    io.BytesIO(b"1"),
    Path("/dev/null").open(),  # noqa: SIM115
    iter(()),
]
WRONG_LISTS += [map(str, ()), list, range(3), Decimal(5)]


def make_models() -> dict[str, object]:
    """One of each method, some items of which share their codes."""
    processors = make_processor(24, (3, 4, 3)), make_processor(24, (4, 4), unique=False)
    sets = make_set_processor(24, (3, 4, 3)), make_set_processor(24, (4, 4), unique=False)
    return {
        "trie": make_model(processors[0]),
        "trie, shared codes": make_model(processors[1], num_queries=[1, 1]),
        "seq2seq": make_tiger(processors[0]),
        "seq2seq, shared codes": make_tiger(processors[1], item_separators=True, level_heads=True),
        "trie, looked up": make_model(processors[0], **POOL),
        "seq2seq, looked up": make_tiger(processors[0], **POOL),
        "seq2seq, thinking": make_s2gr(processors[0]),
        "seq2seq, thinking tokens": make_stream(processors[0]),
        "scores": tiny_rearec(),
        "scores of the newest state": tiny_s3rec(),
        "scores, depth by a rule": tiny_rearec(depth_rule="kl", depth_threshold=0.1),
        "codes and vectors": make_cobra(make_cobra_processor(24, (3, 4, 3)), dense_weight=3.0),
        "codes and vectors, looked up": make_cobra(make_cobra_processor(24, (3, 4, 3)), **POOL),
        "codes and vectors, shared codes": make_cobra(make_cobra_processor(24, (4, 4), unique=False)),
        "added up": tiny_ensemble(),
        "added up, scores": tiny_ensemble(searching=0),
        "codes down a tree": make_codetree(processors[0]),
        "codes down a tree, shared codes": make_codetree(processors[1]),
        "codes, ranked by vectors": make_liger(24, (3, 4, 3), cold=[5]),
        "sets": make_reg4rec(sets[0]),
        "sets, shared codes": make_reg4rec(sets[1]),
        "sets in order": make_reg4rec(sets[0], code_order="fixed"),
        "slots": make_mdgr(sets[0]),
        "slots, shared codes": make_mdgr(sets[1]),
    }


def as_some_list(rng: np.random.Generator, ids: list):
    """The same entries as another kind of list."""
    kinds = [list, tuple, list, *([iter, lambda ids: (one for one in ids)] if ids else [])]
    if all(isinstance(one, str) for one in ids):  # numpy makes strings of whatever stands beside one
        kinds += [np.array, lambda ids: pyarrow.array(ids, pyarrow.string()), lambda ids: np.array(ids, dtype=object)]
    return kinds[rng.integers(len(kinds))](ids)


class Request:
    """
    A random request.

    Attributes:
        arguments: of `recommend` or, where `scores`, of `score_items`; where `writes`, of `generate`.
        is_wrong: whether some part of it must be refused; else these are what was meant:
        histories, candidates: lists of known ids; `None` for the whole catalogue.
        single: whether one history was given.

    Every model has one user cache, which half of the requests take.
    """

    caches: dict[int, Any] = {}  # noqa: RUF012  # one a model, of all requests

    def __init__(self, rng: np.random.Generator, model):
        self.is_wrong = False
        self.scores = rng.random() < 0.25
        self.model = model
        self.candidates = None
        self.writes = not self.scores and model.can_generate() and rng.random() < 0.1
        if self.writes:
            return self._generate(rng)
        self.arguments = {"histories": self._histories(rng)}
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
        takes_back = "reflection_threshold" in inspect.signature(self.model.recommend_rows).parameters
        if takes_back and rng.random() < 0.2:
            self.arguments["reflection_threshold"] = THRESHOLDS[rng.integers(len(THRESHOLDS))]
        if searches and rng.random() < 0.3:
            beams = [1, 4, 24, 50, 10**7, 10**9, 10**30, np.int16(30), np.uint8(24)][rng.integers(9)]
            self.arguments["num_beams"] = beams
            self.is_wrong |= beams < min(self.k, num_items)
        if searches:
            self.exhaustive = self.arguments.get("num_beams", max(20, 2 * min(self.k, num_items))) >= num_items
        if "user_cache" in inspect.signature(self.model.recommend_rows).parameters and rng.random() < 0.5:
            if id(self.model) not in self.caches:
                self.caches[id(self.model)] = self.model.user_cache(CACHE_BYTES)
            self.arguments["user_cache"] = self.caches[id(self.model)]
        for name, wrong in (
            ("k", WRONG_COUNTS),
            ("batch_size", WRONG_COUNTS),
            ("exclude_seen", ["yes", 1, 2.0, []]),
            ("unknown", ["ignore", None, 5, []]),
            ("num_beams", [wrong for wrong in WRONG_COUNTS if wrong is not None]),
            ("wings", [2]),
            ("normalize", ["rows", 3]),
            ("user_cache", [5, {}]),
            ("order", ["best", 3]),
            ("reflection_threshold", WRONG_THRESHOLDS),
            ("lookahead", ["yes", 3]),
        ):
            if rng.random() < 0.02:
                self.arguments[name] = wrong[rng.integers(len(wrong))]
                self.is_wrong = True

    def _generate(self, rng) -> None:
        """A request to `generate` under the catalogue's constraint."""
        self.single = False
        self.histories = [self._ids(rng, 3) for _ in range(2)]
        processor = self.model.processor
        constraint = getattr(processor, "trie_logits_processor", None) or processor.set_logits_processor
        order = {} if "trie" in dir(processor) else {"order": self.model.config.code_order}
        self.arguments = {"logits_processor": [constraint(**order)], "do_sample": bool(rng.random() < 0.5)}
        if self.arguments["do_sample"] and rng.random() < 0.7:
            wrong = rng.random() < 0.5
            values = WRONG_TEMPERATURES if wrong else TEMPERATURES
            self.arguments["temperature"] = values[rng.integers(len(values))]
            self.is_wrong |= wrong
        for name in ("num_beams", "num_return_sequences"):
            if rng.random() < 0.2:
                values = [value for value in WRONG_COUNTS if value is not None]
                self.arguments[name] = values[rng.integers(len(values))]
                self.is_wrong = True
        if not self.arguments["do_sample"] and "num_beams" not in self.arguments:
            self.arguments["num_beams"] = [1, 3, np.int64(4), 10**7, 10**30][rng.integers(5)]
            if "trie" in dir(processor) and rng.random() < 0.3:
                del self.arguments["logits_processor"]
                self.arguments["custom_generate"] = processor.constrained_beam_search()

    def run(self, exact) -> str | None:
        """
        Ask, and compare with the scores of all items.

        Args:
            exact: from a history to its (items,) exact scores.

        Returns:
            what is wrong with the answer, or `None`.
        """
        try:
            if self.writes:
                inputs = self.model.processor(histories=self.histories, return_tensors="pt")
                answer = self.model.generate(**inputs, **self.arguments)
            else:
                answer = (self.model.score_items if self.scores else self.model.recommend)(**self.arguments)
        except (ValueError, TypeError) as error:
            return self._of_error(error)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        if self.is_wrong:
            return "was answered"
        if self.writes:
            items = self.model.processor.batch_decode_items(answer)
            rows = len(self.histories) * int(self.arguments.get("num_return_sequences", 1))
            return None if len(items) == rows and None not in items else f"wrote {items}"
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
