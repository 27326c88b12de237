"""Train REG4Rec on prepared, tokenized data; the best checkpoint becomes the run folder's `model/`.

hf-genrec train --config reg4rec/ml-100k
hf-genrec train --config reg4rec/ml-100k --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_reg4rec --config reg4rec/ml-100k
"""

import logging
import sys

from transformers import set_seed

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import write_json
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.trainers.train_and_save import train_and_save
from hf_genrec.training.build_reg4rec import (
    build_reg4rec,
    build_set_examples,
    build_set_processor,
    category_report,
)
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.reg4rec_arguments import Reg4RecArguments
from hf_genrec.training.reg4rec_trainer import Reg4RecTrainer
from hf_genrec.training.trainer import subsample

logger = logging.getLogger(__name__)


def main(config: RunConfig) -> None:
    """Load, build, train, save."""
    run = config.run
    trainer = build_trainer(config)
    resume = checkpoint_to_resume(run.checkpoints, config.training.resume_from_checkpoint)
    categories = category_report(trainer.model.processor)
    logger.info(
        "%d categories, the largest has %.1f %% of the items",
        categories["num_categories"],
        100 * categories["majority_share"],
    )
    if trainer.is_world_process_zero():
        write_json(categories, run.results / "categories.json")
    train_and_save(trainer, run, resume, run.semantic_ids / "item_tokenizer")


def build_trainer(config: RunConfig) -> Reg4RecTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and examples."""
    if not isinstance(config.model, Reg4RecArguments):
        raise ValueError(f"train_reg4rec trains method: reg4rec, the configuration has method: {config.model.method}")
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_set_processor(prepared, semantic_ids, config.data.max_history, config.model)
    model = build_reg4rec(config.model, processor)
    examples, collator = build_set_examples(arguments, prepared.train_sequences(), processor)
    return Reg4RecTrainer(
        model,
        arguments,
        train_dataset=examples,
        eval_dataset=subsample(prepared.split("validation"), arguments.eval_users, arguments.seed),
        data_collator=collator,
        confidence_order_from=config.model.confidence_order_from,
    )


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
