"""TRL's GRPO for encoder-decoders that write sets of codes (REG4Rec: PARS and MSRA)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_genrec.method import PostTraining
from hf_genrec.methods.reg4rec.code_set_collator import CodeSetCollator
from hf_genrec.methods.reg4rec.set_policy import group_path_logits, path_log_probs, sample_paths
from hf_genrec.post_training.build_grpo import code_vectors
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.grpo_trainer import GenRecGRPOTrainer
from hf_genrec.post_training.item_rewards import SetRewards


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


def build_rewards(arguments: GRPOArguments, model, item_tokenizer: Path) -> list[Callable]:
    """
    TRL's reward functions, in the order of `arguments.rewards`.

    Args:
        item_tokenizer: folder of the item tokenizer, whose codewords `path` adds up.

    Raises:
        ValueError: for a reward that is none of the model's.
        FileNotFoundError: if `path` is asked for and there is no item tokenizer.
    """
    processor = model.processor
    codewords = code_vectors(processor, item_tokenizer) if "path" in arguments.rewards else None
    rewards = SetRewards(
        processor,
        arguments.horizon_decay,
        int(arguments.num_generations or 0),
        processor.categories,
        codewords,
        arguments.path_top_n,
        arguments.path_errors,
    )
    return rewards.chosen(arguments.rewards)


def loss_batch(model, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """One order of the codes for all decisions; by default each call would draw its own."""
    orders = torch.arange(model.processor.num_levels).expand(len(examples), -1)
    return CodeSetCollator(model.processor)(examples) | {"orders": orders}


POST_TRAINING = PostTraining(SetGRPOTrainer, build_rewards, loss_batch)
