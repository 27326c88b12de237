"""What masking costs at one step of beam search: the item trie beside STATIC's scheme and a dict trie.

    python -m benchmarks.masking

Catalogues of 4 codes of 256, drawn uniformly; the codes are the last tokens of the vocabulary, as when they are added
to a language model's. 16 users' 20 beams stand at random nodes of a level; the level is how many codes they have
written. The ways:

- recommend: what beam search does: the legal children of each beam, and their logits, masked.
- STATIC: the same from STATIC's tables, over the level's own 256 codes. Level 1 is its dense head.
- STATIC's mask: its dense head as published, a mask over the whole vocabulary; next states not counted.
- processor: `TrieLogitsProcessor`, whose floor is to write the scores once (`full_like`).
- dict trie: `PrefixConstrainedLogitsProcessor` over nested dicts, as the published CARE, MiniOneRec and LC-Rec do it.

All must allow the same tokens with the same scores. Each call of the first two is for other beams, lest their nodes
be in the processor's cache. A decoding step, of which masking is a share, is that of
benchmarks.generation's model over the first of the vocabularies: one `extend`, the logits, masking and selection.

Medians of wall clock and of CPU time; bars are judged by the latter, in which other work of the machine does not count.
"""

import copy
import gc
import os
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from transformers import PrefixConstrainedLogitsProcessor

from benchmarks.generation import build
from benchmarks.measure import alternate, arguments, threads, write_result
from benchmarks.peers import DictTrie, StaticTrie
from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.beam_search import _best, _log_probs
from hf_genrec.decoding.trie_logits_processor import TrieLogitsProcessor

LEVELS, CODES = 4, 256
HISTORY = 20
CALLS = 20  # of the fast ways, in a timed round, each for beams of its own
FAST = ("recommend", "STATIC")
FREE_SHARE = 0.6  # of the free memory, what a peer may take


def first_tokens(vocabulary: int) -> list[int]:
    """The token of code 0 of each level."""
    return [vocabulary - CODES * (LEVELS - level) for level in range(LEVELS)]


def draw(items: int, vocabulary: int) -> np.ndarray:
    """(items, 4) int32 token ids of different items, in lexicographic order."""
    numbers = np.sort(np.random.default_rng(0).choice(CODES**LEVELS, items, replace=False))
    codes = np.stack(np.unravel_index(numbers, [CODES] * LEVELS), axis=1)
    return (codes + first_tokens(vocabulary)).astype(np.int32)


class Catalogue:
    """
    The tries of one catalogue.

    Attributes:
        published ([`StaticTrie`] or None): with tables over the whole vocabulary, None where they do not fit.
        dicts ([`DictTrie`] or None): None where it does not fit.
        memory (`dict`): bytes of each, and why one is missing.
    """

    def __init__(self, items: int, vocabulary: int, dict_bytes_per_node: dict[str, float]):
        ids = draw(items, vocabulary)
        self.trie = ItemTrie.from_token_ids(ids)
        self.static = StaticTrie(ids, first_tokens(vocabulary), CODES)
        self.published, self.dicts = None, None
        nodes = sum(len(tokens) for tokens in self.trie.tokens)
        estimates = {name: int(each * nodes) for name, each in dict_bytes_per_node.items()}
        tables = [array for table in self.trie._tables if table is not None for array in table[1:]]
        arrays = [*self.trie.state_dict().values(), *tables]
        self.memory: dict[str, Any] = {
            "items": items,
            "vocabulary": vocabulary,
            "nodes": nodes,
            "item_trie_bytes": sum(tensor.nbytes for tensor in arrays),
            "static_bytes": self.static.num_bytes,
            "static_published_bytes": 5 * vocabulary**2 + self.static.edges.nbytes + self.static.row_starts.nbytes,
            "dict_bytes_estimated": estimates["kept"],
            "dict_peak_bytes_estimated": estimates["peak"],
        }
        if self._fits("static_published", self.memory["static_published_bytes"]):
            self.published = StaticTrie(ids, [0] * LEVELS, vocabulary)
        if self._fits("dict", estimates["peak"]):
            before = psutil.Process().memory_info().rss
            # Millions of dicts are kept: looking through them for garbage again and again would only take time.
            gc.disable()
            self.dicts = DictTrie(ids)
            gc.freeze()
            gc.enable()
            self.memory["dict_bytes_measured"] = psutil.Process().memory_info().rss - before

    def _fits(self, name: str, num_bytes: int) -> bool:
        free = psutil.virtual_memory().available
        if num_bytes <= FREE_SHARE * free:
            return True
        reason = f"needs {num_bytes / 2**30:.1f} GiB, more than {FREE_SHARE:.0%} of the {free / 2**30:.1f} GiB free"
        self.memory[f"{name}_skipped"] = reason
        print(f"{self.memory['items']:,} items, vocabulary {self.memory['vocabulary']:,}: {name} skipped, it {reason}")
        return False


def dict_bytes_per_node(items: int, vocabulary: int) -> dict[str, float]:
    """What a node of a dict trie takes, kept and at the peak of building it, measured on a small catalogue."""
    ids = draw(items, vocabulary)
    nodes = sum(len(tokens) for tokens in ItemTrie.from_token_ids(ids).tokens)
    tracemalloc.start()
    trie = DictTrie(ids)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del trie
    return {"kept": kept / nodes, "peak": peak / nodes}


def recommend_masking(trie: ItemTrie, nodes: torch.Tensor, level: int, logits: torch.Tensor):
    """As `beam_search`: tokens, their masked logits and the children, (B, W, K)."""
    tokens, children, mask = trie.allowed(nodes, level)
    return tokens, trie.gather(logits, tokens, level) + mask, children


def masking_ways(
    catalogue: Catalogue, level: int, logits: torch.Tensor, rng: np.random.Generator
) -> dict[str, Callable[[], Any]]:
    """The ways to mask logits (B, W, V) of beams at random nodes of a level, after checking that they agree."""
    trie, static = catalogue.trie, catalogue.static
    users, beams, vocabulary = logits.shape
    scores = logits.view(-1, vocabulary)
    nodes = torch.from_numpy(rng.integers(0, len(trie.tokens[level - 1]), (CALLS, users, beams)))
    some_item, _ = trie.items_below(nodes.flatten(), level)
    prefixes = trie.token_ids(some_item)[:, :level]
    states = static.walk(prefixes).view(CALLS, -1)
    prefixes = prefixes[: users * beams]  # the other ways mask for the first of the calls

    first_code = first_tokens(vocabulary)[0]
    answer = first_code - 1
    prompts = torch.from_numpy(rng.integers(first_code, vocabulary, (users * beams, LEVELS * HISTORY)))
    input_ids = torch.cat([prompts, torch.full((users * beams, 1), answer), prefixes], dim=1)
    prompt_length = input_ids.shape[1] - level
    processor = TrieLogitsProcessor(trie, answer)
    over_vocabulary = {"processor": lambda: processor(input_ids, scores)}
    published, dicts = catalogue.published, catalogue.dicts
    if level == 1 and published is not None:
        published_states = published.walk(prefixes)
        over_vocabulary["STATIC's mask"] = lambda: published.masked(scores, published_states)
    if dicts is not None:
        prefix_constrained = PrefixConstrainedLogitsProcessor(
            lambda batch, ids: dicts.allowed(ids[prompt_length:].tolist()), beams
        )
        over_vocabulary["dict trie"] = lambda: prefix_constrained(input_ids, scores)

    for call in range(CALLS):
        mine = recommend_masking(trie, nodes[call], level, logits)
        tokens, masked, children = (tensor.flatten(0, 1) for tensor in mine)
        static_tokens, static_masked, next_states = static.candidates(scores, states[call], level)
        expected = finite(tokens, masked)
        assert_equal(expected, finite(static_tokens, static_masked), "STATIC")
        if level + 1 < LEVELS:  # both number the nodes of a level in lexicographic order
            reached = next_states[static_masked > -torch.inf] - static.first_states[level + 1]
            assert torch.equal(reached.long(), children[masked > -torch.inf]), "STATIC leads to other nodes"
        if call == 0:
            for name, way in over_vocabulary.items():
                assert_equal(expected, finite(torch.arange(vocabulary).expand(len(scores), -1), way()), name)

    return over_vocabulary | {
        "recommend": lambda: [recommend_masking(trie, beams_of_call, level, logits) for beams_of_call in nodes],
        "STATIC": lambda: [static.candidates(scores, beams_of_call, level) for beams_of_call in states],
    }


def finite(tokens: torch.Tensor, masked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, tokens and scores of what (rows, K) candidates allow, by row and rising token."""
    row, at = (masked > -torch.inf).nonzero(as_tuple=True)
    return row, tokens[row, at], masked[row, at]


def assert_equal(expected: tuple[torch.Tensor, ...], found: tuple[torch.Tensor, ...], name: str) -> None:
    assert all(map(torch.equal, expected, found)), f"{name} allows other tokens or scores than recommend"


def decoding_steps(model, catalogue: Catalogue, users: int, beams: int, rng: np.random.Generator):
    """Per level, what `beam_search` does from the codes chosen before to those chosen there."""
    trie, steps = catalogue.trie, {}
    rows = len(model.processor.token_ids)
    prompts = model.processor.prompts([rng.integers(0, rows, HISTORY) for _ in range(users)])
    decoder = model.beam_decoder_class(model, beams, LEVELS - 1)
    decoder.start(**prompts)
    scores = torch.zeros(users, beams)
    for level in range(1, LEVELS):
        nodes = torch.from_numpy(rng.integers(0, len(trie.tokens[level - 1]), (users, beams)))
        codes = trie.tokens[level - 1][nodes].long()
        parents = torch.from_numpy(rng.integers(0, beams if level > 1 else 1, (users, beams)))

        def step(level=level, decoder=decoder, nodes=nodes, codes=codes, parents=parents):
            states = branch(decoder).extend(codes, parents)
            tokens, children, mask = trie.allowed(nodes, level)
            log_probs, _ = _log_probs(model, states, tokens, trie, level, "vocabulary")
            candidates = (scores[..., None] + log_probs + mask).flatten(1)
            chosen = _best(candidates, children.flatten(1), beams)
            return candidates.gather(1, chosen), children.flatten(1).gather(1, chosen)

        steps[level] = step
        decoder = branch(decoder)
        decoder.extend(codes, parents)
    return steps


def branch(decoder):
    """A copy that goes on without changing the original: keys and values are only written behind its own."""
    branched = copy.copy(decoder)
    branched.cache = copy.copy(decoder.cache)
    branched.cache.layers = [copy.copy(layer) for layer in decoder.cache.layers]
    return branched


def settle_allocator() -> None:
    """
    Until it has freed a large block, the C library gives blocks of a few hundred KiB back to the system when they are
    freed, and every call pays for fetching them again: up to ten times what it computes.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@torch.no_grad()
def main() -> None:
    options = arguments(
        __doc__,
        items=[12_000, 200_000, 1_000_000, 10_000_000],
        vocabularies=[1_100, 152_000],
        users=16,
        beams=20,
    )
    settle_allocator()
    model = build(12_101, layers=4, hidden=128, history=HISTORY)
    model.resize_token_embeddings(options.vocabularies[0])
    memory, times, bars = [], [], []
    for vocabulary in options.vocabularies:
        rng = np.random.default_rng(1)
        logits = torch.randn(options.users, options.beams, vocabulary)
        per_node = dict_bytes_per_node(min(options.items), vocabulary)
        candidates: dict[tuple, Callable[[], Any]] = {("full_like", 0, 0): partial(torch.full_like, logits, -torch.inf)}
        for items in options.items:
            catalogue = Catalogue(items, vocabulary, per_node)
            memory.append(catalogue.memory)
            for level in range(1, LEVELS):
                for way, call in masking_ways(catalogue, level, logits, rng).items():
                    candidates[way, items, level] = call
            if vocabulary == options.vocabularies[0]:
                for level, call in decoding_steps(model, catalogue, options.users, options.beams, rng).items():
                    candidates["step", items, level] = call
        print_memory(memory[-len(options.items) :])
        for count in options.threads:
            with threads(count):
                measured = alternate(candidates, options.repeats)
            for (way, _, _), figures in measured.items():
                if way in FAST:
                    figures.update({name: value / CALLS for name, value in figures.items()})
            where = {"vocabulary": vocabulary, "threads": count}
            for (way, items, level), figures in measured.items():
                times.append({**where, "way": way, "items": items, "level": level, **figures})
            wall, cpu = (
                {case: figures[clock] for case, figures in measured.items()} for clock in ("seconds", "cpu_seconds")
            )
            print_times(f"CPU microseconds, vocabulary {vocabulary:,}, {count} thread(s)", options.items, cpu)
            print_times(f"wall microseconds, vocabulary {vocabulary:,}, {count} thread(s)", options.items, wall)
            for (bar, limit, by_cpu), (_, _, by_wall) in zip(
                bar_figures(options.items, cpu, vocabulary), bar_figures(options.items, wall, vocabulary), strict=True
            ):
                holds = by_cpu >= limit if "faster" in bar else by_cpu <= limit
                bars.append({**where, "bar": bar, "limit": limit, "cpu": by_cpu, "wall": by_wall, "holds": holds})
        del candidates, catalogue
    print("\nAll ways allow the same tokens with the same scores.\n")
    for bar in bars:
        where = f"vocabulary {bar['vocabulary']:,}, {bar['threads']} thread(s)"
        holds = "holds" if bar["holds"] else "MISSED"
        print(f"{where:<32}{holds:<8}{bar['cpu']:>9.3g} (wall {bar['wall']:.3g})  {bar['bar']}")
    results = {"load_average": os.getloadavg(), "memory": memory, "times": times, "bars": bars}
    print(write_result("masking", "python -m benchmarks.masking", vars(options), results))


def bar_figures(all_items: list[int], seconds: dict[tuple, float], vocabulary: int) -> list[tuple[str, float, float]]:
    """What each bar says, its limit, and the worst figure over catalogues and levels."""
    levels = range(1, LEVELS)
    small, large = min(all_items), max(all_items)

    def ratios(way: str, other: str) -> list[float]:
        cases = [(items, level) for items in all_items for level in levels if (other, items, level) in seconds]
        return [seconds[way, *case] / seconds[other, *case] for case in cases]

    def together(way: str, items: int) -> float:
        return sum(seconds[way, items, level] for level in levels)

    worst = [max(seconds["recommend", items, level] for level in levels) for items in (small, large)]
    growth = [seconds["recommend", large, level] / seconds["recommend", small, level] for level in levels]
    static = [together("recommend", items) / together("STATIC", items) for items in all_items]
    bars = [
        (f"worst level of {large:,} items over the worst of {small:,}: at most 10", 10, worst[1] / worst[0]),
        (f"{large:,} items over {small:,}, any level: at most 10", 10, max(growth)),
        ("recommend over STATIC, the three levels together: at most 1", 1, max(static)),
        ("recommend over STATIC, any level: at most 1", 1, max(ratios("recommend", "STATIC"))),
    ]
    if shares := ratios("recommend", "step"):
        bars.append(("share of a decoding step, any level: below 0.05", 0.05, max(shares)))
    if vocabulary >= 100_000 and (faster := ratios("dict trie", "recommend")):
        bars.append(("times faster than the dict trie, any level: at least 50", 50, min(faster)))
    return bars


def print_memory(memory: list[dict[str, Any]]) -> None:
    names = ("item_trie_bytes", "static_bytes", "static_published_bytes", "dict_bytes_estimated", "dict_bytes_measured")
    print(f"\nMiB, vocabulary {memory[0]['vocabulary']:,}")
    print(f"{'items':>11}{'item trie':>11}{'STATIC':>9}{'published':>12}{'dict, est.':>12}{'dict':>9}")
    for case in memory:
        mib = [f"{case[name] / 2**20:,.1f}" if name in case else "-" for name in names]
        print(f"{case['items']:>11,}{mib[0]:>11}{mib[1]:>9}{mib[2]:>12}{mib[3]:>12}{mib[4]:>9}")


def print_times(title: str, all_items: list[int], seconds: dict[tuple, float]) -> None:
    ways = ("recommend", "STATIC", "STATIC's mask", "processor", "dict trie", "step")
    print(f"\n{title}; full_like {seconds['full_like', 0, 0] * 1e6:,.0f}")
    print(f"{'items':>11}{'level':>7}" + "".join(f"{way:>15}" for way in ways) + f"{'share of step':>15}")
    for items in all_items:
        levels = range(1, LEVELS)
        worst = max(levels, key=lambda level: seconds["recommend", items, level])
        for level in levels:
            taken = [seconds.get((way, items, level)) for way in ways]
            cells = "".join(f"{'-' if s is None else format(s * 1e6, ',.0f'):>15}" for s in taken)
            share = "-" if taken[-1] is None else f"{taken[0] / taken[-1]:.2%}"
            print(f"{items:>11,}{level:>7}{cells}{share:>15}{'  worst' if level == worst else ''}")


if __name__ == "__main__":
    main()
