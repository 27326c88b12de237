"""ReaRec's analyses of a trained run: what each reasoning step does to the ranking, to whom, and what it costs.

hf-genrec analyze runs/rearec-ml-100k
hf-genrec analyze runs/rearec-ml-100k --split validation
"""

import logging
from typing import Any, Literal

from hf_genrec.evaluation.report import record_header
from hf_genrec.files import write_json
from hf_genrec.methods.rearec.reasoning_analysis import analyze_reasoning
from hf_genrec.methods.rearec.reasoning_report import draw_analysis, render_analysis
from hf_genrec.methods.rearec.reasoning_run import open_reasoning_run

logger = logging.getLogger(__name__)


def main(run_folder: str, split: Literal["validation", "test"] = "test") -> dict[str, Any]:
    """Analyse, write `results/reasoning-<split>.json` and `results/reasoning-<split>-*.png`; returns the record."""
    run, model, prepared = open_reasoning_run(run_folder)
    header = record_header(run.model, prepared)
    record = header | analyze_reasoning(model, prepared.split(split), prepared.item_popularity())
    path = run.results / f"reasoning-{split}.json"
    write_json(record, path)
    pictures = draw_analysis(record, run.results)
    logger.info("%s\n\nall figures in %s; %d pictures beside it", render_analysis(record), path, len(pictures))
    return record
