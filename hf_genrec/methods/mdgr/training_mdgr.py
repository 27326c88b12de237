"""Prepared, tokenized data and arguments -> MDGR's processor, model, examples and trainer."""

from typing import cast

from transformers import set_seed

from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.decoding.processing_code_sets import CodeSetProcessor
from hf_genrec.methods.mdgr.arguments import MdgrArguments
from hf_genrec.methods.mdgr.mdgr_collator import TargetCodesCollator
from hf_genrec.methods.mdgr.mdgr_trainer import MdgrTrainer
from hf_genrec.methods.mdgr.modeling_mdgr import MdgrConfig, MdgrForMaskedLM
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.config import RunConfig
from hf_genrec.training.trainer import subsample


def build_trainer(config: RunConfig) -> MdgrTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and examples."""
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_processor(prepared, semantic_ids, config.data.max_history)
    targets = cast(Targets, arguments.targets)
    return MdgrTrainer(
        build_mdgr(config.model, processor),
        arguments,
        # An item of a history sees the later ones, so that targets with other histories cannot share its row.
        train_dataset=NextItemExamples(prepared.train_sequences(), targets, processor.max_history),
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=TargetCodesCollator(processor),
        arguments=config.model,
    )


def build_processor(prepared: PreparedData, semantic_ids: SemanticIds, max_history: int) -> CodeSetProcessor:
    """
    The processor of a catalogue, whose codes are the whole vocabulary.

    Raises:
        ValueError: if the codes are those of another catalogue.
    """
    prepared.require_catalogue(semantic_ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    tokenizer = code_tokenizer(semantic_ids.codebook_sizes)
    return CodeSetProcessor(tokenizer, semantic_ids.codebook_sizes, max_history).set_catalogue(
        prepared.item_ids, semantic_ids.codes, prepared.titles(), prepared.item_popularity()
    )


def build_mdgr(arguments: MdgrArguments, processor: CodeSetProcessor) -> MdgrForMaskedLM:
    """An MDGR model for a processor's codes, with random weights."""
    config = MdgrConfig(
        codebook_sizes=processor.codebook_sizes, max_history=processor.max_history, **arguments.config_fields()
    )
    model = MdgrForMaskedLM(config)
    model.processor = processor
    return model
