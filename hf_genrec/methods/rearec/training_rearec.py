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
from hf_genrec.methods.rearec.arguments import ReaRecArguments
from hf_genrec.methods.rearec.modeling_rearec import ReaRecConfig, ReaRecForNextItem
from hf_genrec.methods.rearec.rearec_trainer import ReaRecTrainer
from hf_genrec.methods.rearec.sequence_rows import PackedSequences, SequenceCollator
from hf_genrec.semantic_ids.arguments import TokenizerArguments
from hf_genrec.semantic_ids.embedding import embed_texts
from hf_genrec.semantic_ids.ready_made import ready_embeddings
from hf_genrec.semantic_ids.text import item_texts
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.config import RunConfig
from hf_genrec.training.lineage import read_lineage
from hf_genrec.training.run_folder import RunFolder
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
    rows, collator = build_rows(arguments, prepared.train_sequences(), model.config)
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


def text_vectors(
    items: pa.Table,
    arguments: TokenizerArguments,
    text_dim: int | None = None,
    embedding_cache: str | Path | None = None,
    new_items: pa.Table | None = None,
) -> np.ndarray:
    """
    Embeddings of the items, (N, D) float32: of their text, or those of `embeddings_path`.

    Args:
        items: one row per item, column item_id and text columns.
        arguments: `text_model` and `text_columns`, or `embeddings_path`.
        text_dim: principal components of the centred embeddings that are kept; `None` keeps the embeddings as they are.
        embedding_cache: folder of the embeddings already made; `None` for the default of `embed_texts`.
        new_items: the embeddings of these instead, centred and projected as those of `items` are, for a model's
            `add_items`.

    Raises:
        ValueError: a missing column, a text model that cannot be loaded, embeddings that do not fit, or more components
            than there are.
    """

    def embedded(items: pa.Table) -> np.ndarray:
        ready_made = ready_embeddings(items, arguments)
        if ready_made is not None:
            return ready_made
        return embed_texts(item_texts(items, arguments.text_columns), arguments.text_model, embedding_cache)

    vectors = embedded(items)
    wanted = vectors if new_items is None else embedded(new_items)
    if text_dim is None:
        return wanted
    if text_dim > min(vectors.shape):
        raise ValueError(
            f"text_dim={text_dim}: the embeddings of {len(vectors)} items, {vectors.shape[1]} long, have at most "
            f"{min(vectors.shape)} principal components"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # columns, the largest variance last
    return ((wanted.astype(np.float64) - mean) @ directions[:, : -text_dim - 1 : -1]).astype(np.float32)


def new_vectors(model: ReaRecForNextItem, folder: Path, items: pa.Table) -> np.ndarray:
    """
    What new items enter a trained model with (`model.add_items`): embeddings made as those of its catalogue were.

    Args:
        folder: the exported model, in its run folder: principal components need the known items' text, too.
        items: the new items, column item_id and text columns.

    Raises:
        ValueError: for a backbone without text, a model that does not say how its texts were read, or one whose items
            were ready-made embeddings; as [`text_vectors`].
    """
    model.require_growing()
    settings = (read_lineage(folder) or {}).get("model", {})
    if "text_model" not in settings:
        raise ValueError(f"{folder} does not say how its items' text was read (lineage.json): train it again")
    if settings["embeddings_path"] is not None:
        raise ValueError("this model was trained on ready-made embeddings: a new item's text cannot be encoded")
    arguments = TokenizerArguments(text_model=settings["text_model"], text_columns=settings["text_columns"])
    if settings["text_dim"] is None:
        return text_vectors(items, arguments)
    known = PreparedData.load(RunFolder(folder.parent).data).items
    return text_vectors(known, arguments, settings["text_dim"], new_items=items)


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
    arguments: GenRecTrainingArguments, sequences: Sequence[np.ndarray], config: ReaRecConfig
) -> tuple[PackedSequences, SequenceCollator]:
    """The training rows, and the collator that makes batches of them."""
    # An item of bert4rec sees later ones, the targets of its row among them.
    packed = arguments.packing and config.backbone != "bert4rec"
    rows = PackedSequences(sequences, cast(Targets, arguments.targets), config.max_history, packed)
    return rows, SequenceCollator(config.num_items, packed)
