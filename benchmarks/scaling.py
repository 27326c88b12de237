"""How the cost of recommending grows with beams, history and catalogue.

    python -m benchmarks.scaling

One of them grows at a time from the setting of benchmarks.generation. Users per second of `recommend_rows`; as the
history grows, also of a second request with one new item and a [`UserCache`], and the share of a request that encodes
the history. Memory per user is the peak that torch has allocated during a request, by its profiler's record of every
allocation, over the users; `bytes_per_user` estimates it beforehand, and what would not fit is not run. At every size
the scores are compared with exact scoring, and those of the second request with the first's. Writes
benchmarks/results/scaling.json and scaling.png.
"""

import copy
import json
import os
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.generation import build
from benchmarks.measure import RESULTS, alternate, arguments, threads, write_result
from hf_genrec.catalogue.item_trie import ItemTrie
from hf_genrec.decoding.user_cache import UserCache
from hf_genrec.methods.care.configuration_care import CareConfig
from hf_genrec.methods.care.modeling_care import CareForCausalLM

BEAMS, HISTORY, ITEMS = 20, 20, 12_000  # what stays as it is while one of them grows
AXES = {"beams": "beams", "history": "history (items)", "catalogue": "catalogue (items)"}


def bytes_per_user(config: CareConfig, prompt_tokens: int, num_beams: int, trie: ItemTrie) -> int:
    """
    What a request allocates for one user at its peak, in float32.

    Keys and values of the prompt and of all beams to come are there throughout. Beside them stands the largest of: the
    prompt's hidden states, the prompt's mask in attention (boolean, and as floats), the same of the last step's beams,
    and at each level logits and candidates.
    """
    hidden, intermediate, levels = config.hidden_size, config.intermediate_size, trie.num_levels
    sizes = [1 + config.num_queries[level] for level in range(1, levels)]  # slots of a beam's new code
    prompt_slots = prompt_tokens + config.num_queries[0]
    columns = [prompt_slots + num_beams * slots for slots in accumulate(sizes)]  # of each step
    head_dim = hidden // config.num_attention_heads
    cache = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * columns[-1]
    # Residuals and norms; beside them the three of the MLP, or queries, keys and values and their rotation.
    per_slot = 4 * (5 * hidden + max(3 * intermediate, 8 * hidden))
    in_attention = 4 * 7 * hidden  # while the boolean mask is turned into floats
    moments = [
        prompt_slots * per_slot + prompt_slots**2,
        prompt_slots * in_attention + (1 + 4) * prompt_slots**2,
    ]
    for size, width in zip(sizes, columns, strict=True):
        moments.append(num_beams * size * (per_slot + (1 + 4) * width))
    for children in trie.max_children[1:levels]:
        logits = 2 * 4 * num_beams * config.vocab_size  # and their exponentials
        candidates = num_beams * children
        moments.append(logits + (3 * 8 + 1) * candidates)  # tokens, the same clamped, nodes, legal or not
        moments.append((5 * 8 + 4 * 4) * candidates)  # tokens, nodes, keys and their two halves; scores
    return cache + max(moments)


def peak_allocated_bytes(call: Callable[[], Any]) -> int:
    """The most that torch had allocated at a time during a call, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["args"]["Ev Idx"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    return max(accumulate(num_bytes for _, num_bytes in changes))


class Case:
    """One size of what grows: a model, histories of its users, and the beams."""

    def __init__(self, model: CareForCausalLM, users: int, beams: int):
        self.model, self.beams, self.users = model, beams, users
        rng = np.random.default_rng(1)
        self.length = model.processor.max_history
        items = len(model.processor.item_ids)
        self.histories = [rng.integers(0, items, self.length) for _ in range(users)]
        prompt_tokens = self.length * model.processor.num_levels + 1
        self.bytes_estimated = bytes_per_user(model.config, prompt_tokens, beams, model.processor.trie)

    def request(self, user_cache: UserCache | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self.model.recommend_rows(self.histories, self.beams, num_beams=self.beams, user_cache=user_cache)

    def encode(self) -> torch.Tensor:
        decoder = self.model.beam_decoder_class(self.model, self.beams, self.model.processor.num_levels - 1)
        with torch.no_grad():
            return decoder.start(**self.model.processor.prompts(self.histories))

    def second_request(self) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """A request of users whose histories were encoded without their newest item."""
        before = UserCache()
        shorter = [history[:-1] for history in self.histories]
        self.model.recommend_rows(shorter, self.beams, num_beams=self.beams, user_cache=before)

        def request():
            cache = copy.copy(before)
            cache._entries = before._entries.copy()
            return self.request(cache)

        rows, scores = request()
        expected_rows, expected_scores = self.request()
        assert (rows == expected_rows).all(), "the second request finds other items"
        assert np.abs(scores - expected_scores).max() < 1e-4, "the second request's scores differ"
        return request

    def check(self) -> None:
        """The first user's items have the scores that teacher forcing gives them."""
        rows, scores = self.request()
        names = self.model.processor.item_ids
        exact = self.model.score_items([names[row] for row in self.histories[0]], [names[row] for row in rows[0]])
        assert np.abs(exact.numpy() - scores[0]).max() < 1e-4, "recommend's scores are not those of exact scoring"


def main() -> None:
    options = arguments(
        __doc__,
        beams=[5, 10, 20, 50, 100, 256],
        history=[20, 50, 100, 200],
        catalogue=[12_000, 100_000, 1_000_000],
        users=16,
        layers=4,
        hidden=128,
    )
    results = []
    for axis in AXES:
        cases: dict[int, Case] = {}
        ways: dict[tuple[int, str], Callable[[], Any]] = {}
        measured_bytes: dict[int, int] = {}
        for size in getattr(options, axis):
            beams, history, items = (
                size if axis == name else usual
                for name, usual in (("beams", BEAMS), ("history", HISTORY), ("catalogue", ITEMS))
            )
            case = Case(build(items, options.layers, options.hidden, history), options.users, beams)
            needed, free = options.users * case.bytes_estimated, psutil.virtual_memory().available
            line = f"{axis} {size:,}: {case.bytes_estimated / 2**20:.2f} MiB a user estimated"
            if needed > free:
                print(f"{line}; skipped, {needed / 2**30:.1f} GiB needed and {free / 2**30:.1f} GiB free", flush=True)
                continue
            with threads(1):
                case.check()
                measured_bytes[size] = peak_allocated_bytes(case.request) // options.users
                print(f"{line}, {measured_bytes[size] / 2**20:.2f} measured", flush=True)
                cases[size], ways[size, "request"] = case, case.request
                if axis == "history":
                    ways[size, "second"], ways[size, "encode"] = case.second_request(), case.encode
        for count in options.threads:
            with threads(count):
                times = alternate(ways, options.repeats)
            for size, case in cases.items():
                seconds = times[size, "request"]["seconds"]
                row = {
                    "axis": axis,
                    "size": size,
                    "threads": count,
                    "users_per_second": options.users / seconds,
                    "users_per_cpu_second": options.users / times[size, "request"]["cpu_seconds"],
                    "mib_per_user_estimated": case.bytes_estimated / 2**20,
                    "mib_per_user": measured_bytes[size] / 2**20,
                }
                if axis == "history":
                    second, encode = times[size, "second"]["seconds"], times[size, "encode"]["seconds"]
                    row["second_users_per_second"] = options.users / second
                    row["second_times_faster"] = seconds / second
                    row["encoding_share"] = encode / seconds
                results.append(row)
    print_results(results)
    plot(results, RESULTS / "scaling.png")
    outcome = {"load_average": os.getloadavg(), "sizes": results}
    print(write_result("scaling", "python -m benchmarks.scaling", vars(options), outcome))


def print_results(results: list[dict[str, Any]]) -> None:
    print(f"\n{'':<11}{'size':>10}{'threads':>9}{'users/s':>9}{'per CPU s':>11}", end="")
    print(f"{'MiB/user':>10}{'estimated':>11}{'second/s':>10}{'times':>7}{'encoding':>10}")
    for row in results:
        print(
            f"{row['axis']:<11}{row['size']:>10,}{row['threads']:>9}{row['users_per_second']:>9.1f}"
            f"{row['users_per_cpu_second']:>11.1f}{row['mib_per_user']:>10.2f}{row['mib_per_user_estimated']:>11.2f}",
            end="",
        )
        if row["axis"] == "history":
            second, times = row["second_users_per_second"], row["second_times_faster"]
            print(f"{second:>10.1f}{times:>7.1f}{row['encoding_share']:>10.0%}", end="")
        print()
    ratios = [row["mib_per_user_estimated"] / row["mib_per_user"] for row in results]
    print(f"\nEstimate over measurement: {min(ratios):.2f} to {max(ratios):.2f}.")


def plot(results: list[dict[str, Any]], path: Path) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.5), layout="constrained")
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        rows = [row for row in results if row["axis"] == axis]
        sizes = sorted({row["size"] for row in rows})
        for color, count in enumerate(sorted({row["threads"] for row in rows})):
            mine = [row for row in rows if row["threads"] == count]
            name = f"{count} thread{'s' if count > 1 else ''}"
            panel.plot(sizes, [row["users_per_second"] for row in mine], "o-", color=f"C{color}", label=name)
            if axis == "history":
                second = [row["second_users_per_second"] for row in mine]
                panel.plot(sizes, second, "s--", color=f"C{color}", label=f"{name}, second request with UserCache")
        panel.set_xscale("log")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel(label)
        panel.set_ylabel("users per second")
        panel.grid(alpha=0.3)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
