"""Prepared data and arguments -> S3-Rec's processor, model, rows and trainer."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from transformers import set_seed

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.examples import Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.data.sequence_rows import PackedSequences, SequenceCollator
from hf_genrec.methods.s3rec.arguments import S3RecArguments
from hf_genrec.methods.s3rec.attributes import item_attributes
from hf_genrec.methods.s3rec.modeling_s3rec import S3RecConfig, S3RecForNextItem
from hf_genrec.methods.s3rec.pretraining_s3rec import Pretraining
from hf_genrec.methods.s3rec.s3rec_rows import NextItemRows, NextItemRowsCollator, SetEpoch
from hf_genrec.methods.s3rec.s3rec_trainer import S3RecTrainer
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.config import RunConfig
from hf_genrec.training.trainer import subsample


def build_trainer(config: RunConfig) -> S3RecTrainer:
    """The trainer of a run whose data are prepared, with its model and rows, and the pretraining it begins with."""
    run, arguments = config.run, config.training
    prepared = PreparedData.load(run.data)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name
    attributes = item_attributes(prepared.items, config.model.attribute_columns)

    set_seed(arguments.seed)
    processor = ItemProcessor(config.data.max_history)
    processor.set_catalogue(prepared.item_ids, prepared.titles(), prepared.item_popularity())
    model = build_s3rec(config.model, processor, len(attributes[1]))
    sequences = prepared.train_sequences()
    rows, collator = build_rows(arguments, sequences, model.config)
    pretraining = None
    if config.model.pretrain_epochs:
        pretraining = Pretraining(
            run.path / "pretrained",
            run.checkpoints / "pretraining",
            config.model,
            arguments,
            model.config,
            sequences,
            attributes,
        )
    return S3RecTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=collator,
        callbacks=[SetEpoch(rows)],
        pretraining=pretraining,
    )


def build_s3rec(arguments: S3RecArguments, processor: ItemProcessor, num_attributes: int = 0) -> S3RecForNextItem:
    """An S3-Rec model of a processor's items, with random weights."""
    config = S3RecConfig(
        num_items=len(processor.item_ids),
        max_history=processor.max_history,
        num_attributes=num_attributes,
        **arguments.config_fields(),
    )
    model = S3RecForNextItem(config)
    model.processor = processor
    return model


def build_rows(
    arguments: GenRecTrainingArguments, sequences: Sequence[np.ndarray], config: S3RecConfig
) -> tuple[PackedSequences, SequenceCollator]:
    """
    The rows of the fine-tuning, and the collator that makes batches of them. Users of more than `max_history` items are
    read in windows.

    Raises:
        ValueError: for workers that would not learn which epoch it is.
    """
    if arguments.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers: rows are drawn anew in every epoch: leave it out")
    settings = {
        "targets": cast(Targets, arguments.targets),
        "max_history": config.max_history,
        "packing": arguments.packing,
        "windows": arguments.packing and arguments.targets == "all",
    }
    if config.loss_type == "softmax":
        return PackedSequences(sequences, **settings), SequenceCollator(config.num_items, arguments.packing)
    rows = NextItemRows(sequences, config.num_items, arguments.seed, **settings)
    return rows, NextItemRowsCollator(config.num_items, arguments.packing)
