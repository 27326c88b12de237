"""Work on tensors in a thread that ends with it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_own_thread(work: Callable[[], Result]) -> Result:
    """
    `work()`, in a thread that ends with it.

    OpenMP keeps a team of threads for every thread that has computed with torch. Where two teams have more threads than
    the machine has cores, both sleep between operations, and a small model takes up to 1.8 times as long. So whatever
    computes beside the thread that answers requests must not outlive its work.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
