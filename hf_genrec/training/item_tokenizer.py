"""Training an item tokenizer by transformers' `Trainer`."""

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_genrec.item_tokenizers.learned_item_tokenizer import LearnedItemTokenizer
from hf_genrec.item_tokenizers.modeling_letter import LetterTokenizer
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.codebooks import fill_unused, sample_rows
from hf_genrec.semantic_ids.learned import build_learned_tokenizer, cluster_codes, finish_learned_tokenizer
from hf_genrec.training.trainer import require_finite_loss

REVIVALS = 20  # times that unused codes are put to use, evenly over the training but for its last quarter


class ItemVectors(Dataset):
    """Rows of arrays (N, ...) by the name of the input they are, fetched a batch at a time."""

    def __init__(self, **inputs: np.ndarray):
        self.inputs = {name: torch.from_numpy(rows) for name, rows in inputs.items()}

    def __len__(self) -> int:
        return len(self.inputs["embeddings"])

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        return {name: values[rows] for name, values in self.inputs.items()}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch


class ItemTokenizerTrainer(Trainer):
    """`Trainer` whose log lines have the terms of the loss beside it, `loss_reconstruction` and so on: means over the
    steps since the line before, of this process."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._terms: dict[str, torch.Tensor] = {}
        self._steps = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        require_finite_loss(loss, self.state.global_step + 1, self.args.learning_rate)
        for name, value in outputs.losses.items():
            self._terms[name] = self._terms.get(name, 0) + value.detach()
        self._steps += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._steps:
            logs |= {f"loss_{name}": float(total) / self._steps for name, total in self._terms.items()}
            self._terms, self._steps = {}, 0
        super().log(logs, *args, **kwargs)


class KeepCodesInUse(TrainerCallback):
    """
    Puts codes that no item has to use, `REVIVALS` times in the first three quarters of the training.

    Args:
        vectors: (N, D), the items, or a sample of them.
    """

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors
        self.revived = 0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        last = state.max_steps * 3 // 4
        if state.global_step <= last and state.global_step % max(1, last // REVIVALS) == 0:
            self.revived += fill_unused(model, self.vectors)


class ClusterCodes(TrainerCallback):
    """Clusters the codes of a LETTER tokenizer anew before every epoch."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        cluster_codes(model, self.seed)


def train_item_tokenizer(
    parts: dict[str, np.ndarray],
    arguments: TokenizerArguments,
    collaborative: np.ndarray | None = None,
    **training: Any,
) -> tuple[LearnedItemTokenizer, dict[str, Any]]:
    """
    Build the tokenizer that `arguments` name and train it on all items. The same arguments on the same machine, with
    the same number of processes and threads, give the same weights.

    Args:
        parts: by name, (N, D_part) each; rows are items.
        collaborative: (N, latent_dim), what an `aligned` tokenizer reads beside them in training; zero where missing.
        training: further arguments of transformers' `TrainingArguments`, such as `use_cpu`.

    Returns:
        The tokenizer, and a record of the training: `cpu_seconds`, `revived_codes` during it, `filled_codes` after it,
        and the `log`.

    Raises:
        ValueError: as `fit_residual_kmeans`; or collaborative vectors of another length than the codewords.
    """
    start = time.process_time()
    inputs = {}
    if arguments.aligned:
        inputs["collaborative"] = _checked(collaborative, arguments)
    set_seed(arguments.tokenizer_seed)
    tokenizer = build_learned_tokenizer(parts, arguments)
    vectors = tokenizer.join(**parts).numpy()
    in_use = KeepCodesInUse(vectors[sample_rows(len(vectors), arguments.tokenizer_seed)])
    callbacks: list[TrainerCallback] = [in_use]
    if isinstance(tokenizer, LetterTokenizer) and arguments.diversity_weight:
        callbacks.append(ClusterCodes(arguments.tokenizer_seed))
    with tempfile.TemporaryDirectory() as folder:
        trainer = ItemTokenizerTrainer(
            tokenizer,
            TrainingArguments(
                folder,
                num_train_epochs=arguments.tokenizer_epochs,
                per_device_train_batch_size=arguments.tokenizer_batch_size,
                learning_rate=arguments.tokenizer_learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.02,
                seed=arguments.tokenizer_seed,
                logging_steps=0.1,
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                dataloader_pin_memory=torch.cuda.is_available(),
                **training,
            ),
            train_dataset=ItemVectors(embeddings=vectors, **inputs),
            data_collator=ItemVectors.collate,
            callbacks=callbacks,
        )
        trainer.train()
    record = {
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "num_weights": tokenizer.num_parameters(),
        "revived_codes": in_use.revived,
        "filled_codes": finish_learned_tokenizer(tokenizer, vectors, arguments.tokenizer_seed),
        "cpu_seconds": time.process_time() - start,
        "log": trainer.state.log_history,
    }
    return tokenizer, record


def _checked(collaborative: np.ndarray | None, arguments: TokenizerArguments) -> np.ndarray:
    found = None if collaborative is None else collaborative.shape[1]
    if collaborative is None or found != arguments.latent_dim:
        raise ValueError(
            f"letter compares codewords with collaborative vectors, but latent_dim is {arguments.latent_dim} and these "
            f"have {found} numbers: set latent_dim: {found or 'the length of these'}"
        )
    return collaborative
