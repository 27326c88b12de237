"""Post-train a run's model by reinforcement learning (GRPO); the best checkpoint becomes `model/` of a new run folder.

hf-genrec grpo --config grpo/ml-100k
hf-genrec grpo --config grpo/ml-100k --pretrained runs/mine --output_dir runs/mine-grpo
python -m hf_genrec.trainers.train_grpo --config grpo/ml-100k --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_grpo --config grpo/ml-100k
"""

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from transformers import set_seed

from hf_genrec.data.prepared import PreparedData
from hf_genrec.trainers.train_and_save import train_and_save
from hf_genrec.training.build_grpo import build_prompts, build_rewards, layer_precision, load_policy, lora_config
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import RunFolder, parse_command_line, parse_grpo_config
from hf_genrec.training.grpo_arguments import GRPOArguments
from hf_genrec.training.grpo_trainer import GenRecGRPOTrainer
from hf_genrec.training.set_grpo_trainer import SetGRPOTrainer
from hf_genrec.training.trainer import subsample

logger = logging.getLogger(__name__)


def main(arguments: GRPOArguments) -> None:
    """Load, build, train, save."""
    if arguments.pretrained is None:
        raise ValueError("pretrained is missing: name the run folder to start from, for instance runs/care-ml-100k")
    source, run = RunFolder(Path(arguments.pretrained)), RunFolder(Path(str(arguments.output_dir)))
    if source.path.resolve() == run.path.resolve():
        raise ValueError(f"pretrained and output_dir are both {run.path}: give the result a folder of its own")
    model_folder, prepared = source.require_model(), PreparedData.load(source.data)
    resume = checkpoint_to_resume(run.checkpoints, arguments.resume_from_checkpoint)
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name
    if arguments.process_index == 0:
        for part in (source.data, source.semantic_ids):
            _copy_whole(part, run.path / part.name)

    set_seed(arguments.seed)
    model = load_policy(model_folder, arguments.disable_dropout)
    if model.processor.item_ids != prepared.item_ids:
        raise ValueError(f"{model_folder} was trained on another catalogue than {source.data} holds: train it again")
    prompts = build_prompts(
        prepared.train_sequences(), arguments.targets, model.processor.max_history, arguments.horizon
    )
    trainer_class = SetGRPOTrainer if model.config.is_encoder_decoder else GenRecGRPOTrainer
    trainer = trainer_class(
        model,
        build_rewards(arguments, model, model_folder / "item_tokenizer"),
        arguments,
        peft_config=lora_config(arguments, model),
        train_dataset=prompts,
        eval_dataset=subsample(prepared.split("validation"), arguments.eval_users, arguments.seed),
    )
    if arguments.layer_precision is not None:
        trainer.add_callback(layer_precision(arguments, model, prompts))
    train_and_save(trainer, run, resume, model_folder / "item_tokenizer")
    if trainer.is_world_process_zero() and trainer.state.best_global_step == 0:
        logger.warning(
            "of all checkpoints the model it started from has the best validation NDCG@10 (%.4f): "
            "%s is that model again",
            trainer.state.best_metric,
            run.model,
        )


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, unless it is there already or there is none; it appears whole."""
    if target.exists() or not source.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        shutil.copytree(source, Path(temporary) / target.name)
        os.replace(Path(temporary) / target.name, target)


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:], parse_grpo_config))
