"""Post-training of decoders that write ordered codes, with aligned logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_genrec.data.collator import NextItemCollator
from hf_genrec.method import PostTraining
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.grpo_trainer import GenRecGRPOTrainer
from hf_genrec.post_training.item_rewards import SequenceRewards


def aligned_logits(trained_whole: Callable[[Any], list[str]] = lambda config: []) -> PostTraining:
    """
    Args:
        trained_whole: from a model's configuration to the modules that LoRA trains as they are.
    """
    return PostTraining(GenRecGRPOTrainer, build_rewards, loss_batch, trained_whole)


def build_rewards(arguments: GRPOArguments, model, item_tokenizer: Path) -> list[Callable]:
    """
    TRL's reward functions, in the order of `arguments.rewards`.

    Raises:
        ValueError: for a reward that is none of the model's.
    """
    rewards = SequenceRewards(model.processor, arguments.horizon_decay, int(arguments.num_generations or 0))
    return rewards.chosen(arguments.rewards)


def loss_batch(model, examples: list[dict[str, Any]]) -> dict[str, Any]:
    return NextItemCollator(model.processor)(examples)
