"""Prepared, tokenized data and arguments -> REG4Rec's processor, model, examples and trainer."""

import logging
from collections.abc import Sequence
from typing import cast

import numpy as np
from transformers import set_seed

from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import write_json
from hf_genrec.methods.reg4rec.arguments import Reg4RecArguments
from hf_genrec.methods.reg4rec.categories import CategoryRule, item_categories
from hf_genrec.methods.reg4rec.code_set_collator import CodeSetCollator
from hf_genrec.methods.reg4rec.modeling_reg4rec import Reg4RecConfig, Reg4RecForConditionalGeneration
from hf_genrec.methods.reg4rec.processing_reg4rec import Reg4RecProcessor
from hf_genrec.methods.reg4rec.reg4rec_trainer import Reg4RecTrainer
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.config import RunConfig
from hf_genrec.training.trainer import subsample

logger = logging.getLogger(__name__)


def build_trainer(config: RunConfig) -> Reg4RecTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and examples."""
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_set_processor(prepared, semantic_ids, config.data.max_history, config.model)
    model = build_reg4rec(config.model, processor)
    examples, collator = build_set_examples(
        arguments, prepared.train_sequences(), processor, config.model.horizon, config.model.horizon_decay
    )
    trainer = Reg4RecTrainer(
        model,
        arguments,
        train_dataset=examples,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=collator,
        confidence_order_from=config.model.confidence_order_from,
        own_order_loss=config.model.own_order_loss,
    )
    categories = category_report(processor)
    logger.info(
        "%d categories, the largest has %.1f %% of the items",
        categories["num_categories"],
        100 * categories["majority_share"],
    )
    if trainer.is_world_process_zero():
        write_json(categories, run.results / "categories.json")
    return trainer


def build_set_processor(
    prepared: PreparedData, semantic_ids: SemanticIds, max_history: int, arguments: Reg4RecArguments
) -> Reg4RecProcessor:
    """
    The processor of a catalogue, whose codes are the whole vocabulary, with the items' categories.

    Raises:
        ValueError: if the codes are those of another catalogue, or a column of categories is missing.
    """
    prepared.require_catalogue(semantic_ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    rule = cast(CategoryRule, arguments.category_rule)
    categories, names = item_categories(prepared.items, arguments.category_column, rule)
    tokenizer = code_tokenizer(semantic_ids.codebook_sizes)
    return Reg4RecProcessor(tokenizer, semantic_ids.codebook_sizes, max_history, names).set_catalogue(
        prepared.item_ids, semantic_ids.codes, prepared.titles(), prepared.item_popularity(), categories
    )


def build_reg4rec(arguments: Reg4RecArguments, processor: Reg4RecProcessor) -> Reg4RecForConditionalGeneration:
    """A REG4Rec model for a processor's codes and categories, with random weights."""
    config = Reg4RecConfig(
        codebook_sizes=processor.codebook_sizes,
        num_categories=len(processor.category_names),
        max_history=processor.max_history,
        **arguments.config_fields(),
    )
    model = Reg4RecForConditionalGeneration(config)
    model.processor = processor
    return model


def build_set_examples(
    arguments: GenRecTrainingArguments,
    sequences: Sequence[np.ndarray],
    processor: Reg4RecProcessor,
    horizon: int = 1,
    horizon_decay: float = 1.0,
) -> tuple[NextItemExamples, CodeSetCollator]:
    """The training targets, a row each with the `horizon` items that come next, and the collator that makes batches of
    them."""
    # An item of a history sees the later ones, so that targets with other histories cannot share its row.
    examples = NextItemExamples(sequences, cast(Targets, arguments.targets), processor.max_history, horizon)
    return examples, CodeSetCollator(processor, horizon_decay)


def category_report(processor: Reg4RecProcessor) -> dict:
    """How many categories there are, the items of each, and the share of the largest."""
    counts = np.bincount(processor.categories, minlength=len(processor.category_names))
    return {
        "num_categories": len(counts),
        "majority_share": float(counts.max() / counts.sum()),
        "items": dict(zip(processor.category_names, counts.tolist(), strict=True)),
    }
