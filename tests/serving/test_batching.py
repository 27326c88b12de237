"""What arrives together is answered together, in order, within limits."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hf_genrec.serving.batching import Batcher, QueueFull
from hf_genrec.serving.served_model import Question
from hf_genrec.serving.settings import ServerSettings


def question(name: int, histories: int = 1) -> Question:
    return Question([np.array([name])] * histories, k=1)


class Answers:
    """Answers each question with the numbers in it, and notes the batches."""

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.batches = seconds, []

    def __call__(self, questions):
        time.sleep(self.seconds)
        self.batches.append([int(one.histories[0][0]) for one in questions])
        return [([[str(int(history[0])) for history in one.histories]], [[0.0]]) for one in questions]


def with_batcher(answers, body, **settings):
    async def run():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(answers, ServerSettings(**settings), thread)
            batcher.start()
            try:
                return await body(batcher)
            finally:
                await batcher.stop()

    return asyncio.run(run())


def test_questions_that_arrive_while_others_are_answered_make_the_next_batch():
    answers = Answers(0.05)

    async def body(batcher):
        first = asyncio.create_task(batcher.ask(question(0)))
        await asyncio.sleep(0.02)
        others = [asyncio.create_task(batcher.ask(question(name))) for name in range(1, 8)]
        return [await task for task in (first, *others)]

    found = with_batcher(answers, body)
    assert answers.batches == [[0], [1, 2, 3, 4, 5, 6, 7]]
    assert [one.answer[0][0][0] for one in found] == [str(name) for name in range(8)]
    assert [one.batch for one in found] == [1] + [7] * 7


def test_a_batch_holds_no_more_histories_than_it_may_but_for_one_large_question():
    answers = Answers(0.05)

    async def body(batcher):
        asked = [question(0), question(1, 3), question(2, 3), question(3, 9), question(4)]
        return await asyncio.gather(*(batcher.ask(one) for one in asked))

    with_batcher(answers, body, max_batch=4)
    assert answers.batches == [[0, 1], [2], [3], [4]]


def test_a_lone_client_never_waits_and_several_do_for_one_another():
    answers = Answers()

    async def alone(batcher):
        began = time.perf_counter()
        for name in range(5):
            await batcher.ask(question(name))
        return time.perf_counter() - began

    assert with_batcher(answers, alone, max_wait_ms=1000) < 0.5
    assert answers.batches == [[0], [1], [2], [3], [4]]

    answers = Answers()

    async def together(batcher):
        await asyncio.gather(*(batcher.ask(question(name)) for name in range(4)))
        late = asyncio.create_task(batcher.ask(question(10)))
        await asyncio.sleep(0.05)  # the last batch had four: it waits for three more
        assert answers.batches == [[0, 1, 2, 3]]
        await asyncio.gather(late, *(batcher.ask(question(name)) for name in (11, 12, 13)))
        began = time.perf_counter()
        await batcher.ask(question(20))
        return time.perf_counter() - began

    waited = with_batcher(answers, together, max_wait_ms=300)
    assert answers.batches == [[0, 1, 2, 3], [10, 11, 12, 13], [20]]
    assert 0.29 < waited < 2


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    answers = Answers(0.05)

    async def body(batcher):
        tasks = [asyncio.create_task(batcher.ask(question(name))) for name in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as full:
            await batcher.ask(question(3))
        assert full.value.retry_after >= 1
        with pytest.raises(QueueFull):
            await batcher.ask(question(4, histories=9))  # it would never fit
        await asyncio.gather(*tasks)
        await batcher.ask(question(5))

    with_batcher(answers, body, max_queue=3)
    assert sorted(name for batch in answers.batches for name in batch) == [0, 1, 2, 5]


def test_a_question_that_nobody_waits_for_any_more_is_not_asked():
    answers = Answers(0.2)

    async def body(batcher):
        first = asyncio.create_task(batcher.ask(question(0)))
        await asyncio.sleep(0.05)
        given_up = asyncio.create_task(batcher.ask(question(1)))
        await asyncio.sleep(0.02)
        given_up.cancel()
        await first
        await batcher.ask(question(2))

    with_batcher(answers, body)
    assert answers.batches == [[0], [2]]


def test_what_waits_is_answered_before_it_stops():
    answers = Answers(0.05)

    async def run():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(answers, ServerSettings(max_batch=1), thread)
            batcher.start()
            tasks = [asyncio.create_task(batcher.ask(question(name))) for name in range(4)]
            await asyncio.sleep(0.01)
            await batcher.stop()
            return [(await task).answer[0][0][0] for task in tasks]

    assert asyncio.run(run()) == ["0", "1", "2", "3"]


def test_what_is_called_comes_between_two_batches():
    answers, order = Answers(0.05), []

    async def body(batcher):
        task = asyncio.create_task(batcher.ask(question(0)))
        await asyncio.sleep(0.01)
        await batcher.call(lambda: order.append(len(answers.batches)))
        await task

    with_batcher(answers, body)
    assert order == [1]
