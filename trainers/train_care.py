"""Train CARE on prepared, tokenized data; the best checkpoint becomes the run folder's `model/`.

hf-genrec train --config care/ml-100k
hf-genrec train --config care/ml-100k --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_care --config care/ml-100k
accelerate launch --config_file configs/accelerate/zero2.yaml -m hf_genrec.trainers.train_care --config care/ml-100k
"""

import sys

from transformers import set_seed

from hf_genrec.data.prepared import PreparedData
from hf_genrec.models.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.trainers.train_and_save import train_and_save
from hf_genrec.training.arguments import CareArguments
from hf_genrec.training.build import build_care, build_examples, build_processor, start_from_centroids
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.trainer import GenRecTrainer, subsample


def main(config: RunConfig) -> None:
    """Load, build, train, save."""
    run = config.run
    trainer = build_trainer(config)
    resume = checkpoint_to_resume(run.checkpoints, config.training.resume_from_checkpoint)
    train_and_save(trainer, run, resume, run.semantic_ids / "item_tokenizer")


def build_trainer(config: RunConfig) -> GenRecTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and examples."""
    if not isinstance(config.model, CareArguments):
        raise ValueError(f"train_care trains method: care, the configuration has method: {config.model.method}")
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_processor(prepared, semantic_ids, config.data.max_history, config.model.base_model)
    model = build_care(config.model, processor)
    if config.model.code_embeddings == "centroids":
        tokenizer = ResidualKMeansTokenizer.from_pretrained(run.semantic_ids / "item_tokenizer")
        start_from_centroids(model, processor, tokenizer.codebooks, arguments.seed)
    examples, collator = build_examples(arguments, prepared.train_sequences(), processor)
    return GenRecTrainer(
        model,
        arguments,
        train_dataset=examples,
        eval_dataset=subsample(prepared.split("validation"), arguments.eval_users, arguments.seed),
        data_collator=collator,
    )


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
