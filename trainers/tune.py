"""A search over settings by optuna: a run per trial, compared on the validation split.

hf-genrec tune --config NAME --trials 30 --space 'learning_rate=1e-4..1e-2:log' 'hidden_size=32,64,128'

The data are prepared (and tokenized) once, in the configuration's `output_dir`. Its folder `tune/` holds the trials, a
run folder each; optuna's storage `study.db`; and `best.yaml`. A search that was interrupted goes on where it stood, and
more trials may be added. The test split is not read.
"""

import json
import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback

from hf_genrec.catalogue.sound_scores import UnsoundModel
from hf_genrec.evaluation.report import markdown_table, record_header
from hf_genrec.files import require_writable, whole_file, working_in, write_json
from hf_genrec.trainers.trial_runs import (
    SETTINGS_FILE,
    SPLIT,
    TITLES,
    cells,
    check_settings,
    figures,
    is_finished,
    own_codes,
    prepare_once,
    settings_of,
    share,
    train_and_evaluate,
    varied,
)
from hf_genrec.trainers.tune_picture import draw
from hf_genrec.training.config import RunConfig, parse_config
from hf_genrec.training.given_values import kinds_of
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.search_space import Range, Space, read_spaces
from hf_genrec.training.trainer import DivergedTraining

logger = logging.getLogger(__name__)

STUDY_FILE = "study.db"
BEST_FILE = "best.yaml"
NOT_VARIED = {"method", "output_dir", "resume_from_checkpoint", "codes_run"}


def main(
    config: str | None, spaces: Sequence[str], trials: int, overrides: Sequence[str] = (), prune: bool = True
) -> dict[str, Any]:
    """
    Make the trials that are not yet there; write `results/tune.json` and `.png` and `tune/best.yaml`; return the
    record.

    Args:
        config: path or shipped name, as for `hf-genrec train`.
        spaces: what each key may be, see [`read_spaces`].
        trials: how many there are in the end.
        overrides: further options for all trials.
        prune: end trials early whose NDCG@10 is below the median of the others after as many evaluations.

    Raises:
        ImportError: without optuna.
        ValueError: for a space that cannot be searched, a search that was made with other settings, or one of which no
            trial could be finished.
    """
    optuna = _optuna()
    if trials < 1:
        raise ValueError(f"--trials {trials}: give 1 or more")
    base = parse_config(config, list(overrides))
    space = read_spaces(spaces, _kinds(base))
    given_twice = sorted(space.keys() & _keys_of(overrides))
    if given_twice:
        raise ValueError(f"--{given_twice[0]}: the search varies it: leave the option out")
    folder = base.run.path / "tune"
    require_writable(folder, base.run.results)
    tokenize = own_codes(base, space)
    with working_in(folder):
        prepared, codes = prepare_once(base, tokenize=not tokenize)
        settings = settings_of(base, prepared, codes) | {"space": {key: str(space[key]) for key in space}}
        check_settings(folder / SETTINGS_FILE, settings)
        write_json(settings, folder / SETTINGS_FILE)
        study = _open_study(optuna, folder / STUDY_FILE, prune)
        while (trial := _next_trial(optuna, study, trials, base.training.seed)) is not None:
            path = folder / f"{trial.number:04d}"
            values = {key: _suggested(trial, key, space[key]) for key in space}
            logger.info("trial %d: %s", trial.number, _shown(values))
            _make(optuna, study, trial, lambda p=path, v=values: varied(base, config, overrides, p, v), base, tokenize)
        record = _record(base, prepared, folder, study, list(space))
    path = base.run.results / "tune.json"
    write_json(record, path)
    draw(record, path.with_suffix(".png"))
    best = parse_config(config, [*overrides, *_options(record["best"])])
    write_best(best, Path(record["best"]["run"]), folder / BEST_FILE)
    logger.info(
        "%s\n\nbest settings in %s; all figures in %s; the test split, once: hf-genrec evaluate %s",
        render(record),
        folder / BEST_FILE,
        path,
        shlex.quote(record["best"]["run"]),
    )
    return record


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError('tune needs optuna: pip install "hf_genrec[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the trials are logged here
    return optuna


def _kinds(base: RunConfig) -> dict[str, Any]:
    """The keys that a search can vary with their annotations: those that leave the data, and their split, as is."""
    kinds = kinds_of([type(base.model), type(base.training), type(base.tokenizer)])
    kinds |= {"max_history": kinds_of([type(base.data)])["max_history"]}
    return {key: kind for key, kind in kinds.items() if key not in NOT_VARIED}


def _keys_of(overrides: Sequence[str]) -> set[str]:
    words = (word.removeprefix("--").partition("=")[0] for word in overrides if word.startswith("--"))
    return {word.replace("-", "_").removeprefix("no_") for word in words}


def _open_study(optuna: Any, path: Path, prune: bool) -> Any:
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=2) if prune else optuna.pruners.NopPruner()
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    url = URL.create("sqlite", database=str(path.absolute())).render_as_string()
    try:
        return optuna.create_study(
            storage=url, study_name="tune", direction="maximize", load_if_exists=True, pruner=pruner
        )
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no storage of optuna ({reason}): put it back, or delete {path.parent}") from error


def _next_trial(optuna: Any, study: Any, trials: int, seed: int) -> Any:
    """One that was interrupted, or a new one; `None` when there are enough."""
    found = study.get_trials(deepcopy=False)
    unfinished = [trial for trial in found if not trial.state.is_finished()]
    if not unfinished and len(found) >= trials:
        return None
    number = unfinished[0].number if unfinished else len(found)
    # Of the trial's own seed: a search that was interrupted proposes what it would have proposed.
    study.sampler = optuna.samplers.TPESampler(seed=seed + number)
    return optuna.trial.Trial(study, unfinished[0]._trial_id) if unfinished else study.ask()


def _suggested(trial: Any, key: str, space: Space) -> str:
    if not isinstance(space, Range):
        return trial.suggest_categorical(key, space.values)
    suggest = trial.suggest_int if isinstance(space.low, int) else trial.suggest_float
    return repr(suggest(key, space.low, space.high, log=space.log))


def _make(optuna: Any, study: Any, trial: Any, configuration: Any, base: RunConfig, tokenize: bool) -> None:
    """Train and evaluate a trial, and tell the study what became of it."""
    folder = None
    try:
        try:
            run = configuration()
        except ValueError as error:
            raise _Ended("refused", str(error)) from error
        folder = run.run
        if not is_finished(folder.path):
            share(base, run, tokenize)
            try:
                train_and_evaluate(run, [_Watch(optuna, trial)])
            except (DivergedTraining, UnsoundModel) as error:
                raise _Ended("diverged", str(error)) from error
        value = figures(folder.path, f"delete {folder.path}, and tune again")["ndcg@10"]["value"]
        study.tell(trial, value)
    except _Ended as ended:
        # Optuna keeps away from where trials were pruned, and would forget failed ones.
        trial.set_user_attr("outcome", ended.outcome)
        trial.set_user_attr("reason", " ".join(ended.reason.split())[:500])
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        logger.info("trial %d was %s: %s", trial.number, ended.outcome, ended.reason)
    if folder is not None:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # it will not go on


class _Ended(Exception):
    """A trial that has no result."""

    def __init__(self, outcome: str, reason: str):
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


class _Watch(TrainerCallback):
    """Tells a trial's NDCG@10 after each evaluation, and ends it where optuna's pruner says so."""

    def __init__(self, optuna: Any, trial: Any):
        self.optuna, self.trial = optuna, trial

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        evaluations = [line["eval_ndcg@10"] for line in state.log_history if "eval_ndcg@10" in line]
        step = len(evaluations)
        if step not in self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values:
            self.trial.report(evaluations[-1], step)
        if self.trial.should_prune():
            raise _Ended("pruned", f"NDCG@10 {max(evaluations):.4f} after {step} evaluations is below the median")


def _record(base: RunConfig, prepared: Any, folder: Path, study: Any, keys: Sequence[str]) -> dict[str, Any]:
    lines = []
    for trial in study.get_trials(deepcopy=False):
        line: dict[str, Any] = {"trial": trial.number, "values": {key: trial.params.get(key) for key in keys}}
        line |= {"outcome": trial.user_attrs.get("outcome", "finished"), "reason": trial.user_attrs.get("reason")}
        line["intermediate_ndcg@10"] = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        if line["outcome"] == "finished":
            path = folder / f"{trial.number:04d}"
            line |= figures(path, f"delete {folder}, and tune again")
        lines.append(line)
    finished = [line for line in lines if line["outcome"] == "finished"]
    if not finished:
        first = lines[0]
        raise ValueError(f"no trial could be finished; the first one was {first['outcome']}: {first['reason']}")
    best = max(finished, key=lambda line: line["ndcg@10"]["value"])
    header = record_header(RunFolder(Path(best["run"])).model, prepared)
    return header | {"split": SPLIT, "keys": list(keys), "best": best, "trials": lines}


def _options(line: Mapping[str, Any]) -> list[str]:
    words = ["--output_dir", line["run"]]
    for key, value in line["values"].items():
        words += [f"--{key}", *(value.split(" ") if isinstance(value, str) else [repr(value)])]
    return words


def write_best(run: RunConfig, folder: Path, path: Path) -> None:
    """The configuration of the best trial, every key that is given somewhere, as a YAML of its own."""
    values: dict[str, Any] = {"method": run.model.method}
    for group in (run.data, run.tokenizer, run.model, run.training):
        for field in fields(group):
            if field.name in run.given:
                value = getattr(group, field.name)
                values[field.name] = value.value if isinstance(value, Enum) else value
    values["output_dir"] = str(folder)
    text = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True, width=1000)
    head = (
        f"# hf-genrec evaluate {shlex.quote(str(folder))}\n"
        f"# The best settings of a search; to train with them anew, name another output_dir.\n\n"
    )
    with whole_file(path) as temporary:
        temporary.write_text(head + text, encoding="utf-8")


def render(record: dict[str, Any]) -> str:
    """A table with a row per trial, the best one first, and how many were not finished."""
    keys = record["keys"]
    rows = [["trial", *keys, *TITLES]]
    finished = [line for line in record["trials"] if line["outcome"] == "finished"]
    for line in sorted(finished, key=lambda line: -line["ndcg@10"]["value"]):
        rows.append([str(line["trial"]), *(_short(line["values"][key]) for key in keys), *cells(line)])
    ended = [line["outcome"] for line in record["trials"] if line["outcome"] != "finished"]
    counts = ", ".join(f"{ended.count(outcome)} {outcome}" for outcome in sorted(set(ended)))
    rest = f"\n\nnot finished: {counts}" if counts else ""
    return f"{record['split']} split\n\n{markdown_table(rows)}{rest}"


def _shown(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
