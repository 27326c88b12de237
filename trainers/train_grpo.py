"""Post-train a run's model by reinforcement learning (GRPO); the best checkpoint becomes `model/` of a new run folder.

hf-genrec grpo --config grpo/ml-100k
hf-genrec grpo --config grpo/ml-100k --pretrained runs/mine --output_dir runs/mine-grpo
python -m hf_genrec.trainers.train_grpo --config grpo/ml-100k --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_grpo --config grpo/ml-100k
"""

import logging
import sys
from pathlib import Path

from transformers import set_seed

from hf_genrec.data.prepared import PreparedData, read_report
from hf_genrec.files import copy_folder, require_writable, weights_fingerprint
from hf_genrec.method import load_method
from hf_genrec.post_training.build_grpo import build_prompts, layer_precision, load_policy, lora_config
from hf_genrec.post_training.grpo_arguments import GRPOArguments, parse_grpo_config
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import parse_command_line
from hf_genrec.training.lineage import require_codes_of, require_model_of, training_settings
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.train_and_save import train_and_save
from hf_genrec.training.trainer import subsample

logger = logging.getLogger(__name__)


def main(arguments: GRPOArguments) -> None:
    """Load, build, train, save."""
    if arguments.pretrained is None:
        raise ValueError("pretrained is missing: name the run folder to start from, for instance runs/mine")
    source, run = RunFolder(Path(arguments.pretrained)), RunFolder(Path(str(arguments.output_dir)))
    if source.path.resolve() == run.path.resolve():
        raise ValueError(f"pretrained and output_dir are both {run.path}: give the result a folder of its own")
    require_writable(run.path, run.checkpoints, run.results)
    model_folder, prepared = source.require_model(), PreparedData.load(source.data)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    set_seed(arguments.seed)
    model = load_policy(model_folder, arguments.disable_dropout)
    remedy = f"train {source.path} again"
    found = require_model_of(model_folder, prepared, model.processor.item_ids, remedy)["made_from"]
    require_codes_of(model_folder, source.semantic_ids, found, remedy)
    made_from = found | {"pretrained": weights_fingerprint(model_folder)}
    lineage = {"made_from": made_from, "model": {}, "training": training_settings(arguments)}
    resume = checkpoint_to_resume(run.checkpoints, arguments.resume_from_checkpoint, lineage)
    post_training = load_method(model.config.model_type).post_training()  # type: ignore[misc]  # or load_policy refuses
    rewards = post_training.build_rewards(arguments, model, model_folder / "item_tokenizer")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name
    if arguments.process_index == 0:
        for part in (source.data, source.semantic_ids):
            copy_folder(part, run.path / part.name)
        if read_report(run.data)["fingerprint"] != prepared.fingerprint:
            raise ValueError(
                f"{run.data} holds other data than {source.data}: delete {run.path}, or use another output_dir"
            )

    prompts = build_prompts(
        prepared.train_sequences(), arguments.targets, model.processor.max_history, arguments.horizon
    )
    trainer = post_training.trainer(
        model,
        rewards,
        arguments,
        peft_config=lora_config(arguments, post_training.trained_whole(model.config)),
        train_dataset=prompts,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
    )
    if arguments.layer_precision is not None:
        trainer.add_callback(layer_precision(arguments, model, prompts, post_training.loss_batch))
    train_and_save(trainer, run, resume, lineage, model_folder / "item_tokenizer")
    if trainer.is_world_process_zero() and trainer.state.best_global_step == 0:
        logger.warning(
            "of all checkpoints the model it started from has the best validation NDCG@10 (%.4f): "
            "%s is that model again",
            trainer.state.best_metric,
            run.model,
        )


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:], parse_grpo_config))
