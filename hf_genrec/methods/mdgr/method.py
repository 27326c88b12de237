"""What the library asks of MDGR."""

from collections.abc import Mapping
from typing import Any

from hf_genrec.method import Card, Method
from hf_genrec.methods.mdgr.arguments import MdgrArguments


def build_trainer(config):
    from hf_genrec.methods.mdgr.training_mdgr import build_trainer

    return build_trainer(config)


def card(config: Mapping[str, Any], num_items: int) -> Card:
    num_codebooks, warmup, width = len(config["codebook_sizes"]), config["warmup_codes"], config["parallel_width"]
    passes = warmup + -(-(num_codebooks - warmup) // width)
    return Card(
        about=f"A generative recommender (MDGR) over {num_items:,} items: it reads a history as sets of "
        f"{num_codebooks} codes\nand fills in those of the next item in {passes} steps, the codes it is surest of "
        f"first. Every answer is an item of the catalogue.",
        tags=["generative-recommendation", "semantic-ids", "masked-diffusion"],
        facts={
            "encoder layers": config["num_encoder_layers"],
            "decoder layers": config["num_hidden_layers"],
            "codes per codebook": config["codebook_sizes"],
            "codes written one at a time, then at once": f"{warmup}, {width}",
        },
    )


def explain(model, history, item, exclude_seen):
    from hf_genrec.methods.mdgr.explain_mdgr import explain

    return explain(model, history, item, exclude_seen)


METHOD = Method(
    title="MDGR",
    summary="masked diffusion over unordered codes: an encoder-decoder that fills in several codes at once",
    arguments=MdgrArguments,
    build_trainer=build_trainer,
    codes="set",
    card=card,
    search_options=("num_beams",),
    score_name="log-probability",
    explain=explain,
    unused_keys=frozenset({"packing", "packed_row_tokens"}),
)
