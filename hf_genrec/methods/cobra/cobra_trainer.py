"""The trainer of COBRA."""

from hf_genrec.training.loss_terms import LossTermsTrainer


class CobraTrainer(LossTermsTrainer):
    """`LossTermsTrainer` for `CobraForCausalLM`, on batches of `CascadeCollator`."""

    def num_targets(self, inputs) -> int:
        return len(inputs["target_places"])
