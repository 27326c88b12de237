"""The traces of a run, kept in its folder `traces/`: made once, and read again by the same settings alone."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset

from hf_genrec.catalogue.json_files import naming, number, read_json
from hf_genrec.catalogue.saved_files import load_tensors
from hf_genrec.data.collator import Seq2SeqCollator
from hf_genrec.data.examples import NextItemExamples
from hf_genrec.files import restore_folder, spelled_out, whole_folder, write_json

logger = logging.getLogger(__name__)

RECORD_FILE, TENSORS_FILE = "traces.json", "traces.safetensors"


@dataclass
class Traces:
    """
    What is known of T training targets before the training.

    Attributes:
        tokens: (T, l) thinking tokens.
        kept: (n,) places of the targets that are trained on, rising.
        rejected: (T,) catalogue rows that the targets are preferred to, or none.
        margins: (T,) what the targets' log-probabilities have more than theirs, where there are some.
        cpu_seconds: what making them took.
        own_share: of traces just made, how many thinking tokens are the target's own codes of their levels.
    """

    tokens: np.ndarray
    kept: np.ndarray
    rejected: np.ndarray | None = None
    margins: np.ndarray | None = None
    cpu_seconds: float = 0.0
    own_share: float = 0.0


def kept_traces(folder: Path, made_from: Mapping[str, Any], make: Callable[[], Traces]) -> Traces:
    """
    The traces in a folder, if they were made from the same; otherwise they are made and take its place.

    Args:
        made_from: everything that decides what they are.
        make: makes them; their `cpu_seconds` are counted here.

    Raises:
        ValueError: for damaged files.
    """
    restore_folder(folder)
    wanted, path = spelled_out(dict(made_from)), folder / RECORD_FILE
    record = read_json(path, remedy=f"delete {folder}") if path.is_file() else {}
    if record.get("made_from") == wanted:
        logger.info("the traces in %s are of these settings: they are taken", folder)
        return _read(folder, record)
    start = time.process_time()
    traces = make()
    traces.cpu_seconds = time.process_time() - start
    with whole_folder(folder) as place:
        arrays = {name: getattr(traces, name) for name in ("tokens", "kept", "rejected", "margins")}
        save_file(
            {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None},
            place / TENSORS_FILE,
        )
        share = len(traces.kept) / len(traces.tokens)
        record = {"made_from": wanted, "cpu_seconds": traces.cpu_seconds, "kept_share": share}
        write_json(record | {"own_share": traces.own_share}, place / RECORD_FILE)
    logger.info(
        "%s traces made in %.0f CPU s, %.0f %% kept; %.0f %% of their tokens are codes of the target itself",
        f"{len(traces.tokens):,}",
        traces.cpu_seconds,
        100 * share,
        100 * traces.own_share,
    )
    return traces


def _read(folder: Path, record: Mapping[str, Any]) -> Traces:
    path = folder / TENSORS_FILE
    with naming(path, f"delete {folder}"):
        arrays = {name: tensor.numpy() for name, tensor in load_tensors(str(path))[0].items()}
        return Traces(**arrays, cpu_seconds=float(number(record["cpu_seconds"])))


class TracedExamples(Dataset):
    """
    The examples whose traces are kept, each with its `trace` and, where there is a preference, `rejected` and `margin`.

    Args:
        examples: all of them.
        traces: theirs.

    Attributes:
        sequences, num_targets, lengths: see [`NextItemExamples`].
    """

    def __init__(self, examples: NextItemExamples, traces: Traces):
        self.examples, self.traces = examples, traces
        self.sequences = examples.sequences
        self.num_targets = len(traces.kept)

    @property
    def lengths(self) -> np.ndarray:
        return self.examples.lengths[self.traces.kept]

    def __len__(self) -> int:
        return self.num_targets

    def __getitem__(self, index: int) -> dict:
        place, traces = self.traces.kept[index], self.traces
        example = self.examples[int(place)] | {"trace": traces.tokens[place]}
        if traces.rejected is not None and traces.margins is not None:
            example |= {"rejected": int(traces.rejected[place]), "margin": float(traces.margins[place])}
        return example


class TraceCollator(Seq2SeqCollator):
    """`Seq2SeqCollator` whose labels begin with the thinking tokens of the examples that have some."""

    def __call__(self, examples: Sequence[dict]) -> dict:
        """
        Returns:
            `input_ids`, `attention_mask` (B, S); `labels` (B, l + 1 + L), -100 between thinking tokens and codes, or
            (B, L) of examples without `trace`; with `rejected` also `rejected` (B, L) and `reference_margins` (B,).
        """
        batch = super().__call__(examples)
        if "trace" not in examples[0]:
            return batch
        trace = torch.from_numpy(np.stack([example["trace"] for example in examples]))
        between = torch.full((len(trace), 1), -100)
        batch["labels"] = torch.cat([trace, between, batch["labels"]], dim=1)
        if "rejected" in examples[0]:
            batch["rejected"] = self.token_ids[[example["rejected"] for example in examples]]
            batch["reference_margins"] = torch.tensor([example["margin"] for example in examples])
        return batch
