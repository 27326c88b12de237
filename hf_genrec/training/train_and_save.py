"""What every training program ends with: train, write down what it took, export the best checkpoint."""

import logging
import resource
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import IntervalStrategy

from hf_genrec.catalogue.flat_code import FlatCode, require_flat
from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.catalogue.sound_scores import require_sound_weights
from hf_genrec.files import spelled_out, whole_folder, working_in, write_json
from hf_genrec.hub import save_model, write_model_card
from hf_genrec.training.finished_run import DenseRun
from hf_genrec.training.lineage import changed_settings, write_lineage
from hf_genrec.training.processes import end_group
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.seen_items import K, choose_exclude_seen
from hf_genrec.training.teachers import teachers_cpu_seconds, teachers_folder
from hf_genrec.training.trainer import GenRecTrainer, StopEarly
from hf_genrec.training.trainer_state import read_state
from hf_genrec.training.whole_weights import whole_model

logger = logging.getLogger(__name__)

TRAINING_FILE = "training.json"
OF_THE_MODEL = ("num_weights", "steps", "epochs", "best_step", "best_validation_ndcg@10")
COST = ("seconds", "cpu_seconds", "peak_memory_mib")


def train_and_save(
    trainer: GenRecTrainer,
    run: RunFolder,
    resume: str | None,
    lineage: Mapping[str, Any],
    item_tokenizer: Path | None = None,
    dense: DenseRun | None = None,
) -> None:
    """
    Train, and write the run folder's `results/training.json` and `model/`.

    Args:
        resume: the checkpoint to go on from, or `None`.
        lineage: what the training is made from, written into its checkpoints and into the model.
        item_tokenizer: folder of the item tokenizer that is exported with the model.
        dense: the finished recommender that becomes one with the model.
    """
    arguments: Any = trainer.args
    examples: Any = trainer.train_dataset
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, FlatCode):  # one with adapters is saved when they are merged
        require_flat(type(model))  # now, and not after an epoch
    if arguments.early_stopping_patience is not None and arguments.eval_strategy != IntervalStrategy.NO:
        trainer.add_callback(StopEarly(arguments.early_stopping_patience))
    logger.info("%s weights, %s training targets", f"{model.num_parameters():,}", f"{examples.num_targets:,}")

    trainer.lineage = lineage
    if resume is not None:
        arguments.eval_on_start = False  # it was evaluated when it started
    with working_in(run.path) if trainer.is_world_process_zero() else nullcontext():
        _train_and_save(trainer, run, resume, lineage, item_tokenizer, dense)
    end_group()


def _train_and_save(
    trainer, run: RunFolder, resume: str | None, lineage, item_tokenizer: Path | None, dense: DenseRun | None
) -> None:
    start = time.perf_counter()
    # Before the training, which may delete the checkpoint in favour of newer ones.
    step = None if resume is None else read_state(Path(resume))["global_step"]
    changed = [] if resume is None else changed_settings(Path(resume), lineage)
    trainer.train(resume_from_checkpoint=resume)
    finished = trainer.state.global_step == step
    if finished and changed:
        raise ValueError(
            f"the training in {run.path} is finished, so that nothing is done with other settings "
            f"({', '.join(changed)}): set them back, or train in another output_dir"
        )
    seconds = time.perf_counter() - start
    with whole_model(trainer) as trained:
        if trainer.is_world_process_zero():
            _save(trainer, trained, run, resume, lineage, item_tokenizer, dense, seconds, finished)


def _save(
    trainer,
    trained,
    run: RunFolder,
    resume: str | None,
    lineage,
    item_tokenizer: Path | None,
    dense: DenseRun | None,
    seconds: float,
    finished: bool,
) -> None:
    arguments = trainer.args
    record = {
        "seconds": seconds,
        "cpu_seconds": trainer.state.log_history[-1]["cpu_seconds"],
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "resumed_from": resume,
        "num_weights": trained.num_parameters(),
        "num_targets": trainer.train_dataset.num_targets,
        "num_processes": arguments.world_size,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "best_step": trainer.state.best_global_step,
        "best_validation_ndcg@10": trainer.state.best_metric,
        "log": trainer.state.log_history,
    }
    if getattr(arguments, "teachers", None):  # post-training has none
        folder = teachers_folder(run, arguments.teachers_dir)
        record["teachers_cpu_seconds"] = teachers_cpu_seconds(arguments.teachers, folder)
    members = getattr(trainer, "members_cpu_seconds", None)
    if members is not None:
        record["members_cpu_seconds"] = members
    soft_targets = getattr(trainer, "soft_targets_report", None)
    if soft_targets is not None:
        record["soft_targets"] = soft_targets
    require_sound_weights(trained)
    split, known = trainer.eval_dataset, _known_figures(trainer)
    if dense is not None:
        trained, of_both, known = dense.join(trained, record, arguments.exclude_seen)
        record |= of_both
        split = dense.validation
        lineage = {**lineage, "made_from": {**lineage["made_from"], "dense_run": of_both["dense"]["model"]}}
    start_of_choice = time.process_time()
    record["seen_items"] = choose_exclude_seen(
        trained, split, getattr(arguments, "exclude_seen", None), arguments.per_device_eval_batch_size, known
    )
    record["cpu_seconds"] += time.process_time() - start_of_choice
    if finished:
        record |= _what_it_took(run.results / TRAINING_FILE, record["steps"])
    with whole_folder(run.model) as folder:
        save_model(trained, folder, item_tokenizer)
        settings = arguments.to_dict() | {"resume_from_checkpoint": None}
        write_json(spelled_out(settings), folder / "training_args.json")
        write_lineage(folder, lineage)
    write_json(spelled_out(record), run.results / TRAINING_FILE)
    write_model_card(run.model, run.results)
    best = record["best_validation_ndcg@10"]
    chosen = "never evaluated" if best is None else f"best validation NDCG@10 {best:.4f}"
    logger.info("%s, saved to %s", chosen, run.model)


def _known_figures(trainer: Any) -> dict[str, float]:
    """What the training has measured of lists with the history's items and without them, see [`RULES`]."""
    if hasattr(trainer, "seen_figures"):
        return trainer.seen_figures
    arguments, best = trainer.args, trainer.state.best_metric
    is_best = arguments.load_best_model_at_end and arguments.metric_for_best_model in (f"ndcg@{K}", f"eval_ndcg@{K}")
    return {"history_in_lists": best} if is_best and best is not None else {}


def _what_it_took(path: Path, steps: int) -> dict[str, Any]:
    """What the record of a finished training says of its cost, which starting it again does not change."""
    try:
        record = read_json(path)
        with naming(path):
            for name in COST:
                number(record[name])
    except (OSError, ValueError) as error:
        if path.exists():  # otherwise the training was killed before it was written
            logger.warning("what the training took is not known, and is written anew: %s", error)
        return {}
    if record.get("steps") != steps:
        return {}
    return {name: value for name, value in record.items() if name not in OF_THE_MODEL}
