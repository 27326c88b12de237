"""A trained run and arguments -> the policy, prompts and rewards of post-training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig

from hf_genrec.data.examples import Targets, target_positions
from hf_genrec.decoding.shared_keys_values import set_hardness
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.method import load_method, load_model, method_of, read_config
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.layer_precision import LayerPrecisionCallback


def load_policy(folder: Path, disable_dropout: bool = True) -> Any:
    """
    A saved model to train further, with its processor.

    Args:
        disable_dropout: all dropout is set to 0, so that samples and their log-probabilities are of one policy. The
            gates of a shared pool are hard in any case, as they are where samples are drawn.

    Raises:
        ValueError: for a model that writes no codes.
    """
    name = method_of(folder)
    if load_method(name).post_training is None:
        raise ValueError(f"{folder} holds a {name} model, whose method has no post-training")
    rates = [name for name in read_config(folder) if name.endswith(("dropout", "dropout_rate"))]
    dropout = dict.fromkeys(rates, 0.0) if disable_dropout else {}
    model = load_model(folder, **dropout)
    set_hardness(model, 1.0)
    return model


def build_prompts(sequences: Sequence[np.ndarray], targets: str, max_history: int, horizon: int) -> Dataset:
    """
    A row per training target, made when it is read: `prompt`, the at most `max_history` items before it, (n,) catalogue
    rows, oldest first; and `targets`, it and the items after it, (horizon,) catalogue rows, -1 behind the sequence's
    end.

    Args:
        sequences: per user the training items as catalogue rows, oldest first.
        targets: `"all"` or `"last"`, see `target_positions`.
    """
    users, positions = target_positions(sequences, cast(Targets, targets))

    def rows(batch: dict[str, list[int]]) -> dict[str, list[np.ndarray]]:
        prompts, following = [], []
        for user, position in zip(batch["user"], batch["position"], strict=True):
            prompts.append(sequences[user][max(position - max_history, 0) : position])
            next_items = sequences[user][position : position + horizon]
            following.append(np.pad(next_items, (0, horizon - len(next_items)), constant_values=-1))
        return {"prompt": prompts, "targets": following}

    dataset = Dataset.from_dict({"user": users, "position": positions}).with_transform(rows)
    dataset.num_targets = len(dataset)  # as the examples of the other trainings say it
    return dataset


def lora_config(arguments: GRPOArguments, trained_whole: list[str]) -> LoraConfig | None:
    """
    Adapters of every linear layer but the output's, and some modules trained as they are; `None` without `lora_r`.
    """
    if arguments.lora_r is None:
        return None
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        target_modules="all-linear",
        modules_to_save=trained_whole or None,
    )


def code_vectors(processor, item_tokenizer: Path) -> np.ndarray:
    """
    The item tokenizer's codewords by token id, (vocabulary, D) float32; 0 for tokens without one.

    Raises:
        FileNotFoundError: if there is no item tokenizer, as with published codes.
    """
    if not item_tokenizer.is_dir():
        raise FileNotFoundError(
            f"rewards: path adds up codewords of the item tokenizer, and there is no {item_tokenizer}: leave path out"
        )
    codebooks = load_item_tokenizer(item_tokenizer).codebooks
    vectors = np.zeros((len(processor.tokenizer), codebooks[0].shape[1]), dtype=np.float32)
    # A code that was added to tell colliding items apart has no codebook.
    for token_ids, codebook in zip(processor.code_token_ids, codebooks, strict=False):
        vectors[token_ids] = codebook.detach().numpy()
    return vectors


def layer_precision(
    arguments: GRPOArguments, model, prompts: Dataset, loss_batch: Callable, rows: int = 64
) -> LayerPrecisionCallback:
    """
    The precision of the layers in training; `adaptive` decides by the next-item loss of some rows of the data.

    Args:
        loss_batch: from the model and examples to the batch whose loss it is.
    """
    chosen = np.random.default_rng(arguments.seed).choice(len(prompts), min(rows, len(prompts)), replace=False)
    examples = [{"history": row["prompt"], "target": row["targets"][0]} for row in prompts.select(chosen)]
    batch = loss_batch(model, examples)

    def loss(policy: torch.nn.Module) -> torch.Tensor:
        device = next(policy.parameters()).device
        return policy(
            **{name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        ).loss

    return LayerPrecisionCallback(
        str(arguments.layer_precision),
        loss,
        arguments.layer_precision_steps,
        arguments.layer_precision_budget,
        seed=arguments.seed,
    )
