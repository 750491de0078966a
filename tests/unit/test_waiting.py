"""What waits for subscribers whom others hold: in turn, and of each subscriber in order."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import pytest
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.waiting import Waiting
from opportune_service.app.work_queue import GROUP_EVENTS, WorkQueue
from opportune_service.app.works import Receipt, Work
from opportune_service.core.events import Event
from support.applications import in_loop

PEOPLE = [f"86138{n:08}" for n in range(8)]
ANNE, BOB, CARL = PEOPLE[:3]


def work(name: str, *people: str) -> Work:
    events = [Event(f"{name}-{n}", who, "sms_sent", n) for n, who in enumerate(people)]
    return Work(asyncio.get_running_loop().create_future(), source=name, events=events)


def names(works: Sequence[Work]) -> list[str]:
    return [each.source for each in works]


def waiting_for(*works: Work) -> Waiting:
    waiting = Waiting()
    for each in works:
        waiting.put(each)
    return waiting


def test_each_has_its_turn_and_keeps_its_place() -> None:
    async def body() -> None:
        waiting = waiting_for(*(work(str(n), ANNE) for n in range(5)))
        seen = []
        for _ in range(4):
            tried = waiting.take_turn(2)
            seen.append(names(tried))
            for each in tried:
                waiting.put(each)
        assert seen == [["0", "1"], ["2", "3"], ["4"], ["0", "1"]]
        assert waiting.events == 5
        assert names(waiting.take_all()) == ["0", "1", "2", "3", "4"]
        assert (len(waiting), waiting.events) == (0, 0)

    in_loop(body)


def test_of_a_subscriber_what_came_first_comes_first() -> None:
    async def body() -> None:
        waiting = waiting_for(work("0", ANNE), work("1", ANNE, BOB), work("2", CARL))
        (first,) = waiting.take_turn(1)
        assert not waiting.comes_first(ANNE, first.place), "it is the first of hers"
        assert waiting.comes_first(ANNE, 0), "but not the last"
        (second,) = waiting.take_turn(1)
        assert not waiting.comes_first(ANNE, second.place), "the one before is not there any more"
        waiting.put(first)
        assert waiting.comes_first(ANNE, second.place)
        assert not waiting.comes_first(BOB, second.place)
        assert not waiting.comes_first(BOB, 0)
        assert waiting.comes_first(CARL, 0)

    in_loop(body)


def test_a_work_of_which_nothing_can_be_taken_in_stays_as_it_is() -> None:
    async def body() -> None:
        whole = work("0", ANNE, BOB)
        part, rest = whole.split({ANNE, BOB, CARL})
        assert (rest, part.size, part.source) == (whole, 0, "0")
        part.done.set_result(Receipt(0, 0, [], [], ""))
        await asyncio.sleep(0)
        assert not whole.done.done()

    in_loop(body)


def test_an_error_of_the_part_that_nobody_waits_for_is_not_reported_as_unseen() -> None:
    async def body() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: reported.append(about))
        part, _ = work("0", ANNE).split({ANNE})
        part.done.set_exception(StoreUnavailableError("away"))
        await asyncio.sleep(0)
        del part
        gc.collect()
        assert reported == []

    in_loop(body)


class Pipeline:
    """As much of one as is about who waits: each group has its own subscribers who are busy. `orderly`: it
    asks for whom something comes first."""

    def __init__(self, *, orderly: bool = True) -> None:
        self.queue = WorkQueue(lambda: None)
        self.orderly = orderly
        self.taken: defaultdict[str, list[str]] = defaultdict(list)

    def group(self, held_by_others: set[str]) -> None:
        busy, rests = set(held_by_others), []
        for each in self.queue.take():
            if self.orderly:
                comes_first = self.queue.waiting.comes_first
                busy |= {who for who in each.subscriber_ids if comes_first(who, each.place)}
            part, rest = each.split(busy) if each.subscriber_ids & busy else (each, None)
            if rest is not None:
                rests.append(rest)
            for event in part.events:
                self.taken[event.subscriber_id].append(event.id)
        for rest in rests:
            self.queue.waiting.put(rest)


Order = Mapping[str, Sequence[str]]


async def live(seed: int, *, orderly: bool = True) -> tuple[Order, Order]:
    """In which order the events of each subscriber came, by one lane, and in which they were taken in."""
    rnd = random.Random(seed)
    pipeline = Pipeline(orderly=orderly)
    came: defaultdict[str, list[str]] = defaultdict(list)
    for n in range(60):
        for m in range(rnd.randint(0, 3)):
            made = work(f"{n}-{m}", *rnd.choices(PEOPLE, k=rnd.choice([1, 5, GROUP_EVENTS // 2])))
            for event in made.events:
                came[event.subscriber_id].append(event.id)
            await pipeline.queue.put(made, ahead=seed % 2 == 0)
        if rnd.random() < 0.05:
            pipeline.queue.put_back(())
        pipeline.group({who for who in PEOPLE if rnd.random() < 0.3})
    while pipeline.queue.events:
        pipeline.group(set())
    return came, pipeline.taken


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_busy_when_all_is_taken_in_in_the_order_of_each_subscriber(seed: int) -> None:
    came, taken = in_loop(live, seed)
    assert taken == came


def test_control_without_asking_for_whom_something_comes_first_it_is_not() -> None:
    came, taken = in_loop(lambda: live(4, orderly=False))
    assert taken != came
    assert {who: sorted(ids) for who, ids in taken.items()} == {
        who: sorted(ids) for who, ids in came.items()
    }


def test_whoever_waits_has_a_turn_though_more_come_to_wait_all_the_time() -> None:
    """In each group another work comes to wait: those before have their turn all the same."""

    async def body() -> None:
        pipeline = Pipeline()
        await pipeline.queue.put(work("first", ANNE))
        for n in range(20):
            await pipeline.queue.put(work(str(n), ANNE))
            pipeline.group({ANNE} if n < 5 else set())
        assert pipeline.taken[ANNE][:1] == ["first-0"]
        assert pipeline.queue.waiting.events < 10

    in_loop(body)
