"""Prepared, tokenized data and arguments -> CARE's processor, model, examples and trainer."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.packing import PackedExamples
from hf_genrec.data.prepared import PreparedData
from hf_genrec.decoding.processing_sequences import GenRecProcessor
from hf_genrec.item_tokenizers.modeling_residual_kmeans import ResidualKMeansTokenizer
from hf_genrec.method import model_place, read_config
from hf_genrec.methods.care.arguments import CareArguments
from hf_genrec.methods.care.care_collators import CareCollator, CarePackedCollator
from hf_genrec.methods.care.earlier_care import from_earlier, is_care, require_same_codes
from hf_genrec.methods.care.modeling_care import CareConfig, CareForCausalLM
from hf_genrec.semantic_ids import code_embeddings
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import add_code_tokens, base_tokenizer, code_tokenizer, vocabulary_size
from hf_genrec.training.arguments import GenRecTrainingArguments
from hf_genrec.training.config import RunConfig
from hf_genrec.training.shared_pools import HardenGates, first_batches, start_pools
from hf_genrec.training.trainer import GenRecTrainer, subsample


def build_trainer(config: RunConfig) -> GenRecTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and examples."""
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    set_seed(arguments.seed)
    base_model = config.model.base_model
    processor = build_processor(prepared, semantic_ids, config.data.max_history, base_model)
    if base_model is not None and is_care(base_model):
        require_same_codes(base_model, semantic_ids, run.semantic_ids / "item_tokenizer")
    model = build_care(config.model, processor)
    if config.model.code_embeddings == "centroids":
        tokenizer = ResidualKMeansTokenizer.from_pretrained(run.semantic_ids / "item_tokenizer")
        start_from_centroids(model, processor, tokenizer.codebooks, arguments.seed)
    examples, collator = build_examples(arguments, prepared.train_sequences(), processor, model.config.num_queries)
    sharing = bool(model.config.shared_kv_pool_size)
    if sharing and not (base_model and is_care(base_model) and _shares(base_model)):
        attention = [layer.self_attn for layer in model.model.layers]
        projections = {layer.shared: (layer.k_proj, layer.v_proj) for layer in attention}
        start_pools(model, first_batches(examples, collator, arguments), projections, arguments.seed)
    return GenRecTrainer(
        model,
        arguments,
        train_dataset=examples,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=collator,
        callbacks=[HardenGates()] if sharing else None,
    )


def _shares(base_model: str) -> bool:
    return bool(read_config(model_place(base_model)).get("shared_kv_pool_size"))


def build_processor(
    prepared: PreparedData, semantic_ids: SemanticIds, max_history: int, base_model: str | None = None
) -> GenRecProcessor:
    """
    The processor of a catalogue: its codes become the whole vocabulary, or are added to that of `base_model`.

    Raises:
        ValueError: if the codes are those of another catalogue.
    """
    prepared.require_catalogue(semantic_ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    tokenizer: PreTrainedTokenizerBase
    if base_model is None:
        tokenizer = code_tokenizer(semantic_ids.codebook_sizes)
    else:
        tokenizer = add_code_tokens(base_tokenizer(str(model_place(base_model))), semantic_ids.codebook_sizes)
    return GenRecProcessor(tokenizer, semantic_ids.codebook_sizes, max_history).set_catalogue(
        prepared.item_ids, semantic_ids.codes, prepared.titles(), prepared.item_popularity()
    )


def build_examples(
    arguments: GenRecTrainingArguments,
    sequences: Sequence[np.ndarray],
    processor: GenRecProcessor,
    num_queries: list[int],
) -> tuple[PackedExamples | NextItemExamples, Callable]:
    """The training targets, in packed rows or in a row each, and the collator that makes batches of them."""
    targets, max_history = cast(Targets, arguments.targets), processor.max_history
    if not arguments.packing:
        return NextItemExamples(sequences, targets, max_history), CareCollator(processor, num_queries)
    packed = PackedExamples(
        sequences, targets, max_history, processor.num_levels, arguments.packed_row_tokens, arguments.seed
    )
    return packed, CarePackedCollator(processor, num_queries)


def build_care(arguments: CareArguments, processor: GenRecProcessor) -> CareForCausalLM:
    """
    A CARE model for a processor's codes, with random weights, those of a pretrained Qwen2 or Qwen3 (new tokens and
    queries random), or those of an earlier CARE model.

    Raises:
        ValueError: if `num_queries` or `progressive` have neither one entry nor one per code, or the base is no such
        model, or of other codes.
    """
    levels = processor.num_levels
    care_fields = {
        "num_queries": _per_level("num_queries", arguments.num_queries, levels),
        "progressive": _per_level("progressive", arguments.progressive, levels),
        "query_diversity_weight": arguments.query_diversity_weight,
        "codebook_sizes": processor.codebook_sizes,
        "answer_token_id": processor.answer_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "max_history": processor.max_history,
        "attention_dropout": arguments.attention_dropout,
        "hidden_dropout": arguments.hidden_dropout,
        "label_smoothing": arguments.label_smoothing,
        "shared_kv_pool_size": arguments.shared_kv_pool_size,
        "shared_kv_user_dim": arguments.shared_kv_user_dim,
    }
    max_positions = (processor.max_history + 1) * levels + 1 + sum(care_fields["num_queries"])
    vocab_size = vocabulary_size(processor.tokenizer)
    if arguments.base_model is None:
        config = CareConfig(
            vocab_size=vocab_size,
            hidden_size=arguments.hidden_size,
            intermediate_size=arguments.intermediate_size,
            num_hidden_layers=arguments.num_hidden_layers,
            num_attention_heads=arguments.num_attention_heads,
            num_key_value_heads=arguments.num_attention_heads,
            max_position_embeddings=max_positions,
            tie_word_embeddings=arguments.tie_word_embeddings,
            **care_fields,
        )
        model = CareForCausalLM(config)
    elif is_care(arguments.base_model):
        model = from_earlier(arguments.base_model, max_positions, **care_fields)
    else:
        base_vocab_size = vocabulary_size(base_tokenizer(arguments.base_model))
        model = CareForCausalLM.from_base(arguments.base_model, vocab_size, base_vocab_size, **care_fields)
    model.processor = processor
    return model


def start_from_centroids(
    model: CareForCausalLM, processor: GenRecProcessor, codebooks: Sequence[torch.Tensor], seed: int
) -> None:
    """The code embeddings as the item tokenizer's centroids (K_l, D), see
    [`hf_genrec.semantic_ids.code_embeddings.start_from_centroids`]."""
    table, std = model.model.embed_tokens.weight, model.config.initializer_range
    code_embeddings.start_from_centroids(table, processor.code_token_ids, codebooks, std, seed)


def _per_level(name: str, values: Sequence, levels: int) -> list:
    if len(values) == 1:
        return list(values) * levels
    if len(values) != levels:
        raise ValueError(f"{name} has {len(values)} entries for items of {levels} codes: give one, or one per code.")
    return list(values)
