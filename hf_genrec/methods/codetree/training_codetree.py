"""Prepared, tokenized data and arguments -> CodeTree's processor, model, rows and trainer."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from transformers import set_seed

from hf_genrec.data.examples import Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.data.windows import ItemWindows
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.methods.codetree.arguments import CodeTreeArguments
from hf_genrec.methods.codetree.modeling_codetree import CodeTreeConfig, CodeTreeForConditionalGeneration
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.training.code_t5_training import build_code_processor
from hf_genrec.training.config import RunConfig
from hf_genrec.training.loss_terms import LossTermsTrainer
from hf_genrec.training.trainer import subsample


class WindowCollator:
    """
    Batches of windows: the prompt of all items but the last, and the codes of each item that is a target.

    Args:
        processor: prompts and token ids of the catalogue.
    """

    def __init__(self, processor: GenRecProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Args:
            examples: dicts with `items` and `first_target`, see `ItemWindows`.

        Returns:
            `input_ids`, `attention_mask` (B, S), padded on the left, and `labels` (B, 1 + S // L, L), -100 where there
            is no target; and `target_places` (n,), the targets among all items of `labels`.
        """
        prompts = self.processor.prompts([example["items"][:-1] for example in examples])
        width = max(len(example["items"]) for example in examples)
        labels = np.full((len(examples), width, self.processor.num_levels), -100)
        for line, example in enumerate(examples):
            targets = example["items"][example["first_target"] :]
            labels[line, width - len(targets) :] = self.processor.token_ids[targets]
        places = np.flatnonzero(labels[..., 0] != -100)
        return {**prompts, "labels": torch.from_numpy(labels), "target_places": torch.from_numpy(places)}


class CodeTreeTrainer(LossTermsTrainer):
    """`LossTermsTrainer` for `CodeTreeForConditionalGeneration`, on batches of `WindowCollator`."""

    def num_targets(self, inputs) -> int:
        return len(inputs["target_places"])


def build_trainer(config: RunConfig) -> CodeTreeTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and rows."""
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_code_processor(prepared, semantic_ids, config.data.max_history)
    targets = cast(Targets, arguments.targets)
    return CodeTreeTrainer(
        build_codetree(config.model, processor),
        arguments,
        train_dataset=ItemWindows(prepared.train_sequences(), targets, processor.max_history, arguments.packing),
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=WindowCollator(processor),
    )


def build_codetree(arguments: CodeTreeArguments, processor: GenRecProcessor) -> CodeTreeForConditionalGeneration:
    """A CodeTree model of a processor's items, with random weights."""
    model = CodeTreeForConditionalGeneration(
        CodeTreeConfig(
            codebook_sizes=processor.codebook_sizes,
            num_items=len(processor.item_ids),
            max_history=processor.max_history,
            **arguments.config_fields(),
        )
    )
    model.processor = processor
    return model
