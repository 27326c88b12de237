"""Item text and co-occurrence -> semantic IDs with a health report, in the run folder's `semantic_ids/`.

    python -m hf_genrec.trainers.tokenize_items --config NAME
    hf-genrec tokenize --config NAME
    torchrun --standalone --nproc_per_node 8 -m hf_genrec.trainers.tokenize_items --config NAME

Every `item_tokenizer` but `residual_kmeans` and `opq` is trained by `train_item_tokenizer`. With `codes_path` published
codes are imported instead; with `codes_run` those of an earlier run are kept, and new items get theirs from its item
tokenizer.
`collisions` settles only codes made here; published ones are kept. For a method without codes there is nothing to do.
"""

import logging
import sys
from pathlib import Path

from hf_genrec.data.prepared import PreparedData
from hf_genrec.files import require_writable
from hf_genrec.method import load_method
from hf_genrec.pictures import Pictures
from hf_genrec.semantic_ids.arguments import FITTED
from hf_genrec.semantic_ids.build import (
    assign_semantic_ids,
    continue_semantic_ids,
    item_parts,
    save_semantic_ids,
)
from hf_genrec.semantic_ids.health import health_report
from hf_genrec.semantic_ids.ids import read_table
from hf_genrec.semantic_ids.opq import fit_opq
from hf_genrec.semantic_ids.published_codes import load_published_codes
from hf_genrec.semantic_ids.residual_kmeans import fit_residual_kmeans
from hf_genrec.semantic_ids.shares import is_first
from hf_genrec.trainers import train_item_tokenizer
from hf_genrec.training.config import RunConfig, parse_command_line
from hf_genrec.training.lineage import require_own_tokenizer, require_prepared, tokenized_from
from hf_genrec.training.processes import end_group, require_one_process, start_group
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.teachers import require_teachers

logger = logging.getLogger(__name__)


def main(config: RunConfig) -> None:
    """Make or import the codes of the catalogue, and save them with their health report and its picture."""
    if load_method(config.model.method).codes is None:
        logger.info(
            "method: %s has no semantic IDs, so there is nothing to tokenize: go on with `hf-genrec train`",
            config.model.method,
        )
        return
    folder, arguments = config.run.semantic_ids, config.tokenizer
    made = config.data.codes_path is None and arguments.codes_run is None
    if not made:
        require_one_process("tokenize of codes that are there already")
    require_writable(config.run.path)
    require_teachers(config.training.teachers or {}, config.teachers_dir)
    made_from = tokenized_from(config, require_prepared(config))
    if config.data.codes_path is not None and arguments.codes_run is not None:
        raise ValueError("codes_path and codes_run are two sources of the codes: leave one out")
    if arguments.codes_run is not None:
        earlier = RunFolder(Path(arguments.codes_run)).semantic_ids
        if earlier.resolve() == folder.resolve():
            raise ValueError(
                f"codes_run and output_dir are both {config.run.path}: give the newer data a run of their own"
            )
        require_own_tokenizer(earlier, read_table(earlier))
        prepared = PreparedData.load(config.run.data)
        semantic_ids, health, tokenizer = continue_semantic_ids(
            earlier, prepared.items, pictures=Pictures.of_report(prepared.report)
        )
        save_semantic_ids(folder, semantic_ids, health, made_from, tokenizer)
    elif config.data.codes_path is not None:
        semantic_ids = load_published_codes(config.data.codes_path, PreparedData.load(config.run.data).item_ids)
        save_semantic_ids(folder, semantic_ids, health_report(semantic_ids), made_from)
    elif arguments.item_tokenizer not in FITTED:
        train_item_tokenizer.main(config)
    else:
        start_group(config.training.use_cpu)
        prepared = PreparedData.load(config.run.data)
        pictures = Pictures.of_report(prepared.report)
        sequences = prepared.train_sequences()
        parts = item_parts(prepared.items, sequences, arguments, pictures=pictures)
        fit = fit_opq if arguments.item_tokenizer == "opq" else fit_residual_kmeans
        tokenizer = fit(
            parts,
            arguments.codebook_sizes,
            weights=arguments.part_weights,
            seed=arguments.tokenizer_seed,
            projection_dim=arguments.projection_dim,
            text_model=arguments.text_model if "text" in parts else None,
            text_columns=arguments.text_columns,
            image_model=arguments.image_model,
        )
        semantic_ids, health = assign_semantic_ids(prepared.items, parts, tokenizer, arguments, sequences)
        if is_first():
            save_semantic_ids(folder, semantic_ids, health, made_from, tokenizer)
        end_group()


if __name__ == "__main__":
    main(parse_command_line(sys.argv[1:]))
