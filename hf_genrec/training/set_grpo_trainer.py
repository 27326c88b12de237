"""TRL's GRPO for encoder-decoders that write sets of codes (REG4Rec: PARS and MSRA)."""

from hf_genrec.training.grpo_trainer import GenRecGRPOTrainer
from hf_genrec.training.set_policy import group_path_logits, path_log_probs, sample_paths


class SetGRPOTrainer(GenRecGRPOTrainer):
    """
    [`GenRecGRPOTrainer`] whose completions are the M codes of an item in the order in which they were chosen.

    The reward functions are given `category_probs` besides, (M, categories) of each answer: the category distribution
    predicted at every step.
    """

    def _prepare_constraint(self) -> None:
        self.item_sets = self.processor.item_sets.to(self.accelerator.device)
        self.code_order = self.model.config.code_order

    def _sample(self, model, inputs, num_samples):
        codes, log_probs, categories = sample_paths(model, inputs, self.item_sets, num_samples, self.temperature)
        return codes, {"scores": log_probs.sum(-1), "category_probs": categories}

    def _log_probs(self, model, input_ids, attention_mask, num_codes):
        logits = group_path_logits(model, input_ids, attention_mask, num_codes)
        codes = input_ids[:, -num_codes:]
        return path_log_probs(logits, codes, self.item_sets, self.temperature, self.code_order)
