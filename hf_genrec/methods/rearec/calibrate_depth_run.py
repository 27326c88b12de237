"""Let a trained ReaRec model decide per user how many steps to take: fit the rules on validation, measure on test.

hf-genrec calibrate-depth runs/rearec-ml-100k                    # compares the rules, changes nothing
hf-genrec calibrate-depth runs/rearec-ml-100k --rule halting     # compares, and writes this rule into model/
hf-genrec calibrate-depth runs/rearec-ml-100k --rule fixed       # back to K steps for all
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_genrec.evaluation.cost import median_costs
from hf_genrec.evaluation.metrics import paired_bootstrap_difference
from hf_genrec.evaluation.report import markdown_table, record_header
from hf_genrec.files import require_writable, spelled_out, whole_folder, write_json
from hf_genrec.hub import write_model_card
from hf_genrec.methods.rearec.configuration_rearec import DEPTH_RULES
from hf_genrec.methods.rearec.fit_depth_rules import (
    FOLDS,
    Calibration,
    DepthFacts,
    FittedRule,
    at_depth,
    calibrate_all,
    collect_facts,
)
from hf_genrec.methods.rearec.modeling_rearec import ReaRecForNextItem
from hf_genrec.methods.rearec.reasoning_analysis import chosen_depths, evaluating
from hf_genrec.methods.rearec.reasoning_run import open_reasoning_run

logger = logging.getLogger(__name__)

TIMED_USERS, ROUNDS = 2048, 5
CHOICES = ("all", "fixed", *DEPTH_RULES)


def main(run_folder: str, rule: str = "all") -> dict[str, Any]:
    """
    Fit and compare the rules, and write `results/adaptive-depth.json`; with a rule's name (or "fixed") also write that
    rule into the run's `model/`. Returns the record.
    """
    if rule not in CHOICES:
        raise ValueError(f"--rule {rule}: use one of {', '.join(CHOICES)}")
    run, model, prepared = open_reasoning_run(run_folder)
    if rule != "all":
        require_writable(run.path)  # where model/ is exchanged
    header = record_header(run.model, prepared)
    splits = {name: prepared.split(name) for name in ("validation", "test")}
    facts = {name: collect_facts(model, split) for name, split in splits.items()}
    calibrations = calibrate_all(facts["validation"])
    costs = {name: _costs(model, split.histories, calibrations) for name, split in splits.items()}
    depths = {"validation": {name: calibration.depths for name, calibration in calibrations.items()}, "test": {}}
    for name, calibration in calibrations.items():
        set_rule(model, calibration.fitted)
        depths["test"][name] = chosen_depths(model, splits["test"].histories)

    fixed = int(facts["validation"].ndcg.mean(0).argmax())
    systems = {split: _systems(facts[split], fixed, depths[split], costs[split]) for split in splits}
    best = max(calibrations, key=lambda name: systems["validation"][name]["ndcg@10"])
    ahead = systems["validation"][best]["ndcg@10"] > systems["validation"][f"depth {fixed}"]["ndcg@10"]
    record = header | {
        "reasoning": model.config.reasoning,
        "num_reasoning_steps": model.config.steps,
        "chosen_on": f"all validation users; their own figures are of rules fitted on {FOLDS - 1} of {FOLDS} parts",
        "best_fixed_depth": fixed,
        "best_rule_on_validation": best if ahead else None,
        "rules": {name: _parameters(calibration) for name, calibration in calibrations.items()},
        "num_users": {name: len(split.histories) for name, split in splits.items()},
        "splits": systems,
    }
    path = run.results / "adaptive-depth.json"
    write_json(record, path)
    logger.info("%s\n\nall figures in %s", render(record), path)
    if rule != "all":
        set_rule(model, None if rule == "fixed" else calibrations[rule].fitted)
        save_in_place(model, run.model)
        write_model_card(run.model, run.results)
        logger.info(
            "%s now has depth_rule: %s; figures in %s of before are of another depth: evaluate again",
            run.model,
            model.config.depth_rule,
            run.results,
        )
    return record


def set_rule(model: ReaRecForNextItem, fitted: FittedRule | None) -> None:
    """Give the model a fitted rule, or with `None` a fixed depth."""
    if fitted is None:
        model.set_depth_rule(None)
    else:
        model.set_depth_rule(fitted.rule, fitted.threshold, **fitted.weights)


def save_in_place(model: ReaRecForNextItem, folder: Path) -> None:
    """
    Save a model over the folder it was loaded from, keeping the other files there. The folder is exchanged whole: until
    that moment it is the old one.
    """
    with whole_folder(folder) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        model.save_pretrained(new)


def _costs(
    model: ReaRecForNextItem, histories: Sequence[np.ndarray], calibrations: dict[str, Calibration]
) -> dict[str, float]:
    """CPU seconds a user of recommending ten items, by fixed depth and by rule, from alternating rounds."""
    timed = histories[:: max(1, len(histories) // TIMED_USERS)][:TIMED_USERS]

    def recommend(depth: int | None, fitted: FittedRule | None) -> None:
        set_rule(model, fitted)
        with evaluating(model, depth):
            model.recommend_rows(timed, 10)

    calls = {f"depth {depth}": (lambda depth=depth: recommend(depth, None)) for depth in range(model.config.steps + 1)}
    calls |= {name: (lambda fitted=one.fitted: recommend(None, fitted)) for name, one in calibrations.items()}
    return {name: cost.cpu_seconds / len(timed) for name, cost in median_costs(calls, ROUNDS).items()}


def _systems(
    facts: DepthFacts, fixed: int, depths: dict[str, np.ndarray], costs: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """The figures of a split for every fixed depth, every rule, and the oracle."""
    users = len(facts.lengths)
    chosen = {f"depth {depth}": np.full(users, depth) for depth in range(facts.num_steps + 1)} | depths
    chosen["oracle"] = facts.ndcg.argmax(1)  # the first of equally good ones
    base = facts.ndcg[:, fixed]
    headroom = facts.ndcg.max(1).mean() - base.mean()
    figures = {}
    for name, mine in chosen.items():
        ndcg = at_depth(facts.ndcg, mine)
        difference, low, high = paired_bootstrap_difference(ndcg, base)
        figures[name] = {
            "ndcg@10": float(ndcg.mean()),
            "recall@10": float(at_depth(facts.recall, mine).mean()),
            "mean_steps": float(mine.mean()),
            "steps_saved": 1 - float(mine.mean()) / facts.num_steps,
            "share_of_depths": (np.bincount(mine, minlength=facts.num_steps + 1) / users).tolist(),
            "less_best_fixed": {"value": difference, "low": low, "high": high},
            "headroom_kept": float((ndcg.mean() - base.mean()) / headroom) if headroom > 0 else None,
            "cpu_seconds_per_user": costs.get(name),
        }
    return figures


def _parameters(calibration: Calibration) -> dict[str, Any]:
    fitted = calibration.fitted
    small = {name: weight.tolist() for name, weight in fitted.weights.items() if fitted.rule == "confidence"}
    return {"threshold": spelled_out(fitted.threshold), "penalty": calibration.penalty} | {
        name: spelled_out(values) for name, values in small.items()
    }


def render(record: dict[str, Any]) -> str:
    """A table per split."""
    parts = []
    for split, systems in record["splits"].items():
        how = "rules cross-validated" if split == "validation" else "rules fitted on validation"
        rows = [[f"{split} ({how})", "NDCG@10", "Recall@10", "steps", "saved", "headroom", "less best fixed", "CPU ms"]]
        for name, line in systems.items():
            interval = line["less_best_fixed"]
            kept, cpu = line["headroom_kept"], line["cpu_seconds_per_user"]
            mark = ", best fixed" if name == f"depth {record['best_fixed_depth']}" else ""
            rows.append(
                [
                    f"{name}{mark}",
                    f"{line['ndcg@10']:.4f}",
                    f"{line['recall@10']:.4f}",
                    f"{line['mean_steps']:.2f}",
                    f"{line['steps_saved']:.0%}",
                    "" if kept is None else f"{kept:.1%}",
                    f"{interval['low']:+.4f} to {interval['high']:+.4f}",
                    "" if cpu is None else f"{1e3 * cpu:.3f}",
                ]
            )
        parts.append(markdown_table(rows))
    best = record["best_rule_on_validation"]
    parts.append(
        f"best rule on validation: {best}" if best else "no rule is better on validation than the best fixed depth"
    )
    return "\n\n".join(parts)
