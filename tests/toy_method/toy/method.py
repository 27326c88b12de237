"""The toy's key, and what the library asks of it."""

from dataclasses import dataclass, field
from typing import Literal

from hf_genrec.method import Card, Method


@dataclass
class ToyArguments:
    method: Literal["toy"] = field(default="toy", metadata={"help": "what is trained"})
    toy_size: int = field(default=8, metadata={"help": "length of the code embeddings"})


def build_trainer(config):
    import torch
    from transformers import set_seed

    from hf_genrec.data.examples import NextItemExamples
    from hf_genrec.data.prepared import PreparedData
    from hf_genrec.decoding.processing_sequences import GenRecProcessor
    from hf_genrec.methods.toy.modeling_toy import ToyConfig, ToyForNextItem
    from hf_genrec.semantic_ids.ids import SemanticIds
    from hf_genrec.semantic_ids.tokens import code_tokenizer
    from hf_genrec.training.trainer import GenRecTrainer, subsample

    run, arguments = config.run, config.training
    prepared, ids = PreparedData.load(run.data), SemanticIds.load(run.semantic_ids)
    prepared.require_catalogue(ids.item_ids, "the semantic IDs", "run `hf-genrec tokenize` again")
    arguments.output_dir = str(run.checkpoints)
    set_seed(arguments.seed)
    processor = GenRecProcessor(code_tokenizer(ids.codebook_sizes), ids.codebook_sizes, config.data.max_history)
    processor.set_catalogue(prepared.item_ids, ids.codes, prepared.titles(), prepared.item_popularity())
    model = ToyForNextItem(ToyConfig(vocab_size=len(processor.tokenizer), hidden_size=config.model.toy_size))
    model.processor = processor

    def collate(examples):
        prompts = processor.prompts([example["history"] for example in examples])
        return prompts | {"labels": torch.tensor([int(example["target"]) for example in examples])}

    return GenRecTrainer(
        model,
        arguments,
        train_dataset=NextItemExamples(prepared.train_sequences(), arguments.targets, processor.max_history),
        eval_dataset=subsample(prepared.split("validation"), arguments.eval_users, arguments.seed),
        data_collator=collate,
    )


METHOD = Method(
    title="Toy",
    summary="the mean of a history's codes against each item's",
    arguments=ToyArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=lambda config, num_items: Card(f"A toy over {num_items} items.", ["toys"], {"size": config["hidden_size"]}),
)
