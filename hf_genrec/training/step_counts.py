"""What a training step does, counted while it is done once: operations, bytes read and written, and memory."""

import statistics
import time
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LOOKS_UP = ("embedding", "index_select", "gather", "index")  # read as much of their table as they write


@dataclass
class StepCounts:
    """
    Attributes:
        operations: per operation its multiplications and additions, and the bytes that it reads and writes.
        products: by sizes (m, k, n), the multiplications and additions of matrix products of these sizes.
        activations: bytes at once at the most, without weights, gradients and optimizer.
        kept: bytes that the forward pass leaves to the backward pass.
        rows: rows of the batch.
    """

    operations: list[tuple[float, float]] = field(default_factory=list)
    products: dict[tuple[int, int, int], float] = field(default_factory=lambda: defaultdict(float))
    activations: int = 0
    kept: int = 0
    rows: int = 0

    @property
    def flops(self) -> float:
        return sum(flops for flops, _ in self.operations)

    @property
    def moved(self) -> float:
        return sum(moved for _, moved in self.operations)

    def seconds(self, flops_per_second: float, bytes_per_second: float, start: float, overlap: bool) -> float:
        """
        What arithmetic and memory take, and the operations to start. With `overlap` an operation takes the longer of
        the two, as on a GPU.
        """
        join: Any = max if overlap else sum
        return sum(
            start + join((flops / flops_per_second, moved / bytes_per_second)) for flops, moved in self.operations
        )


class CountingMode(TorchDispatchMode):
    """Counts into a [`StepCounts`] what is computed meanwhile."""

    def __init__(self, counts: StepCounts, model: Any):
        super().__init__()
        self.counts = counts
        self.live = 0
        self.gradients = 0
        # What the model holds is no activation: a view of a weight is kept for the backward pass, too.
        held = [*model.parameters(), *model.buffers()]
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor in results:
            self._keep(tensor)
        self.counts.activations = max(self.counts.activations, self.live - self.gradients)
        if func.is_view or not results:
            return out
        written = sum(tensor.nbytes for tensor in results)
        read = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        if packet.__name__ in LOOKS_UP:
            read = written
        flops = 0.0
        if packet in flop_registry:
            flops = float(flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet.__name__.startswith("_scaled_dot_product") and "backward" not in packet.__name__:
            query, key = args[0], args[1]
            flops = 4.0 * query.numel() * key.shape[-2]
        elif packet.__name__.startswith("_scaled_dot_product"):
            query, key = args[1], args[2]
            flops = 10.0 * query.numel() * key.shape[-2]
        self.counts.operations.append((flops, float(read + written)))
        if packet.__name__ in ("mm", "addmm"):
            left, right = args[-2:] if packet.__name__ == "addmm" else args[:2]
            self.counts.products[(left.shape[0], left.shape[1], right.shape[1])] += flops
        return out

    def _keep(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._known:
            return
        size = storage.nbytes()
        self.live += size

        def gone(_: Any) -> None:
            self.live -= size
            self._known.pop(place, None)

        self._known[place] = weakref.ref(storage, gone)


def count_step(model: Any, compute_loss: Callable[[], torch.Tensor], rows: int) -> StepCounts:
    """
    Forward and backward pass of a batch, counted. The gradients are left behind.

    Args:
        compute_loss: gives the loss of the batch.
        rows: of the batch.
    """
    counts = StepCounts(rows=rows)
    mode = CountingMode(counts, model)
    handles = []
    for weight in model.parameters():
        weight.grad = None
        if weight.requires_grad:
            handles.append(weight.register_post_accumulate_grad_hook(lambda kept: _count_gradient(mode, kept)))
    try:
        with mode:
            loss = compute_loss()
            counts.kept = mode.live
            loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def _count_gradient(mode: CountingMode, weight: torch.Tensor) -> None:
    mode.gradients += 0 if weight.grad is None else weight.grad.nbytes


def usual_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The median of a few times that some work takes; with one thread its CPU time, whoever else computes."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found = []
    for _ in range(repeats):
        start = clock()
        work()
        found.append(clock() - start)
    return statistics.median(found)


def measured_flops(counts: StepCounts, dtype: torch.dtype = torch.float32) -> float:
    """Multiplications and additions a second of this machine, in products of the sizes that the step has most of."""
    total, seconds = 0.0, 0.0
    for (rows, inner, columns), flops in sorted(counts.products.items(), key=lambda item: -item[1])[:5]:
        left, right = torch.rand(rows, inner, dtype=dtype), torch.rand(inner, columns, dtype=dtype)
        once = usual_seconds(lambda left=left, right=right: left @ right)  # type: ignore[misc]
        total += flops
        seconds += once * flops / (2.0 * rows * inner * columns)
    return total / seconds if seconds else 1e10


def measured_costs(few: tuple[StepCounts, float], more: tuple[StepCounts, float], flops: float) -> tuple[float, float]:
    """
    What arithmetic does not explain of two steps of different sizes: seconds per byte, and per operation.

    Args:
        few, more: counts of a step and the seconds that it took.
        flops: a second, of [`measured_flops`].
    """
    (one, first), (other, second) = few, more
    first, second = first - one.flops / flops, second - other.flops / flops
    scale = len(other.operations) / max(len(one.operations), 1)
    more_moved = other.moved - one.moved * scale
    per_byte = (second - first * scale) / more_moved if more_moved > 0.1 * other.moved else 0.0
    per_byte = min(max(per_byte, 1e-12), 1e-8)  # from 0.1 GB a second, the least believable, to a terabyte
    return per_byte, max((second - other.moved * per_byte) / max(len(other.operations), 1), 0.0)
