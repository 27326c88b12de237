"""Train ReaRec on prepared data; the best checkpoint becomes the run folder's `model/`.

hf-genrec train --config rearec/ml-100k
hf-genrec train --config rearec/ml-100k --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_rearec --config rearec/ml-100k
"""

import sys

from transformers import set_seed

from hf_genrec.data.prepared import PreparedData
from hf_genrec.trainers.train_and_save import train_and_save
from hf_genrec.training.build_rearec import build_item_processor, build_rearec, build_rows, text_vectors
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.rearec_arguments import ReaRecArguments
from hf_genrec.training.rearec_trainer import ReaRecTrainer
from hf_genrec.training.trainer import subsample


def main(config: RunConfig) -> None:
    """Load, build, train, save."""
    run = config.run
    trainer = build_trainer(config)
    resume = checkpoint_to_resume(run.checkpoints, config.training.resume_from_checkpoint)
    train_and_save(trainer, run, resume)


def build_trainer(config: RunConfig) -> ReaRecTrainer:
    """The trainer of a run whose data are prepared, with its model and rows."""
    if not isinstance(config.model, ReaRecArguments):
        raise ValueError(f"train_rearec trains method: rearec, the configuration has method: {config.model.method}")
    run, arguments = config.run, config.training
    prepared = PreparedData.load(run.data)
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    # Before the seed is set: embedding texts may draw from the generator, reading them from the cache does not.
    vectors = text_vectors(prepared.items, config.tokenizer, config.model.text_dim) if config.model.reads_text else None
    set_seed(arguments.seed)
    model = build_rearec(config.model, build_item_processor(prepared, config.data.max_history), vectors)
    rows, collator = build_rows(arguments, prepared.train_sequences(), model.config)
    return ReaRecTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=subsample(prepared.split("validation"), arguments.eval_users, arguments.seed),
        data_collator=collator,
        noise_start_epoch=config.model.noise_start_epoch,
    )


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
