"""What goes into a rehearsal and what comes out of it. All of it can be sent from process to process."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from opportune_service.app.records import LogKind
from opportune_service.app.test_sends import TestSend
from opportune_service.core.events import ContextRecord, Event
from opportune_service.core.verdict import History, Reason, UsageKey, Verdict

# -- in ---------------------------------------------------------------------------------------------


class Opening(msgspec.Struct, frozen=True, tag=True):
    """What is to be rehearsed: the first thing in. `candidate` and `baseline`: rulebases as archives.

    Events in [since, until) are decided, events before are only folded. Everything is folded since
    `covered_us`, as far as anybody knows. `paused`: campaigns. `total`: events in all, 0 if not known.
    `sample_size`: the most samples of each kind of difference of a campaign.
    `from_first`: what is recorded begins with the first that the service ever took in.
    `tested`: numbers that get test sends, so many of a campaign.
    `own_time`: nobody knows when events came in, so that each is decided at its own time (as in replay).
    """

    candidate: bytes
    baseline: bytes
    engine: str
    since_us: int
    until_us: int
    covered_us: int
    sample_size: int
    paused: tuple[str, ...] = ()
    total: int = 0
    own_time: bool = False
    from_first: bool = False
    tested: tuple[str, ...] = ()
    tests_per_campaign: int = 1
    warnings: tuple[str, ...] = ()


class Person(msgspec.Struct, frozen=True, tag=True):
    """A subscriber as the last snapshot has it, encoded; it may be younger than `since_us`."""

    subscriber_id: str
    state: bytes


class Past(msgspec.Struct, frozen=True, tag=True):
    """What the ledger knows of a subscriber from before `since_us`."""

    subscriber_id: str
    history: History


class Spent(msgspec.Struct, frozen=True, tag=True):
    """What was used up of quotas and capacity before `since_us`."""

    usage: tuple[tuple[UsageKey, int], ...]


class Recorded(msgspec.Struct, frozen=True, tag=True):
    """A row of the log, of kind EVENTS or CONTEXT: a batch as it came in at `now_us`."""

    kind: LogKind
    source: str
    now_us: int
    payload: bytes


class End(msgspec.Struct, frozen=True, tag=True):
    """That was all. Input that ends without it was cut off."""


Input = Opening | Person | Past | Spent | Recorded | End
"""In this order: people, their past and what is spent come before anything recorded."""


class Batch(msgspec.Struct, frozen=True):
    """Events of one source, or records of context, that came in together at `now_us`."""

    source: str
    now_us: int
    events: tuple[Event, ...] = ()
    records: tuple[ContextRecord, ...] = ()


# -- out --------------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far it has come. `total` 0: not known. `now_us`: the virtual clock; 0 before the first event."""

    events: int
    total: int
    now_us: int
    elapsed_us: int


class Volume(msgspec.Struct, frozen=True):
    """What a campaign decided in an hour that begins at `start_us`; `control`: would-be contacts, which
    control groups held back. In a long rehearsal of many campaigns it is a day (`Report.volume_us`)."""

    campaign: str
    start_us: int
    decided: int
    control: int


class Loss(msgspec.Struct, frozen=True):
    """Candidates that were lost. One that was deferred counts by its last word."""

    campaign: str
    reason: Reason
    count: int


class ChannelDay(msgspec.Struct, frozen=True):
    """How busy a channel was on a local day. `capacity`: of a day; `pace`: contacts a second; None for no
    bound. `busiest_hour_us`: when its busiest hour began, with so many contacts."""

    channel: str
    start_us: int
    decided: int
    capacity: int | None
    peak_per_second: int
    busiest_hour_us: int
    busiest_hour: int
    pace: int | None


class Kind(StrEnum):
    """How a candidate's end may differ from the baseline."""

    WON = "won"
    LOST = "lost"
    CHANGED = "changed"


class Sample(msgspec.Struct, frozen=True):
    """One difference. Each side: the last verdict on the candidate with that one decision in it; None if
    the campaign was no candidate."""

    kind: Kind
    before: Verdict | None
    after: Verdict | None


class Difference(msgspec.Struct, frozen=True):
    """How a campaign differs from the baseline: `won` is decided now and was not before, `lost` the other
    way round, `changed` decided both times with another channel or content."""

    campaign: str
    won: int
    lost: int
    changed: int
    samples: tuple[Sample, ...]


class Report(msgspec.Struct, frozen=True, tag=True):
    """What a rehearsal found. `contacts` are decided ones, `would_be` those that control groups held back.
    `cost` is that of contacts that are made at once. `rejected`: events that the candidate did not take, by
    reason. `time_zone` is the candidate's. `tests`: what is to be sent as a test, of which `tests_sent`
    were. `warnings` say what was not known: read them first."""

    revision: str
    baseline: str
    since_us: int
    until_us: int
    covered_us: int
    events: int
    folded: int
    rejected: dict[str, int]
    contacts: int
    would_be: int
    cost: int
    baseline_contacts: int
    baseline_would_be: int
    baseline_cost: int
    volumes: tuple[Volume, ...]
    volume_us: int
    losses: tuple[Loss, ...]
    channels: tuple[ChannelDay, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    elapsed_us: int
    time_zone: str = ""
    tests: tuple[TestSend, ...] = ()
    tests_sent: int = 0


class Failure(msgspec.Struct, frozen=True, tag=True):
    """It came to nothing. `message` is for people."""

    message: str


Output = Progress | Report | Failure
"""Progress now and then; then one of the others, last."""
