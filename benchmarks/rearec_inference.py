"""What reasoning costs when items are recommended: K = 2 steps against none, in CPU time.

    python -m benchmarks.rearec_inference

Users with full histories, all items scored, the best ten found (`recommend_rows`, 256 users at a time), by models of
the same size with the same weights:

- none: no reasoning, r_0 is ranked;
- ERL, PRL: K steps, each a single position that attends to the keys and values kept from the history;
- no cache: PRL whose every step encodes the whole history and the steps so far anew; must find the same items;
- ranking: of which scores and the best ten alone, of given user vectors.

The weights are random: time does not depend on what they say.
"""

import os

import numpy as np
import torch

from benchmarks.measure import alternate, arguments, threads, write_result
from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem
from hf_genrec.methods.rearec.rearec_losses import prediction_state

BAR = 1.15  # the most that K steps may cost, in times of none


class Reencoding(ReaRecForNextItem):
    """ReaRec without keys and values: for histories that fill their rows."""

    def user_vectors(self, input_ids, attention_mask, item_vectors: torch.Tensor) -> torch.Tensor:
        body = self.model
        length = input_ids.shape[1]
        fed = item_vectors[input_ids] + body.position_embeddings.weight[:length]
        states: list[torch.Tensor] = []
        for step in range(self.config.steps + 1):
            if step:
                fed = torch.cat([fed, body.fed(states[-1], step - 1)], 1)
            hidden = body.enter(fed)
            allowed = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
            for layer in body.layers[:-1]:
                hidden, _ = layer.encode(hidden, allowed.expand(len(hidden), -1, -1))
            last = torch.full((len(hidden), 1), hidden.shape[1] - 1)
            states.append(body.layers[-1].encode(hidden, allowed[-1:].expand(len(hidden), -1, -1), last)[0])
        return prediction_state(torch.cat(states, 1), self.config.reasoning) / self.config.temperature


def build(model_class: type[ReaRecForNextItem], options, reasoning: str) -> ReaRecForNextItem:
    torch.manual_seed(0)
    config = ReaRecConfig(
        num_items=options.items,
        max_history=options.history,
        reasoning=reasoning,
        num_reasoning_steps=options.steps,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        initializer_range=0.2,  # far from uniform, so that the rankings differ
    )
    model = model_class(config).eval()
    model.processor = ItemProcessor(options.history).set_catalogue([str(row) for row in range(options.items)])
    return model


def main() -> None:
    options = arguments(__doc__, users=1024, history=50, items=12101, hidden=64, steps=2, k=10)
    models = {
        "none": build(ReaRecForNextItem, options, "none"),
        "ERL": build(ReaRecForNextItem, options, "erl"),
        "PRL": build(ReaRecForNextItem, options, "prl"),
        "no cache": build(Reencoding, options, "prl"),
    }
    for model in models.values():
        model.load_state_dict(models["PRL"].state_dict(), strict=False)  # all but none's reasoning embeddings
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, options.items, options.history) for _ in range(options.users)]
    check(models, histories, options.k)

    vectors = torch.randn(256, options.hidden)
    table = models["none"].item_vectors()[:-1].detach()
    ways = {
        name: lambda model=model: model.recommend_rows(histories, options.k, batch_size=256)
        for name, model in models.items()
    }
    ways["ranking"] = lambda: [ReaRecForNextItem._best(vectors, table, options.k) for _ in range(0, options.users, 256)]
    results = {}
    for count in options.threads:
        with threads(count):
            measured = alternate(ways, options.repeats)
        ratios = {name: figures["cpu_seconds"] / measured["none"]["cpu_seconds"] for name, figures in measured.items()}
        for name, figures in measured.items():
            figures |= {"users_per_second": options.users / figures["seconds"], "times_none": ratios[name]}
        bars = {name: {"limit": BAR, "ratio": ratios[name], "holds": ratios[name] <= BAR} for name in ("ERL", "PRL")}
        results[f"{count} threads"] = {"ways": measured, "bars": bars}
        report(count, options, measured, bars)
    results["load_average"] = os.getloadavg()
    print(write_result("rearec_inference", "python -m benchmarks.rearec_inference", vars(options), results))


def check(models: dict[str, ReaRecForNextItem], histories: list[np.ndarray], k: int) -> None:
    """The way without cache finds what PRL finds; the others find something else."""
    found = {name: model.recommend_rows(histories[:256], k) for name, model in models.items()}
    rows, scores = found["PRL"]
    other_rows, other_scores = found["no cache"]
    np.testing.assert_allclose(scores, other_scores, rtol=1e-4)
    same = (rows == other_rows).mean()
    assert same > 0.999, f"only {same:.2%} of the items are the same without cache"
    assert (rows != found["none"][0]).mean() > 0.1, "the steps change next to nothing"
    print(f"with and without cache {same:.2%} of the items are the same; scores differ by rounding")


def report(count: int, options, measured: dict, bars: dict) -> None:
    print(f"\n{count} thread(s), {options.users} users    users/s   CPU us/user   times none")
    for name, figures in measured.items():
        cpu = figures["cpu_seconds"] / options.users * 1e6
        print(f"{name:<28}{figures['users_per_second']:>10.0f}{cpu:>14.1f}{figures['times_none']:>13.3f}")
    for name, bar in bars.items():
        holds = "holds" if bar["holds"] else "MISSED"
        print(f"{holds}: {name} with K = {options.steps} costs {bar['ratio']:.3f} times none, bar {bar['limit']:g}")


if __name__ == "__main__":
    main()
