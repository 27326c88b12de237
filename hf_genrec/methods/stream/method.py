"""What the library asks of STREAM."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method, PostTraining
from hf_genrec.methods.stream.arguments import StreamArguments


def build_trainer(config):
    from hf_genrec.methods.stream.training_stream import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    return Card(
        about=f"A generative recommender (STREAM) over {num_items:,} items: an encoder reads a history as semantic IDs "
        f"of {len(config['codebook_sizes'])}\ncodes, and a decoder writes thinking tokens, codes too, before those of "
        f"the next item, under a trie, so that every answer is an item of the catalogue.",
        tags=["generative-recommendation", "semantic-ids"],
        facts={
            "codes per level": config["codebook_sizes"],
            "encoder layers": config["num_layers"],
            "decoder layers": config["num_decoder_layers"],
            "thinking tokens": config["num_thinking_tokens"],
        },
    )


def post_training() -> PostTraining:
    from hf_genrec.methods.stream.thinking_grpo_trainer import POST_TRAINING

    return POST_TRAINING


def explain(model, history, item, exclude_seen):
    from hf_genrec.semantic_ids.written_codes import explain_written_codes

    return explain_written_codes(model, history, item, exclude_seen)


METHOD = Method(
    title="STREAM",
    summary="TIGER that writes thinking tokens, codes that close in on the item, before the item's codes",
    arguments=StreamArguments,
    build_trainer=build_trainer,
    codes="ordered",
    card=card,
    search_options=("num_beams",),
    score_name="log-probability",
    reads_text=lambda arguments: arguments.traces == "similar",
    post_training=post_training,
    explain=explain,
    soft_targets=True,
    unused_keys=frozenset({"packing", "packed_row_tokens"}),
)
