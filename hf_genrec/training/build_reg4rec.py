"""Catalogue and arguments -> REG4Rec's processor, model and training examples."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from hf_genrec.data.categories import CategoryRule, item_categories
from hf_genrec.data.collator import CodeSetCollator
from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.models.modeling_reg4rec import Reg4RecConfig, Reg4RecForConditionalGeneration
from hf_genrec.models.processing_reg4rec import Reg4RecProcessor
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.build import item_titles
from hf_genrec.training.reg4rec_arguments import Reg4RecArguments


def build_set_processor(
    prepared: PreparedData, semantic_ids: SemanticIds, max_history: int, arguments: Reg4RecArguments
) -> Reg4RecProcessor:
    """
    The processor of a catalogue, whose codes are the whole vocabulary, with the items' categories.

    Raises:
        ValueError: if the codes are those of another catalogue, or a column of categories is missing.
    """
    if semantic_ids.item_ids != prepared.item_ids:
        raise ValueError(
            f"The semantic IDs are of another catalogue ({len(semantic_ids.item_ids)} items, the data have "
            f"{len(prepared.item_ids)}): run `hf-genrec tokenize` again."
        )
    rule = cast(CategoryRule, arguments.category_rule)
    categories, names = item_categories(prepared.items, arguments.category_column, rule)
    tokenizer = code_tokenizer(semantic_ids.codebook_sizes)
    return Reg4RecProcessor(tokenizer, semantic_ids.codebook_sizes, max_history, names).set_catalogue(
        prepared.item_ids, semantic_ids.codes, item_titles(prepared), prepared.item_popularity(), categories
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
    arguments: GenRecTrainingArguments, sequences: Sequence[np.ndarray], processor: Reg4RecProcessor
) -> tuple[NextItemExamples, CodeSetCollator]:
    """The training targets, a row each, and the collator that makes batches of them."""
    # An item of a history sees the later ones, so that targets with other histories cannot share its row.
    examples = NextItemExamples(sequences, cast(Targets, arguments.targets), processor.max_history)
    return examples, CodeSetCollator(processor)


def category_report(processor: Reg4RecProcessor) -> dict:
    """How many categories there are, the items of each, and the share of the largest."""
    counts = np.bincount(processor.categories, minlength=len(processor.category_names))
    return {
        "num_categories": len(counts),
        "majority_share": float(counts.max() / counts.sum()),
        "items": dict(zip(processor.category_names, counts.tolist(), strict=True)),
    }
