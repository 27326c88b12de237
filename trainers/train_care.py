"""Train CARE on prepared, tokenized data; the best checkpoint becomes the run folder's `model/`.

hf-genrec train --config care/ml-100k
hf-genrec train --config care/ml-100k --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_care --config care/ml-100k
accelerate launch --config_file configs/accelerate/zero2.yaml -m hf_genrec.trainers.train_care --config care/ml-100k
"""

import logging
import resource
import sys
import time

import torch.distributed
from transformers import EarlyStoppingCallback, set_seed

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import write_json
from hf_genrec.hub import export_model, write_model_card
from hf_genrec.models.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.training.build import build_care, build_examples, build_processor, start_from_centroids
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.trainer import GenRecTrainer, subsample

logger = logging.getLogger(__name__)


def main(config: RunConfig) -> None:
    """Load, build, train, save."""
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    resume = checkpoint_to_resume(run.checkpoints, arguments.resume_from_checkpoint)
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_processor(prepared, semantic_ids, config.data.max_history, config.model.base_model)
    model = build_care(config.model, processor)
    if config.model.code_embeddings == "centroids":
        tokenizer = ResidualKMeansTokenizer.from_pretrained(run.semantic_ids / "item_tokenizer")
        start_from_centroids(model, processor, tokenizer.codebooks, arguments.seed)
    examples, collator = build_examples(arguments, prepared.train_sequences(), processor)
    callbacks = []
    if arguments.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    trainer = GenRecTrainer(
        model,
        arguments,
        train_dataset=examples,
        eval_dataset=subsample(prepared.split("validation"), arguments.eval_users, arguments.seed),
        data_collator=collator,
        callbacks=callbacks,
    )
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
        export_model(
            trainer.accelerator.unwrap_model(trainer.model), run.model, arguments, run.semantic_ids / "item_tokenizer"
        )
        write_model_card(run.model, run.results)
        logger.info("best validation NDCG@10 %.4f, saved to %s", trainer.state.best_metric or float("nan"), run.model)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
