"""The trainer of encoder-decoders over ordered codes."""

from hf_genrec.training.loss_terms import LossTermsTrainer


class CodeT5Trainer(LossTermsTrainer):
    """`LossTermsTrainer` for a `CodeT5`, whose terms are means over codes, as the step's loss is."""

    def num_targets(self, inputs) -> int:
        return inputs["labels"].numel()
