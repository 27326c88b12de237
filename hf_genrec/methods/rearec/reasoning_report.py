"""The record of `analyze_reasoning` as tables for a terminal and as pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.evaluation.report import markdown_table
from hf_genrec.files import whole_file

TABLE_METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20")
GROUP_TITLES = {"history_length": "history length", "target_popularity": "popularity of the target"}


def render_analysis(record: dict[str, Any]) -> str:
    """The tables of a record as Markdown, readable in a terminal of 120 columns."""
    steps = record["num_reasoning_steps"]
    titles = [name.replace("recall", "Recall").replace("ndcg", "NDCG") for name in TABLE_METRICS]
    rule = "" if record["depth_rule"] is None else f", depth by `{record['depth_rule']}`"
    own = record["prediction"]
    rows = [["ranking by", *titles]]
    rows += [[f"depth {line['depth']}", *_cells(line["metrics"])] for line in record["depths"]]
    if record["reasoning"] == "erl":
        rows += [[f"state {line['state']} alone", *_cells(line["metrics"])] for line in record["states"]]
    rows.append([f"the model ({own['mean_steps']:.2f} steps{rule})", *_cells(own["metrics"])])
    parts = [
        f"{record['split']} split, {record['num_users']:,} users, {record['num_items']:,} items, seen items not "
        f"removed; {record['backbone']}, {record['reasoning']} with K = {steps}",
        markdown_table(rows),
    ]

    rows = [["best step of each user in hindsight", "NDCG@10", "best fixed step", "gain", "users whose best is 0..K"]]
    for name, oracle in record["oracle"].items():
        if name == "depths" or record["reasoning"] == "erl":
            shares = " ".join(f"{share:.1%}" for share in oracle["share_best"])
            fixed = f"{oracle['best_fixed']}: {oracle['best_fixed_ndcg@10']:.4f}"
            rows.append([f"oracle over {name}", f"{oracle['ndcg@10']:.4f}", fixed, _percent(oracle), shares])
    parts.append(markdown_table(rows))

    for key, title in GROUP_TITLES.items():
        rows = [[title, "number", "NDCG@10 at depth 0", *(f"depth {k}" for k in range(1, steps + 1)), "K less 0, 95 %"]]
        for group in record[key]:
            ndcg, last = group["ndcg@10"], group["last_less_first"]
            changes = [f"{value:.4f} ({_change(value, ndcg[0])})" for value in ndcg[1:]]
            interval = f"{last['low']:+.4f} to {last['high']:+.4f}"
            rows.append([_group_name(group), f"{group['count']:,}", f"{ndcg[0]:.4f}", *changes, interval])
        parts.append(markdown_table(rows))

    rows = [["rank of the target", "quartile 1", "median", "quartile 3", "improved", "same", "worsened"]]
    for line, change in zip(record["ranks"], [None, *record["changes"]], strict=True):
        moves = ["", "", ""] if change is None else [f"{change[key]:.1%}" for key in ("improved", "same", "worsened")]
        rows.append([f"depth {line['step']}", *(f"{line[key]:,.0f}" for key in list(line)[1:]), *moves])
    parts.append(markdown_table(rows))

    for key, title in (("cosine", "cosine of states"), ("kl", "KL(row || column)")):
        rows = [[title, *(f"r_{step}" for step in range(steps + 1))]]
        rows += [[f"r_{step}", *(f"{value:.3f}" for value in line)] for step, line in enumerate(record[key])]
        parts.append(markdown_table(rows))

    parts.append(f"{record['plane']['between_steps']:.1%} of the states' variance lies between the steps")

    rows = [["steps for all", "ms a user", "CPU ms a user", "CPU, times no step"]]
    for line in record["cost"]:
        times = [f"{1e3 * line[key]:.3f}" for key in ("seconds_per_user", "cpu_seconds_per_user")]
        rows.append([str(line["num_steps"]), *times, f"{line['times_no_step']:.3f}"])
    parts.append(markdown_table(rows))
    return "\n\n".join(parts)


def _cells(metrics: dict[str, float]) -> list[str]:
    return [f"{metrics[name]:.4f}" for name in TABLE_METRICS]


def _group_name(group: dict[str, Any]) -> str:
    """Its number from 1, as ranges may meet: equal values are divided to make equal groups."""
    return f"{group['group'] + 1}: {group['smallest']}-{group['largest']}"


def _percent(oracle: dict[str, Any]) -> str:
    return "" if oracle["relative_gain"] is None else f"{oracle['relative_gain']:+.1%}"


def _change(value: float, base: float) -> str:
    return f"{value / base - 1:+.1%}" if base > 0 else "no base"


# ---- pictures ----


def draw_analysis(record: dict[str, Any], folder: Path) -> list[Path]:
    """`reasoning-<split>-<what>.png` in `folder`, for steps, groups, similarity, states, ranks and cost."""
    drawers = {
        "steps": _draw_steps,
        "groups": _draw_groups,
        "similarity": _draw_similarity,
        "states": _draw_states,
        "ranks": _draw_ranks,
        "cost": _draw_cost,
    }
    paths = [Path(folder) / f"reasoning-{record['split']}-{name}.png" for name in drawers]
    for path, draw in zip(paths, drawers.values(), strict=True):
        figure = draw(record)
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    return paths


def _panels(count: int, title: str, height: float = 3.6):
    from matplotlib.figure import Figure  # a Figure of one's own draws with Agg and touches no global state

    figure = Figure(figsize=(4.8 * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    figure.suptitle(title, fontsize=12)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _title(record: dict[str, Any], what: str) -> str:
    return f"{what}: {record['reasoning']}, K = {record['num_reasoning_steps']}, {record['split']} split"


def _draw_steps(record: dict[str, Any]):
    """Recall and NDCG at every depth, beside the oracle's NDCG@10."""
    figure, axes = _panels(2, _title(record, "ranking after each step"))
    depths = range(record["num_reasoning_steps"] + 1)
    for axis, name in zip(axes, ("ndcg", "recall"), strict=True):
        for k, color in ((20, "tab:green"), (10, "tab:blue"), (5, "tab:purple")):
            values = [line["metrics"][f"{name}@{k}"] for line in record["depths"]]
            axis.plot(depths, values, marker="o", color=color, label=f"@{k}")
            if record["reasoning"] == "erl":
                values = [line["metrics"][f"{name}@{k}"] for line in record["states"]]
                axis.plot(depths, values, marker="x", linestyle=":", color=color, label=f"@{k}, the state alone")
        axis.set(xticks=depths, xlabel="steps taken", ylabel={"ndcg": "NDCG", "recall": "Recall"}[name])
    oracle = record["oracle"]["depths"]["ndcg@10"]
    axes[0].axhline(oracle, color="tab:blue", linewidth=1, linestyle="--", label="@10, best step of each user")
    for axis in axes:
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.42 * (high - low))  # room for the legend
        axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    return figure


def _draw_groups(record: dict[str, Any]):
    """Change of NDCG@10 against depth 0, a line per quarter of the users and of the targets."""
    from matplotlib import colormaps

    figure, axes = _panels(2, _title(record, "NDCG@10 of subgroups against no step"))
    depths = range(record["num_reasoning_steps"] + 1)
    for axis, (key, title) in zip(axes, GROUP_TITLES.items(), strict=True):
        shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(record[key])))
        for group, color in zip(record[key], shades, strict=True):
            base = group["ndcg@10"][0]
            if base > 0:
                changes = [100 * (value / base - 1) for value in group["ndcg@10"]]
                axis.plot(depths, changes, marker="o", color=color, label=_group_name(group))
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xticks=depths, xlabel="steps taken", ylabel="change, %")
        axis.set_title(f"by {title}", fontsize=11)
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.25 * (high - low))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8, ncols=4, loc="upper left", columnspacing=0.8, handlelength=1.0)
    return figure


def _draw_similarity(record: dict[str, Any]):
    """Two heat maps: cosine of the states, and divergence of their distributions."""
    size = record["num_reasoning_steps"] + 1
    figure, axes = _panels(2, _title(record, "states of different steps"), 4.2)
    for axis, key, title, color in zip(
        axes, ("cosine", "kl"), ("cosine of r_i and r_j", "KL(y_i || y_j), nats"), ("viridis", "magma"), strict=True
    ):
        values = np.array(record[key])
        lowest, highest = (min(0.0, values.min()), 1.0) if key == "cosine" else (0.0, max(values.max(), 1e-6))
        image = axis.imshow(values, cmap=color, vmin=lowest, vmax=highest)
        for row in range(size):
            for column in range(size):
                bright = image.cmap(image.norm(values[row, column]))[:3]
                ink = "black" if np.dot(bright, (0.299, 0.587, 0.114)) > 0.55 else "white"
                axis.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=ink, fontsize=10)
        axis.set(xticks=range(size), yticks=range(size), xlabel="j", ylabel="i")
        axis.spines[:].set_visible(False)
        axis.set_title(title, fontsize=11)
        figure.colorbar(image, ax=axis, shrink=0.85)
    return figure


def _draw_states(record: dict[str, Any]):
    """The states of some users after every step, in the plane of their principal components."""
    from matplotlib import colormaps

    plane = record["plane"]
    figure, axes = _panels(1, "states in the plane", 4.2)
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(plane["points"])))
    for step, (points, color) in enumerate(zip(plane["points"], shades, strict=True)):
        axes[0].scatter(*np.array(points).T, s=9, color=color, alpha=0.6, linewidths=0, label=f"r_{step}")
    first, second = plane["variance"]
    axes[0].set(xlabel=f"component 1, {first:.0%} of the variance", ylabel=f"component 2, {second:.0%}")
    axes[0].set_title(
        f"{record['reasoning']}, {record['split']} split; {plane['between_steps']:.0%} between steps", fontsize=10
    )
    axes[0].legend(frameon=False, fontsize=9, markerscale=2)
    return figure


def _draw_ranks(record: dict[str, Any]):
    """Median and quartiles of the targets' ranks, and how many move from step to step."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axes = _panels(2, _title(record, "rank of the target"))
    steps = [line["step"] for line in record["ranks"]]
    low, middle, high = ([line[key] for line in record["ranks"]] for key in ("quartile_1", "median", "quartile_3"))
    axes[0].fill_between(steps, low, high, color="tab:blue", alpha=0.2, label="quartiles")
    axes[0].plot(steps, middle, marker="o", color="tab:blue", label="median")
    axes[0].set(yscale="log", xticks=steps, xlabel="steps taken", ylabel="rank, from 1")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes[0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(frameon=False, fontsize=9)
    left = np.zeros(len(record["changes"]))
    places = np.arange(len(record["changes"]))
    for key, color in (("improved", "tab:green"), ("same", "lightgray"), ("worsened", "tab:red")):
        shares = np.array([change[key] for change in record["changes"]])
        bars = axes[1].barh(places, shares, left=left, color=color, height=0.6, label=key)
        axes[1].bar_label(
            bars, labels=[f"{s:.0%}" if s > 0.04 else "" for s in shares], label_type="center", fontsize=9
        )
        left += shares
    axes[1].set(xlim=(0, 1), xlabel="share of targets", yticks=places)
    axes[1].set_yticklabels([f"{change['from']} to {change['to']}" for change in record["changes"]])
    axes[1].set_ylabel("step")
    axes[1].set_ylim(len(places) - 0.5, -1.1)
    axes[1].legend(frameon=False, fontsize=9, ncols=3, loc="upper center")
    return figure


def _draw_cost(record: dict[str, Any]):
    """Milliseconds a user by number of steps."""
    figure, axes = _panels(1, _title(record, "cost of recommending"))
    steps = np.array([line["num_steps"] for line in record["cost"]])
    for shift, key, title, color in (
        (-0.2, "seconds_per_user", "wall clock", "tab:blue"),
        (0.2, "cpu_seconds_per_user", "processor", "tab:orange"),
    ):
        values = [1e3 * line[key] for line in record["cost"]]
        bars = axes[0].bar(steps + shift, values, width=0.38, color=color, label=title)
        axes[0].bar_label(bars, fmt="{:.2f}", fontsize=8, padding=1)
    axes[0].set(xticks=steps, xlabel="steps for all users", ylabel="ms a user")
    axes[0].set_ylim(0, 1.3 * axes[0].dataLim.ymax)
    axes[0].legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
    return figure
