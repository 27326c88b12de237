"""The trainer of STREAM: every term of its loss."""

from typing import Any

from hf_genrec.training.loss_terms import LossTermsTrainer


class StreamTrainer(LossTermsTrainer):
    """
    `LossTermsTrainer` for `StreamForConditionalGeneration`.

    Attributes:
        earlier_cpu_seconds: what traces took that an earlier start of this training has made.
    """

    earlier_cpu_seconds = 0.0

    def num_targets(self, inputs) -> int:
        config = self.accelerator.unwrap_model(self.model).config
        rows, columns = inputs["labels"].shape  # the terms are means over thinking tokens and codes
        return rows * (columns - (columns > config.num_levels))

    def train(self, resume_from_checkpoint: Any = None, *args, **kwargs):
        if not resume_from_checkpoint:  # else the log has it
            self._cpu_start -= self.earlier_cpu_seconds
        return super().train(resume_from_checkpoint, *args, **kwargs)
