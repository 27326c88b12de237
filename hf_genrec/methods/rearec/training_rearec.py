"""Prepared data and arguments -> ReaRec's processor, text embeddings, model, rows and trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from transformers import set_seed

from hf_genrec.catalogue.processing_rows import ItemProcessor
from hf_genrec.data.examples import Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.data.sequence_rows import PackedSequences, SequenceCollator
from hf_genrec.methods.rearec.arguments import ReaRecArguments
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem
from hf_genrec.methods.rearec.pretrained_backbone import start_from_pretraining
from hf_genrec.methods.rearec.rearec_trainer import ReaRecTrainer
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.config import RunConfig
from hf_genrec.training.text_vectors import new_text_vectors, text_vectors
from hf_genrec.training.trainer import subsample


def build_trainer(config: RunConfig) -> ReaRecTrainer:
    """The trainer of a run whose data are prepared, with its model and rows."""
    run, arguments = config.run, config.training
    prepared = PreparedData.load(run.data)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    if config.tokenizer.embeddings_path is not None and not config.model.reads_text:
        raise ValueError(f"embeddings_path is not read by backbone: {config.model.backbone}; use unisrec or morec")
    # Before the seed is set: embedding texts may draw from the generator, reading them from the cache does not.
    vectors = text_vectors(prepared.items, config.tokenizer, config.model.text_dim) if config.model.reads_text else None
    set_seed(arguments.seed)
    model = build_rearec(config.model, build_item_processor(prepared, config.data.max_history), vectors)
    if config.model.pretrained_backbone_run is not None:
        start_from_pretraining(model, config.model.pretrained_backbone_run, prepared.fingerprint)
    rows, collator = build_rows(arguments, prepared.train_sequences(), model.config, config.model.windows)
    return ReaRecTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=collator,
        noise_start_epoch=config.model.noise_start_epoch,
    )


def build_item_processor(prepared: PreparedData, max_history: int) -> ItemProcessor:
    """The processor of a catalogue whose items are read and scored as they are."""
    return ItemProcessor(max_history).set_catalogue(prepared.item_ids, prepared.titles(), prepared.item_popularity())


def new_vectors(model: ReaRecForNextItem, folder: Path, items: pa.Table) -> np.ndarray:
    """
    What new items enter a trained model with (`model.add_items`), see [`new_text_vectors`].

    Raises:
        ValueError: for a backbone without text; as [`new_text_vectors`].
    """
    model.require_growing()
    return new_text_vectors(folder, items)


def build_rearec(
    arguments: ReaRecArguments, processor: ItemProcessor, vectors: np.ndarray | None = None
) -> ReaRecForNextItem:
    """
    A ReaRec model of a processor's items, with random weights.

    Args:
        vectors: (N, D) text embeddings, for the backbones that read text.
    """
    config = ReaRecConfig(
        num_items=len(processor.item_ids),
        max_history=processor.max_history,
        item_vector_size=None if vectors is None else vectors.shape[1],
        **arguments.config_fields(),
    )
    model = ReaRecForNextItem(config)
    if vectors is not None:
        model.set_item_vectors(vectors)
    model.processor = processor
    return model


def build_rows(
    arguments: GenRecTrainingArguments, sequences: Sequence[np.ndarray], config: ReaRecConfig, windows: bool = False
) -> tuple[PackedSequences, SequenceCollator]:
    """
    The training rows, and the collator that makes batches of them.

    Raises:
        ValueError: for `windows` where a target has a row of its own.
    """
    # An item of bert4rec sees later ones, the targets of its row among them.
    packed = arguments.packing and config.backbone != "bert4rec"
    if windows and (not packed or arguments.targets != "all"):
        raise ValueError("windows: they are for packing: true, targets: all and a backbone that reads forwards")
    rows = PackedSequences(sequences, cast(Targets, arguments.targets), config.max_history, packed, windows)
    return rows, SequenceCollator(config.num_items, packed)
