"""Train an item tokenizer and make the catalogue's semantic IDs, in the run folder's `semantic_ids/`.

hf-genrec tokenize --config NAME --item_tokenizer rq_vae
torchrun --standalone --nproc_per_node 2 -m hf_genrec.trainers.train_item_tokenizer --config NAME \
    --item_tokenizer mpq
"""

import logging
import sys

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import require_writable
from hf_genrec.pictures import Pictures
from hf_genrec.semantic_ids.arguments import FITTED
from hf_genrec.semantic_ids.build import (
    assign_semantic_ids,
    item_collaborative_vectors,
    item_parts,
    save_semantic_ids,
)
from hf_genrec.semantic_ids.shares import is_first
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.item_tokenizer import train_item_tokenizer
from hf_genrec.training.lineage import require_prepared, tokenized_from
from hf_genrec.training.processes import end_group, start_group

logger = logging.getLogger(__name__)


def main(config: RunConfig) -> None:
    """Load, build, train, save."""
    run, arguments = config.run, config.tokenizer
    if arguments.item_tokenizer in FITTED:
        raise ValueError(
            f"item_tokenizer: {arguments.item_tokenizer} is not trained: use `hf-genrec tokenize`, or set another one"
        )
    if arguments.codes_run is not None:
        raise ValueError(
            "codes_run keeps the codes of an earlier run, and nothing is trained: use `hf-genrec tokenize`"
        )
    require_writable(run.path)
    made_from = tokenized_from(config, require_prepared(config))
    prepared = PreparedData.load(run.data)
    start_group(config.training.use_cpu)
    pictures = Pictures.of_report(prepared.report)
    sequences = prepared.train_sequences()
    parts = item_parts(prepared.items, sequences, arguments, pictures=pictures)
    collaborative = None
    if arguments.aligned:
        collaborative = item_collaborative_vectors(prepared.items, sequences, arguments)
    tokenizer, record = train_item_tokenizer(
        parts, arguments, collaborative, use_cpu=config.training.use_cpu, disable_tqdm=config.training.disable_tqdm
    )
    semantic_ids, health = assign_semantic_ids(prepared.items, parts, tokenizer, arguments, sequences)
    if is_first():
        save_semantic_ids(run.semantic_ids, semantic_ids, health | {"training": record}, made_from, tokenizer)
        logger.info(
            "%s trained in %.0f CPU seconds; codes put to use: %d meanwhile, %d afterwards",
            arguments.item_tokenizer,
            record["cpu_seconds"],
            record["revived_codes"],
            record["filled_codes"],
        )
    end_group()


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
