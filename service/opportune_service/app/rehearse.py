"""Run a candidate and a baseline over the same recorded events, and report what the candidate would do.

Both run side by side, each on a private copy of the state. Nothing of either is held but what waits to be
decided again, so a rehearsal of a day takes no more memory than one of an hour, the subscribers apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import chain

import msgspec
from opportune_rulebase import from_archive, load
from opportune_rulebase.model import Rulebase

from opportune_service.app.comparison import Comparison
from opportune_service.app.last_words import LastWords, Word
from opportune_service.app.log import context_of, events_of
from opportune_service.app.records import LogKind, LogRow
from opportune_service.app.rehearsal import (
    Batch,
    Input,
    Opening,
    Output,
    Past,
    Person,
    Progress,
    Recorded,
    Report,
    Spent,
)
from opportune_service.app.rehearsal_stage import Stage
from opportune_service.app.tally import Tally
from opportune_service.core.calendars import DAY_US
from opportune_service.core.context import CONSENTS, consent_key
from opportune_service.core.revision import span_us
from opportune_service.core.state import SubscriberState, decode_state, encode_state
from opportune_service.core.verdict import Usage

TICK_US = 1_000_000
"""Timers and what was deferred are looked at once in so much virtual time, as a service does several times
a second; and what the two runs decided is compared."""

_TICK_EVENTS = 2_000
_PEOPLE_AT_ONCE = 500
_SAY_EVERY_SECONDS = 0.5

MakeStage = Callable[[Rulebase, Opening, str], AbstractAsyncContextManager[Stage]]
"""(rulebase, opening, name) -> a stage of its own; its clock stands at `opening.covered_us`."""


async def rehearse(
    opening: Opening, inputs: AsyncIterator[Input], make_stage: MakeStage
) -> AsyncGenerator[Output, None]:
    """Progress now and then, then the report. Raises `RulebaseError` if a rulebase is not taken any more,
    and what the pipeline raises."""
    rulebases = [load(from_archive(archive)) for archive in (opening.baseline, opening.candidate)]
    async with AsyncExitStack() as stack:
        before, after = [
            await stack.enter_async_context(make_stage(rulebase, opening, name))
            for rulebase, name in zip(rulebases, ("baseline", "candidate"), strict=True)
        ]
        rehearsal = _Rehearsal(opening, before, after)
        async for progress in rehearsal.run(inputs):
            yield progress
        yield rehearsal.report()


class _Rehearsal:
    def __init__(self, opening: Opening, before: Stage, after: Stage) -> None:
        self._opening = opening
        self._stages = (before, after)
        self._words = (LastWords(), LastWords())
        self._tallies = (
            Tally(before.rulebase),
            Tally(after.rulebase, opening.tested, opening.tests_per_campaign),
        )
        self._comparison = Comparison(*self._words, opening.sample_size)
        self._people: list[tuple[str, bytes]] = []
        self._past: list[Past] = []
        self._usage: Usage = {}
        self._tick: list[Batch] = []
        self._tick_events = 0
        self._begun = False
        self._now_us = 0
        self._events = self._folded = self._guessed = 0
        self._began = time.monotonic()
        self._said = self._began

    async def run(self, inputs: AsyncIterator[Input]) -> AsyncIterator[Progress]:
        """Take everything in, to the end of time."""
        opening = self._opening
        for stage in self._stages:
            stage.fold_since(opening.covered_us)
        told = False
        async for each in inputs:
            match each:
                case Person():
                    self._know(each)
                case Past():
                    self._past.append(each)
                    if len(self._past) >= _PEOPLE_AT_ONCE:
                        await self._tell_past({})
                case Spent():
                    self._usage = dict(each.usage)
                case Recorded():
                    if not told:
                        await self._tell()
                        told = True
                    await self._take(each)
            if (now := time.monotonic()) - self._said >= _SAY_EVERY_SECONDS:
                self._said = now
                yield self._progress()
        if not told:
            await self._tell()
        await self._end_tick()
        await self._begin()
        await asyncio.gather(*(stage.run_to(opening.until_us) for stage in self._stages))
        self._now_us = max(self._now_us, opening.until_us)
        self._compare()
        self._compare(end=True)
        yield self._progress()

    def _progress(self) -> Progress:
        elapsed_us = int((time.monotonic() - self._began) * 1_000_000)
        return Progress(self._events + self._folded, self._opening.total, self._now_us, elapsed_us)

    # -- what was before ----------------------------------------------------------------------------

    def _know(self, person: Person) -> None:
        opening = self._opening
        state, guessed = known_at(decode_state(person.state), opening.since_us, whole=opening.from_first)
        self._guessed += guessed
        self._people.append((person.subscriber_id, encode_state(state)))
        if len(self._people) >= _PEOPLE_AT_ONCE:
            self._tell_people()

    def _tell_people(self) -> None:
        for stage in self._stages:
            stage.know(self._people)
        self._people = []

    async def _tell(self) -> None:
        """All that was before is known by now."""
        self._tell_people()
        await self._tell_past(self._usage)

    async def _tell_past(self, usage: Usage) -> None:
        for stage in self._stages:
            await stage.remember(self._past, usage)
        self._past = []

    # -- what is recorded ---------------------------------------------------------------------------

    async def _take(self, recorded: Recorded) -> None:
        batch = batch_of(recorded)
        if not self._begun and batch.now_us >= self._opening.since_us:
            await self._end_tick()
            await self._begin()
        tick_ends = self._tick and batch.now_us // TICK_US != self._tick[0].now_us // TICK_US
        if tick_ends or self._tick_events >= _TICK_EVENTS or self._opening.own_time:
            await self._end_tick()
        self._tick.append(batch)
        self._tick_events += len(batch.events) + len(batch.records)

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            opening = self._opening
            for stage in self._stages:
                await stage.begin(opening.since_us, opening.covered_us)

    async def _end_tick(self) -> None:
        if not self._tick:
            return
        tick, self._tick, self._tick_events = self._tick, [], 0
        await asyncio.gather(*(stage.take(tick) for stage in self._stages))
        self._now_us = max(self._now_us, tick[-1].now_us)
        count = sum(len(batch.events) for batch in tick)
        if self._begun:
            self._events += count
        else:
            self._folded += count
        self._compare()

    def _compare(self, *, end: bool = False) -> None:
        """What both decided up to now; at the `end` of time also what still waits."""
        said: list[list[Word]] = []
        for stage, words, tally in zip(self._stages, self._words, self._tallies, strict=True):
            own = list(chain.from_iterable(words.take(verdict) for verdict in stage.verdicts()))
            if end:
                own += words.rest()
            for word in own:
                tally.take(word)
            said.append(own)
        self._comparison.take(*said)
        self._comparison.settle()

    # -- the report ---------------------------------------------------------------------------------

    def report(self) -> Report:
        opening, (before, after) = self._opening, self._stages
        baseline, tally = self._tallies
        differences, room = self._comparison.differences()
        volumes, volume_us = tally.volumes()
        warnings = [*opening.warnings, *self._unknown()]
        if room < opening.sample_size:
            warnings.append(
                f"Only {room} samples of each kind of difference are shown: there are so many campaigns"
            )
        return Report(
            revision=after.rulebase.revision,
            baseline=before.rulebase.revision,
            since_us=opening.since_us,
            until_us=self._now_us,
            covered_us=opening.covered_us,
            events=self._events,
            folded=self._folded,
            rejected=dict(after.rejected),
            contacts=tally.contacts,
            would_be=tally.would_be,
            cost=tally.cost,
            baseline_contacts=baseline.contacts,
            baseline_would_be=baseline.would_be,
            baseline_cost=baseline.cost,
            volumes=volumes,
            volume_us=volume_us,
            losses=tally.losses(),
            channels=tally.channels(),
            differences=differences,
            warnings=tuple(warnings),
            elapsed_us=self._progress().elapsed_us,
            time_zone=str(after.rulebase.time_zone),
            tests=tally.tests(),
        )

    def _unknown(self) -> list[str]:
        """What could not be known of the time before the rehearsal, as words."""
        opening = self._opening
        found = []
        known_us = opening.since_us - opening.covered_us
        of_both = {window for stage in self._stages for window in windows(stage.rulebase).items()}
        short = sorted({name for name, window_us in of_both if window_us > known_us})
        if short:
            more = f" and {len(short) - 5} more" if len(short) > 5 else ""
            found.append(
                f"At the beginning the events of {_span(known_us)} were known. What looks further back "
                f"counted as not covered: {', '.join(short[:5])}{more}"
            )
        if self._guessed:
            found.append(
                f"Of {self._guessed:,} subscribers context was imported since the beginning, in place of "
                "what it was: as far as the log does not tell that, it was taken as it is now"
            )
        if opening.paused:
            found.append(f"Paused, as they are now: {', '.join(opening.paused)}")
        rejected = self._stages[1].rejected
        if rejected:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected.most_common())
            found.append(f"The candidate does not take some of the events: {reasons}")
        return found


def windows(rulebase: Rulebase) -> Mapping[str, int]:
    """How far back each definition with a memory looks, in microseconds."""
    found = {
        metric.name: metric.last_us or (metric.days or 0) * DAY_US for metric in rulebase.metrics.values()
    }
    found |= {fact.name: fact.for_us for fact in rulebase.facts.values()}
    return found | {pattern.name: span_us(pattern) for pattern in rulebase.patterns.values()}


def batch_of(recorded: Recorded) -> Batch:
    """The batch in a row of the log."""
    row = LogRow(0, recorded.kind, recorded.source, recorded.now_us, "", recorded.payload)
    if recorded.kind is LogKind.CONTEXT:
        return Batch(row.source, row.now_us, records=tuple(context_of(row)))
    events = tuple(events_of(row))
    now_us = row.now_us or max((event.occurred_at_us for event in events), default=0)
    return Batch(row.source, now_us, events)


def known_at(state: SubscriberState, at_us: int, *, whole: bool = False) -> tuple[SubscriberState, bool]:
    """What static data of a subscriber were at an instant, as far as a later state tells; and whether some
    of it is only what they are by now. That gives way to whatever the log says. `whole`: the log says all
    there ever was, so that nothing has to be guessed."""
    guessed = False
    as_of_us = dict(state.as_of_us)
    context = dict(state.context)
    said = context.get(CONSENTS)
    consents = dict(said) if isinstance(said, Mapping) else {}
    parts = [(name, context) for name in context] + [(name, consents) for name in consents]
    for name, place in parts:
        key = consent_key(name) if place is consents else name
        if as_of_us.get(key, 0) <= at_us:
            continue
        if whole:
            del place[name]
        else:
            guessed = True
            as_of_us[key] = 0
    if CONSENTS in context:
        context[CONSENTS] = consents
    # What was erased by then is told by its instant; by what was erased later, nothing is.
    as_of_us = {name: then_us for name, then_us in as_of_us.items() if then_us <= at_us}
    seeds = {key: seed for key, seed in (state.seeds or {}).items() if seed.as_of_us <= at_us}
    known = SubscriberState(
        known=state.known,
        context=context,
        as_of_us=as_of_us,
        imei=state.imei,
        replaced_us=state.replaced_us if state.replaced_us <= at_us else 0,
        seeds=seeds or None,
    )
    return known, guessed


def _span(span_us_: int) -> str:
    hours = max(0, span_us_) // 3_600_000_000
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"


def lookback_of(rulebases: Sequence[Rulebase]) -> int:
    """How far before the beginning events may still matter."""
    return max((window for rulebase in rulebases for window in windows(rulebase).values()), default=0)


def encode_input(message: Input) -> bytes:
    """A message as bytes."""
    return _encode(message)


def encode_output(message: Output) -> bytes:
    """A message as bytes."""
    return _encode(message)


_encode = msgspec.msgpack.Encoder().encode
decode_input = msgspec.msgpack.Decoder(Input).decode
decode_output = msgspec.msgpack.Decoder(Output).decode
