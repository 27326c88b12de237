"""TRL's GRPO for models that write items under a trie."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler

from hf_genrec.catalogue.evaluation_mode import evaluation_mode
from hf_genrec.catalogue.transformers_bridge import overrides
from hf_genrec.post_training.grpo_arguments import GRPOArguments
from hf_genrec.post_training.trie_policy import code_log_probs, group_logits, sample_items
from hf_genrec.training.trainer import GenRecTrainer


class EpochRepeatSampler(RepeatSampler):
    """TRL's order of prompts, drawn from `seed + epoch` alone, so that a resumed training goes on where it was."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + epoch)


@overrides(
    "_get_train_sampler",
    "_tokenize_prompts",
    "_generate_single_turn",
    "_calculate_rewards",
    "_get_per_token_logps_and_entropies",
    "_evaluate",
)
class GenRecGRPOTrainer(GenRecTrainer, GRPOTrainer):
    """
    `GRPOTrainer` whose prompts are histories and whose completions are items: L codes, and no end token.

    Samples and log-probabilities are those of one policy, the softmax over the codes that are legal under the trie
    (`trie_policy`). The reference of the divergence is a frozen copy of the weights the model comes with; with LoRA it
    is the model without its adapters. Evaluation recommends, as everywhere ([`GenRecTrainer`]). The model it starts
    from is a checkpoint like any other (with `eval_on_start` and `load_best_model_at_end`): training ends with it
    unless another one is better.

    Args:
        model: a decoder with its processor, on whose catalogue it is trained.
        reward_funcs: TRL's reward functions; beside the columns of the data they are given `scores`, the
            log-probability of each answer.
        args ([`GRPOArguments`])
        train_dataset: a `datasets.Dataset` with the column `prompt`, histories as (n,) arrays of catalogue rows, and
            columns for the rewards.
        eval_dataset ([`EvaluationSplit`])
        peft_config (*optional*): adapters to train instead of the weights. They are merged when the training ends.

    Raises:
        ValueError: under DeepSpeed ZeRO-3, where the reference would be a copy of weights that are elsewhere.
    """

    # As they are here, of what transformers and TRL allow.
    args: GRPOArguments
    model: Any
    train_dataset: Any
    num_generations: int
    shuffle_dataset: bool

    def __init__(self, model, reward_funcs: list[Callable], args: GRPOArguments, peft_config=None, **kwargs):
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "post-training is not made for DeepSpeed ZeRO-3: use ZeRO-2 (configs/accelerate/zero2.yaml) or torchrun"
            )
        self.processor = model.processor
        args.max_completion_length = self.processor.num_levels
        reference = None if peft_config is not None or not args.beta else _frozen_copy(model)
        # TRL would load the reference from the folder that config._name_or_path names.
        beta, args.beta = args.beta, 0.0
        super().__init__(
            model, reward_funcs, args, processing_class=self.processor.tokenizer, peft_config=peft_config, **kwargs
        )
        self.beta = args.beta = beta
        self.ref_model = None if reference is None else reference.to(self.accelerator.device)
        # Of the answers being scored, by name, for the reward functions.
        self._rollout: dict[str, np.ndarray] = {}
        self._prepare_constraint()

    def _prepare_constraint(self) -> None:
        self.trie = self.processor.trie.to(self.accelerator.device)

    # ---- samples ----

    def _get_train_sampler(self, train_dataset=None):
        return EpochRepeatSampler(
            data_source=self.train_dataset if train_dataset is None else train_dataset,
            mini_repeat_count=self.num_generations,
            batch_size=int(self.args.generation_batch_size or 0) // self.num_generations,
            repeat_count=self.num_iterations * int(self.args.steps_per_generation or 0),
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _tokenize_prompts(self, prompts: list):
        """Token ids of histories, (tokens,) arrays without padding."""
        inputs = self.processor.prompts(prompts)
        is_token = inputs["attention_mask"].bool()
        return [ids[kept].numpy() for ids, kept in zip(inputs["input_ids"], is_token, strict=True)], None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """G samples of each prompt, of which `prompt_ids` holds G copies in succession."""
        rows = [torch.from_numpy(ids) for ids in prompt_ids[::num_generations]]
        inputs = {
            "input_ids": _padded(rows, self.processor.tokenizer.pad_token_id),
            "attention_mask": _padded([torch.ones_like(ids) for ids in rows], 0),
        }
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        ) as model:
            model = model.get_base_model() if is_peft_model(model) else model
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in inputs.items()}
            codes, rollout = self._sample(model, inputs, num_generations)
        self._rollout = {name: values.flatten(0, 1).cpu().numpy() for name, values in rollout.items()}
        return codes.flatten(0, 1).tolist(), None

    def _sample(self, model, inputs, num_samples: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Codes (P, G, L) of samples, and what the rewards are told of them, (P, G, ...) each by name."""
        codes, log_probs = sample_items(model, inputs, self.trie, num_samples, self.temperature)
        return codes, {"scores": log_probs.sum(-1)}

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        told = [dict(zip(self._rollout, values, strict=True)) for values in zip(*self._rollout.values(), strict=True)]
        inputs = [example | more for example, more in zip(inputs, told, strict=True)]
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    # ---- log-probabilities ----

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        """Log-probabilities (n, L) of the codes, the last `logits_to_keep` columns, among the legal ones; entropies.
        With `ratio: path` every code has its path's, so that ratios and divergences are those of whole paths."""
        parts = []
        for rows in torch.arange(len(input_ids), device=input_ids.device).split(batch_size or len(input_ids)):
            with self.accelerator.autocast():
                parts.append(self._log_probs(model, input_ids[rows], attention_mask[rows], logits_to_keep))
        log_probs, entropies = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if self.args.ratio == "path":
            log_probs = log_probs.sum(1, keepdim=True).expand_as(log_probs)
        return log_probs, entropies if compute_entropy else None, None

    def _log_probs(self, model, input_ids, attention_mask, num_codes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies, (n, L) each."""
        logits = group_logits(model, input_ids, attention_mask, num_codes)
        return code_log_probs(logits, input_ids[:, -num_codes:], self.trie, self.temperature)

    # ---- training ----

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        if is_peft_model(self.model):  # a model like any other, to be saved and recommended with
            self.model = self.model.merge_and_unload()
        return output

    def evaluate(self, *args, **kwargs):
        with evaluation_mode(self.model):  # TRL takes what is logged meanwhile for evaluation's, not the training's
            return super().evaluate(*args, **kwargs)

    def log(self, logs, *args, **kwargs):
        metrics = self._metrics["train"]
        for name in [name for name in metrics if name.startswith("completions/")]:
            del metrics[name]  # lengths, which are all L, and how many ended with an end token: there is none
        super().log(logs, *args, **kwargs)

    def _evaluate(self, trial, *args, **kwargs):
        metrics = super()._evaluate(trial, *args, **kwargs)
        if self.state.global_step == 0 and self.args.load_best_model_at_end:
            self._determine_best_metric(metrics, trial)
            self._save_checkpoint(self.model, trial)
            # transformers takes step 0 for no step
            self.state.best_model_checkpoint = str(Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-0")
        return metrics

    def create_model_card(self, *args, **kwargs) -> None:
        """None beside the checkpoints: the exported model has a card of this library."""


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")


def _frozen_copy(model):
    processor, model.processor = model.processor, None
    copied = copy.deepcopy(model)
    model.processor = processor
    return copied.requires_grad_(False).eval()
