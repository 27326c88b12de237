"""Prepared, tokenized data and arguments -> processor, model, examples and trainer of an encoder-decoder over codes."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import set_seed

from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.decoding.code_t5 import CodeT5
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.semantic_ids.code_embeddings import start_from_centroids
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import code_tokenizer, vocabulary_size
from hf_genrec.training.code_t5_trainer import CodeT5Trainer
from hf_genrec.training.config import RunConfig
from hf_genrec.training.shared_pools import HardenGates, first_batches, first_states, start_pool
from hf_genrec.training.trainer import GenRecTrainer, subsample


def build_code_t5_trainer(
    config: RunConfig, model_class: type[CodeT5], trainer_class: type[GenRecTrainer] = CodeT5Trainer, **fields: Any
) -> GenRecTrainer:
    """
    The trainer of a run whose data are prepared and tokenized, with its model and examples.

    Args:
        fields: of the model's configuration, beside those of the arguments.

    Raises:
        ValueError: if the codes are those of another catalogue.
    """
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    processor = build_code_processor(prepared, semantic_ids, config.data.max_history)
    model = build_code_t5(model_class, processor, **config.model.config_fields(), **fields)
    if config.model.code_embeddings == "centroids":
        codebooks = load_item_tokenizer(run.semantic_ids / "item_tokenizer").codebooks
        table, std = model.get_input_embeddings().weight, model.config.initializer_factor
        start_from_centroids(table, processor.code_token_ids, codebooks, std, arguments.seed)
    examples = NextItemExamples(prepared.train_sequences(), cast(Targets, arguments.targets), processor.max_history)
    collator = Seq2SeqCollator(processor)
    sharing = bool(model.config.shared_kv_pool_size)
    if sharing:
        start_history_pools(model, first_batches(examples, collator, arguments), arguments.seed)
    return trainer_class(
        model,
        arguments,
        train_dataset=examples,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=collator,
        callbacks=[HardenGates()] if sharing else None,
    )


@torch.no_grad()
def start_history_pools(model: CodeT5, batches: Sequence[Mapping[str, Any]], seed: int) -> None:
    """The pools of the decoder's layers, from projections as T5's begin, and what the encoder makes of batches."""

    def states_of(batch: Mapping[str, Any]) -> torch.Tensor:
        encoding = model.get_encoder()(batch["input_ids"], batch["attention_mask"])
        return encoding.last_hidden_state[encoding.attention_mask.bool()]

    model.eval()
    states, config = first_states(batches, states_of), model.config
    for attention in model.decoder.cross_attentions:
        for part in (attention.k, attention.v):
            plain = nn.Linear(config.d_model, config.num_heads * config.d_kv, bias=False)
            nn.init.normal_(plain.weight, std=config.initializer_factor * config.d_model**-0.5)
            start_pool(part, plain, states, seed)
    model.train()


def build_code_processor(prepared: PreparedData, semantic_ids: SemanticIds, max_history: int) -> GenRecProcessor:
    """
    The processor of a catalogue, whose codes are the whole vocabulary.

    Raises:
        ValueError: if the codes are those of another catalogue.
    """
    prepared.require_catalogue(semantic_ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    tokenizer = code_tokenizer(semantic_ids.codebook_sizes)
    return GenRecProcessor(tokenizer, semantic_ids.codebook_sizes, max_history).set_catalogue(
        prepared.item_ids, semantic_ids.codes, prepared.titles(), prepared.item_popularity()
    )


def build_code_t5(model_class: type[CodeT5], processor: GenRecProcessor, **fields: Any) -> CodeT5:
    """A model for a processor's codes, with random weights."""
    config = model_class.config_class(
        vocab_size=vocabulary_size(processor.tokenizer),
        codebook_sizes=processor.codebook_sizes,
        answer_token_id=processor.answer_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        max_history=processor.max_history,
        **fields,
    )
    model = model_class(config)
    model.processor = processor
    return model
