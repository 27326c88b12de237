"""Requests that arrive together are answered together: a queue before the thread that computes."""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from hf_genrec.serving.served_model import Answer, Question
from hf_genrec.serving.settings import ServerSettings


class QueueFull(Exception):
    """
    Attributes:
        retry_after: seconds after which there will be room, at the speed of the last batches.
    """

    def __init__(self, retry_after: int):
        super().__init__(f"{retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Waiting:
    question: Question
    future: asyncio.Future
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Answered:
    """An answer, how many histories were answered with it, and the seconds it waited for its turn."""

    answer: Answer | None
    batch: int
    waited: float


class Batcher:
    """
    Asks the model about what has arrived since it was asked last, `max_batch` histories at a time. After a batch of
    several requests it waits, `max_wait_ms` at most, until as many have arrived again: clients who wait for their
    answers come back together. After a lone one it does not.

    Args:
        answer: from questions to their answers; called by the thread alone, one call at a time.
        thread: what computes, for this model and for others beside it. See [`in_own_thread`] why there is one.
        observe: is told the histories and seconds of each batch.
    """

    def __init__(
        self,
        answer: Callable[[list[Question]], list[Answer | None]],
        settings: ServerSettings,
        thread: Executor,
        observe: Callable[[int, float], None] = lambda histories, seconds: None,
    ):
        self._answer, self._settings, self._thread, self._observe = answer, settings, thread, observe
        self._waiting: deque[_Waiting] = deque()
        self._arrived, self._enough = asyncio.Event(), asyncio.Event()
        self._busy = False
        self._last = 1  # requests in the last batch
        self._seconds_each = 0.0  # of a history, in the last batches
        self._task: asyncio.Task | None = None

    @property
    def queued(self) -> int:
        """Histories that wait."""
        return sum(len(waiting.question.histories) for waiting in self._waiting)

    def start(self) -> None:
        """Begin to answer; in the event loop that the requests come from."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answer what waits, then end."""
        while self._waiting or self._busy:
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()

    async def ask(self, question: Question) -> Answered:
        """
        Raises:
            QueueFull: if too many histories wait.
            TimeoutError: if there is no answer in `timeout_seconds`; the question is dropped.
        """
        room = self._settings.max_queue - self.queued
        if len(question.histories) > room:
            seconds = self._seconds_each * (self.queued + len(question.histories))
            raise QueueFull(max(1, math.ceil(seconds)))
        waiting = _Waiting(question, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        if len(self._waiting) >= self._last or self.queued >= self._settings.max_batch:
            self._enough.set()
        return await asyncio.wait_for(waiting.future, self._settings.timeout_seconds)

    async def call(self, function: Callable[[], Any]) -> Any:
        """What must not happen while the model answers: a change of its catalogue."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def exclusively(self, function: Callable[[], Any]) -> Any:
        """As [`call`], but in the event loop: for what requests that are being read must not see half done, either."""
        loop, entered, left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def hold() -> None:
            loop.call_soon_threadsafe(entered.set)
            left.wait()

        held = loop.run_in_executor(self._thread, hold)
        try:
            await entered.wait()
            return function()
        finally:
            left.set()
            await held

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if self._last > 1 and not self._enough.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), self._settings.max_wait_ms / 1000)
            batch = self._take()
            if batch:
                self._busy = True
                await self._answer_all(batch)
                self._busy = False

    async def _answer_all(self, batch: list[_Waiting]) -> None:
        questions = [waiting.question for waiting in batch]
        began = time.perf_counter()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, questions)
        except Exception as error:  # of this batch alone: the next one may be answered
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        histories = sum(len(question.histories) for question in questions)
        seconds = time.perf_counter() - began
        self._last, self._seconds_each = len(batch), seconds / histories
        self._observe(histories, seconds)
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(Answered(answer, histories, began - waiting.since))

    def _take(self) -> list[_Waiting]:
        """The next batch, in order of arrival; whoever gave up waiting is left out."""
        batch: list[_Waiting] = []
        histories = 0
        while self._waiting:
            if self._waiting[0].future.done():
                self._waiting.popleft()
                continue
            histories += len(self._waiting[0].question.histories)
            if batch and histories > self._settings.max_batch:
                break
            batch.append(self._waiting.popleft())
        self._enough.clear()
        if not self._waiting:
            self._arrived.clear()
        return batch
