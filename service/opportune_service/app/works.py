"""What callers queue, what they are answered, and what is committed together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from opportune_service.app.log import Item
from opportune_service.app.records import LogKind, Quarantined
from opportune_service.core.backfill import Fill
from opportune_service.core.events import ContextRecord, Due, Event, Rejection
from opportune_service.core.observe import Observed
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import EventKey, Moment, OpenPrompt, Response, Touch, Verdict

HOUR_US = 3_600_000_000


@dataclass(slots=True)
class Receipt:
    """What became of one batch. Given out only after everything in it is durable.

    `accepted`: events, context records, fills, timers or triggers that were taken in; what else comes of
    events, such as timers that fell due among them, does not count. `outdated`: context records, among
    those accepted, that were older than everything they named.
    """

    accepted: int
    duplicates: int
    rejections: list[Rejection]
    verdicts: list[Verdict]
    revision: str
    ignored_attributes: int = 0
    outdated: int = 0


@dataclass(slots=True)
class Work:
    """One queued piece of work: a batch of events, of context, of fills, or of what is due; time to run on;
    or a revision to close. `now_us` None: each event's own time (replay).

    `indexes`: of a part of a work, where its events stood in what the caller sent; see `split`.
    `run_to_us`: settle timers that are due up to then; with a `now_us`, only a turn's worth, by watermarks.
    `deferred_to_us`: decide again a turn's worth of what was deferred and is due by then. `showing`:
    prompts to decide again because the service itself shows them at the touch point. `generation`: of the
    record from which it was made (`LiveRevision.generation`); under another one it is refused. `faulty`:
    events on which we failed, to be rejected. `place`: where it waits (`Waiting`); 0 if it never did.
    `between`: what to call between two groups; if it is about somebody (`about`), after what waits of them.
    """

    done: asyncio.Future[Receipt]
    source: str = ""
    events: Sequence[Event] = ()
    records: Sequence[ContextRecord] = ()
    fills: Sequence[Fill] = ()
    dues: Sequence[Due] = ()
    run_to_us: int | None = None
    deferred_to_us: int | None = None
    now_us: int | None = None
    touch_point: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    showing: Sequence[OpenPrompt] = ()
    indexes: Sequence[int] = ()
    faulty: Collection[EventKey] = ()
    place: int = 0
    generation: int | None = None
    retire: Revision | None = None
    between: Callable[[], Awaitable[None]] | None = None
    about: str = ""

    @property
    def size(self) -> int:
        return len(self.events) + len(self.records) + len(self.fills) + len(self.dues) + len(self.showing)

    @property
    def subscriber_ids(self) -> set[str]:
        """Of whom it tells something that has to be taken in in order."""
        told = (self.events, self.records, self.fills, self.dues)
        return {each.subscriber_id for those in told for each in those}

    def split(self, busy: Collection[str]) -> tuple[Work, Work]:
        """The part of those who are not `busy`, and the rest. When both are answered, this is: with what
        became of both, or with the error of one, though the other may count already."""
        parts = (Work(_future(self)), Work(_future(self)))
        if self.subscriber_ids.issubset(busy):  # however often it is tried, there is nothing to join
            parts[0].source, parts[0].now_us = self.source, self.now_us
            parts[0].done.add_done_callback(_hear)
            return parts[0], self
        for part, rest in zip(parts, (False, True), strict=True):
            part.source, part.now_us, part.generation = self.source, self.now_us, self.generation
            part.touch_point, part.prompts, part.faulty = self.touch_point, self.prompts, self.faulty
            part.place = self.place
            indexes = self.indexes or range(len(self.events))
            chosen = [
                (index, event)
                for index, event in zip(indexes, self.events, strict=True)
                if (event.subscriber_id in busy) is rest
            ]
            part.indexes, part.events = [i for i, _ in chosen], [event for _, event in chosen]
            part.records = [each for each in self.records if (each.subscriber_id in busy) is rest]
            part.fills = [each for each in self.fills if (each.subscriber_id in busy) is rest]
            part.dues = [each for each in self.dues if (each.subscriber_id in busy) is rest]
            part.done.add_done_callback(
                lambda _: _join(self.done, [each.done for each in parts], self.events)
            )
        self.done.add_done_callback(lambda done: _give_up(done, [each.done for each in parts]))
        return parts


def _future(work: Work) -> asyncio.Future[Receipt]:
    return work.done.get_loop().create_future()


def _hear(done: asyncio.Future[Receipt]) -> None:
    """Nobody waits for it: its error is not to be reported as one that nobody has seen."""
    if not done.cancelled():
        done.exception()


def _give_up(done: asyncio.Future[Receipt], parts: Sequence[asyncio.Future[Receipt]]) -> None:
    if done.cancelled():
        for part in parts:
            part.cancel()


def _join(
    done: asyncio.Future[Receipt], parts: Sequence[asyncio.Future[Receipt]], events: Sequence[Event]
) -> None:
    failed = [part for part in parts if part.done() and not part.cancelled() and part.exception()]
    if done.done() or not (failed or all(part.done() for part in parts)):
        return
    if failed:
        done.set_exception(failed[0].exception() or RuntimeError)
        return
    first, rest = (part.result() for part in parts)
    # Of one that comes twice, the first counts.
    places = {(each.subscriber_id, each.id): -n for n, each in enumerate(reversed(events))}

    def place(verdict: Verdict) -> int:
        """Where the event of a verdict stood; what comes of something else comes last."""
        return places.get((verdict.key.subscriber_id, verdict.key.event_id), 1)

    done.set_result(
        Receipt(
            first.accepted + rest.accepted,
            first.duplicates + rest.duplicates,
            sorted(first.rejections + rest.rejections, key=lambda each: each.index),
            sorted(first.verdicts + rest.verdicts, key=place),
            rest.revision,
            first.ignored_attributes + rest.ignored_attributes,
            first.outdated + rest.outdated,
        )
    )


@dataclass(slots=True)
class Batch:
    """What was observed under one log position: all there is to make durable of it.

    `items` are those accepted, without duplicates. `kind` None: there is nothing to log, only to decide.
    `now_us` 0: the own time of each. `revision`: the one in full force, with those beside it. `steps`, in
    order: moments to decide, and responses to what was decided before. `verdicts` is filled by the commit:
    one for each moment, decided now or before.
    """

    position: int
    kind: LogKind | None
    source: str
    now_us: int
    revision: Revision
    verdicts: list[Verdict]
    items: list[Item] = field(default_factory=list)
    steps: list[Moment | Response] = field(default_factory=list)


class Shadowed(NamedTuple):
    """A moment of a shadow."""

    revision: Revision
    moment: Moment


@dataclass(slots=True)
class Group:
    """What is committed together, with what to answer. `rejected`: events to keep in quarantine; `touches`:
    for the contact view; `derived`: (type, hour) of derived events; `shadowed`: what a shadow decides.

    `held`: subscribers whose states were loaded for it; `touched`: those whose states it changes; `said`:
    those of them of whom something was said that is in the context. `busy`: those whom another member held
    or waits for, or is to be told something of first: nothing of them is taken in before the next group.
    `waits` tells, of a subscriber and the place of a work, of whom something comes before that; None if
    nothing waits. `works`: what was taken in; `rests`: what was not, and waits.
    """

    batches: list[Batch] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    derived: Counter[tuple[str, int]] = field(default_factory=Counter)
    shadowed: list[Shadowed] = field(default_factory=list)
    rejected: list[Quarantined] = field(default_factory=list)
    answers: list[tuple[Work, Receipt]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    waits: Callable[[str, int], bool] | None = None
    works: list[Work] = field(default_factory=list)
    rests: list[Work] = field(default_factory=list)


def one_more(position: int) -> int:
    """The position after, where nobody else writes the log."""
    return position + 1


class Draft:
    """The batches of one piece of work as it is observed, for a group. Items of one kind that follow each
    other share a log position. `following` gives the position after one."""

    def __init__(
        self,
        work: Work,
        group: Group,
        revision: Revision,
        position: int,
        following: Callable[[int], int] = one_more,
    ) -> None:
        self.work = work
        self.group = group
        self.revision = revision
        self.last_position = position
        self._least = position
        self._following = following
        self.batches: list[Batch] = []
        self.touches: list[Touch] = []
        self.derived: Counter[tuple[str, int]] = Counter()
        self.shadowed: list[Shadowed] = []
        self.receipt = Receipt(0, 0, [], [], revision.id)

    def above(self, position: int) -> None:
        """What is observed from now on comes after what is logged under this position."""
        self._least = max(self._least, position)

    def position(self, kind: LogKind) -> int:
        """Under which items of this kind, observed now, will be logged."""
        if self.batches and self.batches[-1].kind is kind and self.last_position >= self._least:
            return self.last_position
        return self._following(max(self.last_position, self._least))

    def note(self, observed: Observed) -> None:
        """Keep what is known of it besides what is logged and decided."""
        self.touches += observed.touches
        self.group.said |= observed.refused
        self.derived.update((name, at_us // HOUR_US) for name, at_us in observed.derived)
        shadow = self.revision.shadow
        if shadow is not None:
            self.shadowed += [Shadowed(shadow, moment) for moment in observed.shadowed]

    def decide(self, moment: Moment) -> None:
        """Keep a moment of which there is nothing to log."""
        if not self.batches or self.batches[-1].kind is not None:
            self._begin(None, self.last_position)
        self.batches[-1].steps.append(moment)

    def _begin(self, kind: LogKind | None, position: int) -> None:
        source = "" if kind is LogKind.TIMERS else self.work.source
        now_us, verdicts = self.work.now_us or 0, self.receipt.verdicts
        self.batches.append(Batch(position, kind, source, now_us, self.revision, verdicts))

    def add(self, kind: LogKind, items: Sequence[Item], steps: Sequence[Moment | Response] = ()) -> None:
        """Keep what was observed under `position(kind)`; that of what came to nothing is free again."""
        if not items:
            return
        position = self.position(kind)
        if position != self.last_position:
            self._begin(kind, position)
            self.last_position = position
        self.batches[-1].items.extend(items)
        self.batches[-1].steps.extend(steps)
        if kind is LogKind.EVENTS or not self.work.events:
            self.receipt.accepted += len(items)
