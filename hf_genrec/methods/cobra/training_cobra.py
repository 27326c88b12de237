"""Prepared, tokenized data and arguments -> COBRA's processor, model, rows and trainer."""

from typing import cast

import numpy as np
from torch import nn
from transformers import set_seed

from hf_genrec.data.examples import Targets
from hf_genrec.data.prepared import PreparedData
from hf_genrec.data.windows import ItemWindows
from hf_genrec.methods.cobra.arguments import CobraArguments
from hf_genrec.methods.cobra.cobra_collator import CascadeCollator
from hf_genrec.methods.cobra.cobra_trainer import CobraTrainer
from hf_genrec.methods.cobra.modeling_cobra import CobraConfig, CobraForCausalLM
from hf_genrec.methods.cobra.processing_cobra import CobraProcessor
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.tokens import code_tokenizer
from hf_genrec.training.config import RunConfig
from hf_genrec.training.shared_pools import HardenGates, first_batches, start_pools
from hf_genrec.training.text_vectors import text_vectors
from hf_genrec.training.trainer import subsample


def build_trainer(config: RunConfig) -> CobraTrainer:
    """The trainer of a run whose data are prepared and tokenized, with its model and rows."""
    run, arguments = config.run, config.training
    prepared, semantic_ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    validation = prepared.split("validation", may_be_empty=arguments.eval_strategy == "no")
    arguments.output_dir, arguments.run_name = str(run.checkpoints), arguments.run_name or run.path.name

    # Before the seed is set: embedding texts may draw from the generator, reading them from the cache does not.
    vectors = text_vectors(prepared.items, config.tokenizer)
    set_seed(arguments.seed)
    processor = build_processor(prepared, semantic_ids, config.data.max_history)
    model = build_cobra(config.model, processor, vectors)
    targets = cast(Targets, arguments.targets)
    rows = ItemWindows(prepared.train_sequences(), targets, processor.max_history, arguments.packing)
    collator, sharing = CascadeCollator(processor), bool(model.config.shared_kv_pool_size)
    if sharing:
        projections = {layer.shared: random_projections(model.config) for layer in model.model.layers}
        start_pools(model, first_batches(rows, collator, arguments), projections, arguments.seed)
    return CobraTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=subsample(validation, arguments.eval_users, arguments.seed),
        data_collator=collator,
        callbacks=[HardenGates()] if sharing else None,
    )


def random_projections(config: CobraConfig) -> tuple[nn.Linear, nn.Linear]:
    """To keys and to values, as a layer without a pool begins with them."""
    key, value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(2))
    for linear in (key, value):
        nn.init.normal_(linear.weight, std=config.initializer_range)
        nn.init.zeros_(linear.bias)
    return key, value


def build_processor(prepared: PreparedData, semantic_ids: SemanticIds, max_history: int) -> CobraProcessor:
    """
    The processor of a catalogue.

    Raises:
        ValueError: if the codes are those of another catalogue.
    """
    prepared.require_catalogue(semantic_ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    sizes = semantic_ids.codebook_sizes
    processor = CobraProcessor(code_tokenizer(sizes), sizes, max_history)
    processor.set_catalogue(prepared.item_ids, semantic_ids.codes, prepared.titles(), prepared.item_popularity())
    return processor


def build_cobra(arguments: CobraArguments, processor: CobraProcessor, vectors: np.ndarray) -> CobraForCausalLM:
    """
    A COBRA model of a processor's items, with random weights.

    Args:
        vectors: (N, D) text embeddings.
    """
    model = CobraForCausalLM(
        CobraConfig(
            codebook_sizes=processor.codebook_sizes,
            num_items=len(processor.item_ids),
            item_vector_size=vectors.shape[1],
            max_history=processor.max_history,
            **arguments.config_fields(),
        )
    )
    model.set_item_vectors(vectors)
    model.processor = processor
    return model
