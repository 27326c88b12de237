"""What every training program ends with: train, write down what it took, export the best checkpoint."""

import logging
import resource
import time
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import EarlyStoppingCallback, IntervalStrategy

from hf_genrec.catalogue.flat_code import FlatCode, require_flat
from hf_genrec.files import write_json
from hf_genrec.hub import export_model, write_model_card
from hf_genrec.training.config import RunFolder
from hf_genrec.training.trainer import GenRecTrainer

logger = logging.getLogger(__name__)


def train_and_save(
    trainer: GenRecTrainer, run: RunFolder, resume: str | None, item_tokenizer: Path | None = None
) -> None:
    """
    Train, and write the run folder's `results/training.json` and `model/`.

    Args:
        resume: the checkpoint to go on from, or `None`.
        item_tokenizer: folder of the item tokenizer that is exported with the model.
    """
    arguments: Any = trainer.args
    examples: Any = trainer.train_dataset
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, FlatCode):  # one with adapters is saved when they are merged
        require_flat(type(model))  # now, and not after an epoch
    if arguments.early_stopping_patience is not None and arguments.eval_strategy != IntervalStrategy.NO:
        trainer.add_callback(EarlyStoppingCallback(arguments.early_stopping_patience))
    logger.info("%s weights, %s training targets", f"{model.num_parameters():,}", f"{examples.num_targets:,}")

    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume)
    if trainer.is_world_process_zero():
        record = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": trainer.state.log_history[-1]["cpu_seconds"],
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "resumed_from": resume,
            "num_weights": model.num_parameters(),
            "num_targets": examples.num_targets,
            "num_processes": arguments.world_size,
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "best_step": trainer.state.best_global_step,
            "best_validation_ndcg@10": trainer.state.best_metric,
            "log": trainer.state.log_history,
        }
        write_json(record, run.results / "training.json")
        export_model(trainer.accelerator.unwrap_model(trainer.model), run.model, arguments, item_tokenizer)
        write_model_card(run.model, run.results)
        best = trainer.state.best_metric
        chosen = "never evaluated" if best is None else f"best validation NDCG@10 {best:.4f}"
        logger.info("%s, saved to %s", chosen, run.model)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
