"""Prepared, tokenized data and arguments -> LIGER's processor, model, examples and trainer."""

from collections.abc import Sequence
from typing import cast

import torch
from transformers import set_seed

from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.data.examples import NextItemExamples, Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.item_tokenizers import load_item_tokenizer
from hf_genrec.methods.liger.modeling_liger import LigerForConditionalGeneration
from hf_genrec.methods.liger.processing_liger import LigerProcessor
from hf_genrec.semantic_ids.code_embeddings import start_from_centroids
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.code_t5_trainer import CodeT5Trainer
from hf_genrec.training.code_t5_training import build_code_t5
from hf_genrec.training.config import RunConfig
from hf_genrec.training.text_vectors import text_vectors
from hf_genrec.training.trainer import subsample


class LigerCollator(Seq2SeqCollator):
    """Batches with the targets' catalogue rows beside their codes."""

    def __call__(self, examples: Sequence[dict]) -> dict:
        targets = torch.tensor([int(example["target"]) for example in examples])
        return {**super().__call__(examples), "target_rows": targets}


def build_trainer(config: RunConfig) -> CodeT5Trainer:
    """
    The trainer of a run whose data are prepared and tokenized, with its model and examples.

    Raises:
        ValueError: if the codes are those of another catalogue.
    """
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    # Before the seed is set: embedding texts may draw from the generator, reading them from the cache does not.
    vectors = text_vectors(prepared.items, config.tokenizer)
    set_seed(arguments.seed)
    prepared.require_catalogue(semantic_ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    sizes = semantic_ids.codebook_sizes
    processor = LigerProcessor(code_tokenizer(sizes), sizes, config.data.max_history)
    processor.set_catalogue(prepared.item_ids, semantic_ids.codes, prepared.titles(), prepared.item_popularity())
    fields = config.model.config_fields() | {"num_items": len(vectors), "item_vector_size": vectors.shape[1]}
    model = cast(LigerForConditionalGeneration, build_code_t5(LigerForConditionalGeneration, processor, **fields))
    model.set_item_vectors(vectors)
    if config.model.code_embeddings == "centroids":
        codebooks = load_item_tokenizer(run.semantic_ids / "item_tokenizer").codebooks
        table, std = model.get_input_embeddings().weight, model.config.initializer_factor
        start_from_centroids(table, processor.code_token_ids, codebooks, std, arguments.seed)
    targets = cast(Targets, arguments.targets)
    return CodeT5Trainer(
        model,
        arguments,
        train_dataset=NextItemExamples(prepared.train_sequences(), targets, processor.max_history),
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=LigerCollator(processor),
    )
