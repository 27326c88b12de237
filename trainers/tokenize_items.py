"""Item text and co-occurrence -> semantic IDs with a health report, in the run folder's `semantic_ids/`.

    python -m hf_genrec.trainers.tokenize_items --config care/ml-100k
    hf-genrec tokenize --config care/ml-100k

With `codes_path` published codes are imported instead. `collisions` settles only codes made here; published ones are
kept. With `method: rearec` there is nothing to do.
"""

import logging
import sys

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import write_json
from hf_genrec.semantic_ids.build import build_semantic_ids
from hf_genrec.semantic_ids.health import draw_health, health_report
from hf_genrec.semantic_ids.ids import SemanticIds
from hf_genrec.semantic_ids.published import load_published_codes
from hf_genrec.training.config import RunConfig, parse_command_line

logger = logging.getLogger(__name__)


def main(config: RunConfig) -> SemanticIds | None:
    """
    Make or import the codes of the catalogue, and save them with their health report and its picture; `None` for a
    method that has no codes.
    """
    if config.model.method == "rearec":
        logger.info("method: rearec has no semantic IDs, so there is nothing to tokenize: go on with `hf-genrec train`")
        return None
    folder = config.run.semantic_ids
    prepared = PreparedData.load(config.run.data)
    if config.data.codes_path is not None:
        semantic_ids = load_published_codes(config.data.codes_path, prepared.item_ids)
        health = health_report(semantic_ids)
    else:
        semantic_ids, tokenizer, health = build_semantic_ids(
            prepared.items, prepared.train_sequences(), config.tokenizer
        )
        tokenizer.save_pretrained(folder / "item_tokenizer")
    semantic_ids.save(folder)
    write_json(health, folder / "health.json")
    draw_health(semantic_ids, health, folder / "health.png")

    collisions = health["collisions"]
    logger.info(
        "%s: %d items, codebooks %s, used %s, items with shared codes %d (before: %d)",
        folder,
        len(semantic_ids.item_ids),
        semantic_ids.codebook_sizes,
        [level["used"] for level in health["levels"]],
        collisions["after"]["items"],
        collisions["before"]["items"],
    )
    return semantic_ids


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
