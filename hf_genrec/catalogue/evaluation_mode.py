"""Evaluation mode for as long as somebody needs it, in several threads at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch


@dataclass
class _Inside:
    """Who is in [`evaluation_mode`] of a model, and the modes its modules are given back."""

    modes: dict[torch.nn.Module, bool] = field(default_factory=dict)
    threads: int = 0


_lock = threading.Lock()
_inside: WeakKeyDictionary[torch.nn.Module, _Inside] = WeakKeyDictionary()


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """
    The model as `eval()` makes it, and afterwards each module in the mode it was in. Of several threads the first one
    changes the mode and the last one to leave restores it.
    """
    with _lock:
        inside = _inside.setdefault(model, _Inside())
        inside.threads += 1
        modes = {module: module.training for module in model.modules()}
        if any(modes.values()):  # else there is nothing to change, and nothing to restore
            inside.modes = modes
            model.eval()
    try:
        yield
    finally:
        with _lock:
            inside.threads -= 1
            if not inside.threads:
                del _inside[model]
                if inside.modes:
                    model.train(inside.modes[model])
                    for module, mode in inside.modes.items():
                        module.training = mode
