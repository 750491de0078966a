"""What callers queue, what they are answered, and what is committed together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from opportune_service.app.log import Item
from opportune_service.app.records import LogKind, Quarantined
from opportune_service.core.backfill import Fill
from opportune_service.core.events import ContextRecord, Due, Event, Rejection
from opportune_service.core.observe import Observed
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import Moment, OpenPrompt, Response, Touch, Verdict

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

    `run_to_us`: settle timers that are due up to then; with a `now_us`, only a turn's worth, by watermarks.
    `deferred_to_us`: decide again a turn's worth of what was deferred and is due by then. `showing`:
    prompts to decide again because the service itself shows them at the touch point.
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
    retire: Revision | None = None
    between: Callable[[], Awaitable[None]] | None = None

    @property
    def size(self) -> int:
        return len(self.events) + len(self.records) + len(self.fills) + len(self.dues) + len(self.showing)


@dataclass(slots=True)
class Batch:
    """What was observed under one log position: all there is to make durable of it.

    `items` are those accepted, without duplicates. `kind` None: there is nothing to log, only to decide.
    `now_us` 0: the own time of each. `steps`, in order: moments to decide, and responses to what was
    decided before. `verdicts` is filled by the commit: one for each moment, decided now or before.
    """

    position: int
    kind: LogKind | None
    source: str
    now_us: int
    revision: Revision
    verdicts: list[Verdict]
    items: list[Item] = field(default_factory=list)
    steps: list[Moment | Response] = field(default_factory=list)


@dataclass(slots=True)
class Group:
    """What is committed together, with what to answer, and the subscribers it touches. `rejected`: events
    to keep in quarantine; `touches`: for the contact view; `derived`: (type, hour) of derived events."""

    batches: list[Batch] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    derived: Counter[tuple[str, int]] = field(default_factory=Counter)
    rejected: list[Quarantined] = field(default_factory=list)
    answers: list[tuple[Work, Receipt]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def works(self) -> list[Work]:
        return [work for work, _ in self.answers]


class Draft:
    """The batches of one piece of work as it is observed. Items of one kind that follow each other share a
    log position."""

    def __init__(self, work: Work, revision: Revision, position: int) -> None:
        self.work = work
        self.revision = revision
        self.last_position = position
        self.batches: list[Batch] = []
        self.touches: list[Touch] = []
        self.derived: Counter[tuple[str, int]] = Counter()
        self.receipt = Receipt(0, 0, [], [], revision.id)

    def position(self, kind: LogKind) -> int:
        """Under which items of this kind, observed now, will be logged."""
        if self.batches and self.batches[-1].kind is kind:
            return self.last_position
        return self.last_position + 1

    def note(self, observed: Observed) -> None:
        """Keep what is known of it besides what is logged and decided."""
        self.touches += observed.touches
        self.derived.update((name, at_us // HOUR_US) for name, at_us in observed.derived)

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
