"""Memory per device and time per epoch of a training, from a step that is done and counted here."""

import math
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hf_genrec.method import load_method
from hf_genrec.training.config import RunConfig
from hf_genrec.training.step_counts import (
    StepCounts,
    count_step,
    measured_costs,
    measured_flops,
    usual_seconds,
)

GIB, TERA = 2.0**30, 1e12
LARGE = 50e6  # weights from which on a step is counted for one and two rows, and the rest follows from these
SAMPLES = 4  # batches of an epoch that are counted
# What of a data sheet's figures training gets, and how long an operation takes to start. Assumed, not measured.
SHARE_OF_FLOPS, SHARE_OF_BANDWIDTH, START = 0.5, 0.75, 8e-6


@dataclass(frozen=True)
class Device:
    """
    What training can have of a device: multiplications and additions a second in float32 (`flops`) and in 16 bit
    (`half`), bytes of memory, bytes a second of memory and of the connection to the others (0: not counted), and
    seconds that an operation takes to start.
    """

    name: str
    flops: float
    half: float
    memory: float
    bandwidth: float
    link: float = 0.0
    start: float = START


def _gpu(name: str, flops: float, half: float, memory: float, bandwidth: float, link: float) -> Device:
    """From a data sheet: teraflops, GB, GB a second."""
    return Device(
        name,
        flops * TERA * SHARE_OF_FLOPS,
        half * TERA * SHARE_OF_FLOPS,
        memory * 1e9,
        bandwidth * 1e9 * SHARE_OF_BANDWIDTH,
        link * 1e9 * SHARE_OF_BANDWIDTH,
    )


# float32 without TF32, dense 16 bit; the connection in one direction.
GPUS = {
    device.name: device
    for device in (
        _gpu("h200", 67, 989, 141, 4800, 450),
        _gpu("h100", 67, 989, 80, 3350, 450),
        _gpu("a100", 19.5, 312, 80, 2039, 300),
        _gpu("l40s", 91.6, 362, 48, 864, 32),
        _gpu("a10", 31.2, 125, 24, 600, 32),
        _gpu("l4", 30.3, 121, 24, 300, 32),
        _gpu("v100", 15.7, 125, 32, 900, 150),
        _gpu("t4", 8.1, 65, 16, 320, 16),
    )
}


@dataclass
class Plan:
    """
    Attributes:
        weights: how many are trained, and how many there are.
        rows, steps: rows of an epoch, and its optimisation steps.
        memory: bytes of a device by way of sharing, and by what they are for.
        step_seconds: of a step, by what it is spent on.
        evaluation: whether the time of evaluations comes on top.
    """

    device: Device
    processes: int
    weights: tuple[int, int]
    rows: int
    steps: int
    epochs: float
    flops_per_step: float
    memory: dict[str, dict[str, float]]
    step_seconds: dict[str, float]
    evaluation: bool

    @property
    def epoch_seconds(self) -> float:
        return self.steps * sum(self.step_seconds.values())

    def peak(self, way: str) -> float:
        return sum(self.memory[way].values())


def make_plan(config: RunConfig, processes: int, device: Device | None = None) -> Plan:
    """
    Args:
        config: of a run whose data are prepared, and tokenized where the method needs it.
        processes: how many devices train together.
        device: what they are; `None` for processors like this one, which are measured.

    Raises:
        ValueError, OSError: for data that are not there, or arguments that no model can be built of.
    """
    arguments = config.training
    arguments.report_to = []
    trainer = load_method(config.model.method).build_trainer(config)
    model = trainer.model.train()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    size, accumulated = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    order = list(trainer._get_train_sampler())
    steps = math.ceil(len(order) / (size * accumulated * processes))
    steps = steps if arguments.max_steps <= 0 else min(steps, arguments.max_steps)
    # In the middle of the training, when all terms of the loss are there.
    trainer.state.epoch = arguments.num_train_epochs / 2
    trainer.state.max_steps = max(int(steps * arguments.num_train_epochs), 1)
    trainer.state.global_step = trainer.state.max_steps // 2

    if total > LARGE:
        one, two = (
            trainer.data_collator([trainer.train_dataset[row] for row in order[:rows]]) for rows in (1, min(2, size))
        )
        counted = [_counted(trainer, one, 1), _counted(trainer, two, min(2, size))]
    else:
        samples = _sampled(trainer.train_dataset, order, size)
        counted = [_counted(trainer, trainer.data_collator(rows), len(rows)) for rows in samples]
    measured = device is None
    if device is None:
        device = _this_machine(trainer, order, max(counted, key=lambda counts: counts.flops), size)
    half = arguments.bf16 or arguments.fp16
    speed = device.half if half else device.flops
    saved = 0.5 if half else 1.0  # bytes of activations against float32
    seconds = [counts.seconds(speed, device.bandwidth / saved, device.start, not measured) for counts in counted]
    activations, flops_of_batch = [float(counts.activations) for counts in counted], [c.flops for c in counted]
    if total > LARGE:
        # Of one row and two the most at once may be a large weight's gradient, however many rows there are.
        more = max(activations[-1] - activations[0], float(counted[-1].kept - counted[0].kept))
        activations = [activations[0], activations[0] + more]
        seconds, activations, flops_of_batch = ([_extended(of, size)] for of in (seconds, activations, flops_of_batch))
    optimizer = _optimizer_bytes(arguments, trained)
    step_seconds = {
        "forward and backward": accumulated * sum(seconds) / len(seconds),
        "optimizer": (5 * 4.0 * trained + 2 * optimizer) / device.bandwidth,
    }
    if device.link and processes > 1:
        step_seconds["gradients between devices"] = 8.0 * trained * (processes - 1) / processes / device.link
    if measured:
        step_seconds["batches"] = accumulated * _seconds_of_batches(trainer, order, size)
    memory = _memory(4.0 * total, 4.0 * trained, optimizer, max(activations) * saved, processes)
    if measured:
        memory = {"one process or DDP": {"libraries, data and weights": before} | memory["DDP"]}
        del memory["one process or DDP"]["weights"]
    return Plan(
        device,
        processes,
        (trained, total),
        len(order),
        steps,
        arguments.num_train_epochs,
        accumulated * sum(flops_of_batch) / len(flops_of_batch),
        memory,
        step_seconds,
        arguments.eval_strategy != "no",
    )


def _sampled(dataset: Any, order: list[int], size: int) -> Iterator[list[Any]]:
    """The examples of a few batches of an epoch; the first has the longest row."""
    number = math.ceil(len(order) / size)
    for sample in range(min(SAMPLES, number)):
        start = sample * number // min(SAMPLES, number) * size
        yield [dataset[row] for row in order[start : start + size]]


def _loss(trainer: Any, batch: Any) -> torch.Tensor:
    device = torch.device("cpu")
    targets = trainer._get_num_items_in_batch([batch], device)
    return trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=targets)


def _counted(trainer: Any, batch: Any, rows: int) -> StepCounts:
    return count_step(trainer.model, lambda: _loss(trainer, batch), rows)


def _extended(values: list[float], rows: int) -> float:
    """Of values for one row and two rows, the value for more of them."""
    return values[0] + (values[-1] - values[0]) * (rows - 1)


def _this_machine(trainer: Any, order: list[int], biggest: StepCounts, size: int) -> Device:
    """What this machine does a second: in matrix products of the model's sizes, and in two steps."""
    flops = measured_flops(biggest)
    large = sum(weight.numel() for weight in trainer.model.parameters()) > LARGE
    timed: list[tuple[StepCounts, float]] = []
    for rows in (1, 2) if large else (max(1, size // 4), size):
        chosen = [order[row % len(order)] for row in range(rows)]
        batch = trainer.data_collator([trainer.train_dataset[row] for row in chosen])
        counts = _counted(trainer, batch, rows)
        timed.append((counts, usual_seconds(lambda batch=batch: _loss(trainer, batch).backward())))  # type: ignore[misc]
    per_byte, start = measured_costs(timed[0], timed[1], flops)
    return Device("cpu", flops, flops, math.inf, 1 / per_byte, start=start)


def _seconds_of_batches(trainer: Any, order: list[int], size: int) -> float:
    rows = order[len(order) // 2 :][:size]
    return usual_seconds(lambda: trainer.data_collator([trainer.train_dataset[row] for row in rows]))


def _optimizer_bytes(arguments: Any, trained: int) -> float:
    """Of the optimizer's states: two numbers a weight, but for those that are known to have less."""
    name = str(getattr(arguments.optim, "value", arguments.optim))
    each = 2.0 if "8bit" in name else 0.1 if "adafactor" in name else 4.0 if name in ("sgd", "lion_32bit") else 8.0
    return each * trained


def _memory(
    weights: float, gradients: float, optimizer: float, activations: float, processes: int
) -> dict[str, dict[str, float]]:
    """By way of sharing, bytes per device."""
    buckets = gradients if processes > 1 else 0.0  # what gradients are summed up in
    part = 1.0 / processes
    ways = {"DDP": (1.0, 1.0, 1.0, buckets), "ZeRO-2": (1.0, part, part, 0.0), "ZeRO-3": (part, part, part, 0.0)}
    found = {}
    for way, (of_weights, of_gradients, of_optimizer, more) in ways.items():
        found[way] = {
            "weights": weights * of_weights,
            "gradients": gradients * of_gradients + more,
            "optimizer": optimizer * of_optimizer,
            "activations": activations,
        }
    return found
