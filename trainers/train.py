"""Train on prepared data, tokenized where the method needs codes; the best checkpoint becomes the run's `model/`.

hf-genrec train --config NAME
hf-genrec train --config NAME --resume_from_checkpoint last
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train --config NAME
accelerate launch --config_file configs/accelerate/zero2.yaml -m hf_genrec.trainers.train --config NAME
"""

import sys
from collections.abc import Sequence
from typing import Any

from hf_genrec.files import require_writable
from hf_genrec.method import load_method
from hf_genrec.training.checkpoints import checkpoint_to_resume
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.finished_run import DenseRun
from hf_genrec.training.lineage import lineage_of
from hf_genrec.training.soft_targets import set_soft_targets
from hf_genrec.training.teachers import require_teachers
from hf_genrec.training.train_and_save import train_and_save


def main(config: RunConfig, callbacks: Sequence[Any] = ()) -> None:
    """Load, build, train, save. `callbacks` are `TrainerCallback`s that look on."""
    run = config.run  # now: building moves `output_dir` to the checkpoints
    require_writable(run.path, run.checkpoints, run.results)
    require_teachers(config.training.teachers or {}, config.teachers_dir)
    method = load_method(config.model.method)
    lineage = lineage_of(config)
    dense = DenseRun.of(config)  # what does not fit is said before hours of training
    resume = checkpoint_to_resume(run.checkpoints, config.training.resume_from_checkpoint, lineage)
    trainer = method.build_trainer(config)
    set_soft_targets(trainer)
    for callback in callbacks:
        trainer.add_callback(callback)
    tokenizer = run.semantic_ids / "item_tokenizer" if method.codes else None
    train_and_save(trainer, run, resume, lineage, tokenizer, dense)


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
