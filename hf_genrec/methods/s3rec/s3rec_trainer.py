"""The trainer of S3-Rec: it starts from the weights of a pretraining."""

import time
from typing import Any

from transformers import set_seed

from hf_genrec.methods.s3rec.pretraining_s3rec import Pretraining
from hf_genrec.training.trainer import GenRecTrainer


class S3RecTrainer(GenRecTrainer):
    """
    `GenRecTrainer` for `S3RecForNextItem`.

    Args:
        pretraining (*optional*): done before the first step, or taken where it is done; what it took counts as this
            training's cost. A resumed training does not need it any more.
    """

    def __init__(self, *args, pretraining: Pretraining | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.pretraining = pretraining

    def train(self, resume_from_checkpoint: Any = None, *args, **kwargs):
        if self.pretraining is not None and not resume_from_checkpoint:
            sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
            weights, cpu_seconds = self.pretraining.weights(self.lineage, sharded)
            model: Any = self.accelerator.unwrap_model(self.model)
            model.model.load_state_dict(weights)
            self._cpu_start = time.process_time() - cpu_seconds
            set_seed(self.args.seed)  # whether the pretraining was done before or now
        return super().train(resume_from_checkpoint, *args, **kwargs)
