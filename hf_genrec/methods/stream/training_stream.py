"""Prepared, tokenized data and arguments -> STREAM's model, its traces, examples and trainer."""

import logging
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from hf_genrec.catalogue.published_weights import require_same_weights
from hf_genrec.data.examples import Targets, target_positions
from hf_genrec.data.prepared import PreparedData
from hf_genrec.decoding.code_t5 import CodeT5
from hf_genrec.hub import model_fingerprint
from hf_genrec.methods.stream.annotation import (
    hard_negatives,
    own_code_share,
    random_traces,
    residual_traces,
    similar_traces,
)
from hf_genrec.methods.stream.arguments import StreamArguments
from hf_genrec.methods.stream.modeling_stream import StreamForConditionalGeneration
from hf_genrec.methods.stream.stream_trainer import StreamTrainer
from hf_genrec.methods.stream.traces import TraceCollator, TracedExamples, Traces, kept_traces
from hf_genrec.semantic_ids.ids import read_table
from hf_genrec.training.code_t5_training import build_code_t5_trainer
from hf_genrec.training.config import RunConfig
from hf_genrec.training.finished_run import FinishedRun
from hf_genrec.training.run_folder import RunFolder
from hf_genrec.training.text_vectors import text_vectors

logger = logging.getLogger(__name__)

OF_THINKING = ("state_map.", "residual_map.")


def build_trainer(config: RunConfig) -> StreamTrainer:
    """
    The trainer of a run whose data are prepared and tokenized, with its model, traces and examples.

    Raises:
        FileNotFoundError, ValueError: for residual traces without `stage1_run`, or one of other data, codes or sizes;
            for similar items whose codes do not fill the thinking tokens.
    """
    arguments: StreamArguments = config.model
    thinks = arguments.num_thinking_tokens > 0
    if thinks and arguments.traces == "residual" and arguments.stage1_run is None:
        raise ValueError(
            "traces: residual ones are written by a finished run: name one as stage1_run, or set traces: random"
        )
    stage1 = None if arguments.stage1_run is None else open_stage1(config)
    run = config.run  # building moves `output_dir` to the checkpoints
    trainer: Any = build_code_t5_trainer(
        config, StreamForConditionalGeneration, StreamTrainer, **arguments.stream_fields()
    )
    if stage1 is not None:
        start_from(trainer.model, stage1.model)
        logger.info("it starts from the model of %s, whose cost is not counted here", stage1.run.path)
    if not thinks:
        return trainer
    with trainer.args.main_process_first(local=False, desc="traces"):
        made_from = trace_settings(config, run, None if stage1 is None else stage1.run.model)
        start = time.process_time()
        traces = kept_traces(run.path / "traces", made_from, lambda: make_traces(config, run, trainer, stage1))
        trainer.earlier_cpu_seconds = max(0.0, traces.cpu_seconds - (time.process_time() - start))
    trainer.train_dataset = TracedExamples(trainer.train_dataset, traces)
    trainer.data_collator = TraceCollator(trainer.model.processor)
    return trainer


def open_stage1(config: RunConfig) -> FinishedRun:
    """
    What `stage1_run` names.

    Raises:
        FileNotFoundError, ValueError: as [`FinishedRun.open`]; for a model of another kind, or of other codes.
    """
    folder, prepared = str(config.model.stage1_run), PreparedData.load(config.run.data)
    finished = FinishedRun.open(folder, prepared, "stage1_run")
    if not isinstance(finished.model, CodeT5):
        raise ValueError(f"stage1_run: {folder} is no encoder-decoder over codes: train one with method: tiger")
    theirs, ours = (read_table(place.semantic_ids)["fingerprint"] for place in (finished.run, config.run))
    if theirs != ours:
        raise ValueError(
            f"stage1_run: the codes of {folder} are others than those in {config.run.semantic_ids}: tokenize both with "
            f"the same settings"
        )
    return finished


def start_from(model: StreamForConditionalGeneration, stage1: Any) -> None:
    """
    Give a model the weights of a finished one. What the latter has not, the MLPs of the thinking, stays as it is.

    Raises:
        ValueError: for another architecture or other sizes.
    """
    own, theirs = model.state_dict(), stage1.state_dict()
    given = {name: weight for name, weight in theirs.items() if name in own or not name.startswith(OF_THINKING)}
    expected = {name: weight for name, weight in own.items() if name in given or not name.startswith(OF_THINKING)}
    try:
        require_same_weights(expected, given)
    except ValueError as error:
        raise ValueError(f"stage1_run: {error} Train it with the same sizes") from error
    model.load_state_dict(given, strict=False)


def trace_settings(config: RunConfig, run: RunFolder, stage1_model: Path | None) -> dict[str, Any]:
    """Everything that decides what the traces of a run are."""
    arguments, tokenizer = config.model, config.tokenizer
    settings = {
        "data": PreparedData.load(run.data).fingerprint,
        "semantic_ids": read_table(run.semantic_ids)["fingerprint"],
        "stage1": None if stage1_model is None else model_fingerprint(stage1_model),
        "traces": arguments.traces,
        "num_thinking_tokens": arguments.num_thinking_tokens,
        "preference": arguments.prefers,
        "targets": config.training.targets,
        "max_history": config.data.max_history,
    }
    if arguments.traces == "random":
        settings["seed"] = config.training.seed
    if arguments.traces == "similar":
        settings["text"] = [tokenizer.text_model, tokenizer.text_columns, tokenizer.embeddings_path]
    return settings


def make_traces(config: RunConfig, run: RunFolder, trainer: Any, stage1: FinishedRun | None) -> Traces:
    """
    The traces of a run's training targets, from training items alone. Those that `traces: random` draws are of the
    targets whose residual traces would be kept, so that both trainings see the same.
    """
    arguments: StreamArguments = config.model
    processor, examples, length = trainer.model.processor, trainer.train_dataset, arguments.num_thinking_tokens
    users, positions = target_positions(examples.sequences, cast(Targets, examples.targets))
    histories, targets = [], np.empty(len(users), dtype=np.int64)
    for place, (user, position) in enumerate(zip(users, positions, strict=True)):
        sequence = examples.sequences[user]
        histories.append(sequence[max(position - processor.max_history, 0) : position])
        targets[place] = sequence[position]
    everything, codes = np.arange(len(targets)), processor.token_ids[targets]

    def made(tokens: np.ndarray, kept: np.ndarray, *preference: np.ndarray) -> Traces:
        return Traces(tokens, kept, *preference, own_share=own_code_share(tokens, codes))

    if arguments.traces == "similar":
        vectors = text_vectors(PreparedData.load(run.data).items, config.tokenizer)
        return made(similar_traces(vectors, processor.token_ids, length)[targets], everything)
    if stage1 is None:
        return made(random_traces(processor.codebook_sizes, len(targets), length, trainer.args.seed), everything)
    model = stage1.model.to(trainer.args.device)
    tokens, useful = residual_traces(model, histories, targets, length)
    kept = np.flatnonzero(useful)
    if not len(kept):
        raise ValueError("traces: none brings the state nearer to its target: train the model of stage1_run longer")
    if arguments.traces == "random":
        tokens = random_traces(processor.codebook_sizes, len(targets), length, trainer.args.seed)
    if not arguments.prefers:
        return made(tokens, kept)
    return made(tokens, kept, *hard_negatives(model, histories, targets))
