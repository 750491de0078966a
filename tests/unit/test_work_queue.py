"""Which works make up a commit group."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from opportune_service.app.work_queue import GROUP_EVENTS, MAX_QUEUED_EVENTS, WorkQueue
from opportune_service.app.works import Work
from opportune_service.core.events import Event

BATCH = 500


def work(name: str, size: int = 1, between: Callable[[], Awaitable[None]] | None = None) -> Work:
    events = [Event(f"{name}-{n}", "8613800000001", "sms_sent", n) for n in range(size)]
    return Work(asyncio.get_running_loop().create_future(), source=name, events=events, between=between)


def names(works: Sequence[Work]) -> list[str]:
    return [each.source for each in works]


async def nothing() -> None:
    """A call between groups."""


def queue_of() -> tuple[WorkQueue, asyncio.Event]:
    woken = asyncio.Event()
    return WorkQueue(woken.set), woken


def test_what_is_waited_for_does_not_stand_behind_all_that_streams_sent_ahead() -> None:
    async def body() -> None:
        queue, woken = queue_of()
        for n in range(10):
            await queue.put(work(f"stream {n}", BATCH), ahead=True)
        await queue.put(work("call"))
        assert names(queue.take()) == ["call", "stream 0", "stream 1", "stream 2", "stream 3"]
        assert woken.is_set()

    asyncio.run(body())


def test_each_lane_has_half_of_a_group_where_both_have_more() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        for n in range(6):
            await queue.put(work(f"stream {n}", BATCH), ahead=True)
            await queue.put(work(f"import {n}", BATCH))
        taken = [names(queue.take()) for _ in range(3)]
        assert taken[:2] == [
            ["import 0", "import 1", "stream 0", "stream 1"],
            ["import 2", "import 3", "stream 2", "stream 3"],
        ]
        assert queue.take() == []
        assert queue.events == 0

    asyncio.run(body())


def test_alone_a_lane_has_all_of_a_group() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        for ahead in (True, False):
            for n in range(5):
                await queue.put(work(str(n), BATCH), ahead=ahead)
            assert names(queue.take()) == ["0", "1", "2", "3"]
            assert names(queue.take()) == ["4"]

    asyncio.run(body())


def test_a_group_is_joined_up_to_its_size_and_not_past_what_stands_alone() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        for n in range(3):
            await queue.put(work(f"call {n}"))
        await queue.put(work("between", 0, nothing))
        await queue.put(work("later"))
        await queue.put(work("stream", BATCH), ahead=True)
        assert queue.take_more(GROUP_EVENTS) == []
        assert names(queue.take_more(GROUP_EVENTS - 2)) == ["call 0", "stream"]
        assert names(queue.take_more(BATCH)) == ["call 1", "call 2"]
        assert queue.take_more(BATCH) == []
        assert names(queue.take()) == ["between"]
        assert names(queue.take()) == ["later"]

    asyncio.run(body())


def test_what_stands_alone_does_not_wait_for_a_stream_to_end() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        await queue.put(work("between", 0, nothing))
        for n in range(2):
            await queue.put(work(f"stream {n}", BATCH), ahead=True)
        assert names(queue.take()) == ["between"]

    asyncio.run(body())


def test_what_is_urgent_joins_nothing_and_is_first() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        await queue.put(work("call"))
        queue.put_urgent(work("urgent", 0, nothing))
        assert queue.take_more(0) == []
        assert names(queue.take()) == ["urgent"]
        assert names(queue.take()) == ["call"]

    asyncio.run(body())


def test_a_stream_that_is_held_back_holds_back_nobody_who_waits_for_an_answer() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        await queue.put(work("much", MAX_QUEUED_EVENTS), ahead=True)
        held_back = asyncio.create_task(queue.put(work("more", BATCH), ahead=True))
        async with asyncio.timeout(5):
            await queue.put(work("call"))
        assert not held_back.done()
        assert names(queue.take()) == ["call", "much"]
        async with asyncio.timeout(5):
            await held_back
        assert names(queue.take()) == ["more"]

    asyncio.run(body())


def test_what_was_taken_before_is_taken_again_before_what_its_stream_sent_after_it() -> None:
    """However much it is: of a stream, what was sent first is taken in first."""

    async def body() -> None:
        queue, _ = queue_of()
        for n in range(10):
            await queue.put(work(f"stream {n}", BATCH), ahead=True)
        queue.put_back([*queue.take(), *queue.take()])
        await queue.put(work("call"))
        assert names(queue.take()) == [f"stream {n}" for n in range(4)]
        assert names(queue.take()) == [f"stream {n}" for n in range(4, 8)]
        assert names(queue.take()) == ["call", "stream 8", "stream 9"]

    asyncio.run(body())


def test_what_was_taken_before_is_not_taken_past_what_stands_alone_among_it() -> None:
    async def body() -> None:
        queue, _ = queue_of()
        await queue.put(work("call"))
        await queue.put(work("stream"), ahead=True)
        queue.put_back([work("before"), work("between", 0, nothing), work("after")])
        assert queue.events == 4
        assert names(queue.take()) == ["before"]
        assert queue.take_more(1) == []
        assert names(queue.take()) == ["between"]
        assert names(queue.take()) == ["after", "call", "stream"]
        assert queue.events == 0

    asyncio.run(body())


def test_what_stands_alone_waits_only_for_what_came_before_it() -> None:
    """However often that is put back, for other members are at work on it."""

    async def body() -> None:
        queue, _ = queue_of()
        await queue.put(work("call"))
        await queue.put(work("between", 0, nothing))
        works = queue.take()
        for n in range(3):
            queue.put_back(works)
            await queue.put(work(f"stream {n}"), ahead=True)
            works = queue.take()
            assert names(works) == ["call"]
            assert queue.take_more(1) == []
        assert names(queue.take()) == ["between"]
        assert names(queue.take()) == ["stream 0", "stream 1", "stream 2"]

    asyncio.run(body())
