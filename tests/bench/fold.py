"""What folding and matching an event cost: 1,000 campaigns, 50 metrics, 50 patterns.

`fold_match/1000` is an admitted event's whole way through `observe`; `fold_match/without_folding/1000` the
same with nothing to fold but what rules read;
`fold_match/durable_rules_direct/1000` is durable_rules matching the same rules, with figures given to it.
`fold_match/floor/1000` is what no way of folding in Python could do without, and nothing else: the event is
looked up among those seen, matched, and what it would be folded into is looked at once; which series and
patterns these are is known before the clock starts, and nothing is computed, changed or kept.

`fold_match` is timed on one day: 100 events of each of 2,000 subscribers in random order, spread over
fourteen hours of event time, 20 types. The first half of it makes the states, the rest is timed in rounds
that go on from each other, so nothing is later than a collector would be. An event is of 2 to 3 metrics and
4 to 5 patterns, and 1 in 100 has candidates. Admission and the decoding of attributes come before the clock
starts; deciding comes after. The mean of the rounds: what is done only now and then, such as forgetting,
counts. Processor time; no machine is named, so compare rows of one run.

Answers are compared with an oracle that recomputes each figure that rules read.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from time import process_time_ns
from typing import Any

from contenders import durable_rules_direct
from harness import Row, console
from life import context, day, rulebase, subscriber_ids
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.core.chain import Chain
from opportune_service.core.events import Event
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from rich.table import Table
from workload import BELOW, METRICS, TYPES, expected, make
from xxhash import xxh3_64_intdigest

__all__ = ["profile", "rows"]

SIZE = 1_000
PEOPLE = 2_000
DAILY = 100
"""Events of a subscriber on the day that folding is timed on."""
BATCH = 500
ROUNDS = 5
DIRECT_EVENTS = 500

Admitted = Sequence[tuple[Event, dict[str, Any]]]


def rows(only: str = "") -> Iterator[Row]:
    table = Table(title="folding: 1,000 campaigns, 50 metrics, 50 patterns")
    for column in ("what", "figure", "against"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in _fold_match():
        against = f"{row.ratio}x as good as {row.against}" if row.ratio else ""
        table.add_row(row.name, f"{row.value} {row.unit}", against)
        yield row
    console.print(table)


def _ready(loaded: Rulebase) -> Revision:
    every = (*loaded.metrics.values(), *loaded.facts.values(), *loaded.patterns.values())
    return Revision(loaded, NetworkEngine(loaded), {each.key: 0 for each in every})


def _known(people: Sequence[str]) -> dict[str, SubscriberState]:
    return {who: SubscriberState(known=True, context=context(who)) for who in people}


def _observe(revision: Revision, states: Mapping[str, SubscriberState], events: Admitted) -> list[Any]:
    moments: list[Any] = []
    for start in range(0, len(events), BATCH):
        moments += observe(revision, "bench", events[start : start + BATCH], states, 1, None).moments
    return moments


def _fold_match() -> Iterator[Row]:
    people = subscriber_ids(PEOPLE)
    workload = make(SIZE, 1, 1)
    events = list(day(1, people, DAILY))
    warm, rest = events[: len(events) // 2], events[len(events) // 2 :]
    folding, matching = (_ready(rulebase(workload, metrics=n, patterns=m)) for n, m in ((50, 50), (10, 0)))
    runs: dict[str, tuple[Revision, dict[str, SubscriberState]]] = {
        name: (revision, _known(people))
        for name, revision in (
            (f"fold_match/{SIZE}", folding),
            (f"fold_match/without_folding/{SIZE}", matching),
        )
    }
    for revision, states in runs.values():
        _observe(revision, states, warm)
    floor, floor_states = _ready(rulebase(workload, metrics=50, patterns=50)), _known(people)
    _observe(floor, floor_states, warm)
    direct = durable_rules_direct(workload)
    rnd = random.Random(20261120)
    times: dict[str, list[float]] = {}
    wrong = _wrong(workload, folding, people)
    for number in range(ROUNDS):
        part = rest[len(rest) * number // ROUNDS : len(rest) * (number + 1) // ROUNDS]
        for name, (revision, states) in runs.items():
            taken = _timed(partial(_observe, revision, states, part))
            times.setdefault(name, []).append(taken / len(part))
        looks = _looks(floor, part)
        taken = _timed(partial(_look, floor, floor_states, part, looks))
        times.setdefault(f"fold_match/floor/{SIZE}", []).append(taken / len(part))
        _observe(floor, floor_states, part)  # the next round goes on from here
        # Levels are drawn evenly, and so the newest ones are.
        figures = [{name: rnd.randrange(BELOW[name]) for name in METRICS} for _ in range(DIRECT_EVENTS)]
        few = zip(part, figures, strict=False)
        prepared = direct.prepare([_flat(*event, given) for event, given in few])
        taken = _timed(partial(direct.answer, prepared))
        times.setdefault("direct", []).append(taken / DIRECT_EVENTS)
    direct.close()
    micros = {name: round(fmean(each) / 1000, 2) for name, each in times.items()}
    against = f"fold_match/durable_rules_direct/{SIZE}"
    yield Row(against, micros["direct"], "us/event")
    for name in (*runs, f"fold_match/floor/{SIZE}"):
        value = None if wrong else micros[name]
        ratio = None if value is None else round(micros["direct"] / value, 2)
        yield Row(name, value, "us/event", against, ratio)


def _looks(revision: Revision, events: Admitted) -> list[tuple[list[str], Sequence[str]]]:
    """By event: the keys of what it is folded into, metrics and patterns."""
    facts_of, looks = Chain(revision, lambda _: None), []
    for event, attributes in events:
        facts_of.begin(event.subscriber_id, SubscriberState())
        facts = facts_of._facts.see(
            facts_of, event.type, event.occurred_at_us, attributes, event.cell_id, ""
        )
        metrics = [
            each.key
            for each in revision.rulebase.metrics.values()
            if event.type in each.of and (each.where is None or revision.engine.truth(each.where, facts))
        ]
        plan = revision.plans[event.type]
        part = plan.parts.get(attributes[plan.by], plan.parts[None]) if plan.by else plan.whole
        place = revision.rulebase.tables.cells.get(event.cell_id)
        roles = part.patterns.at(place, plan.stays) if event.cell_id else part.patterns
        looks.append((metrics, roles.marks[::2]))
    return looks


def _look(
    revision: Revision,
    states: Mapping[str, SubscriberState],
    events: Admitted,
    looks: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> list[object]:
    """What came of matching, where something did."""
    chain, match, found = Chain(revision, lambda _: None), revision.engine.match, list[object]()
    facts = chain._facts
    for (event, attributes), (metrics, patterns) in zip(events, looks, strict=True):
        state, at_us = states[event.subscriber_id], event.occurred_at_us
        if xxh3_64_intdigest(event.id.encode()) in state.seen:
            continue
        kept, series, tips, journal = 0, state.series, state.patterns, state.journal
        for key in metrics:
            if key in series and series[key].at[-1] < at_us:
                kept += 1
        for key in patterns:
            if key in tips and tips[key].tip:
                kept += 1
        if journal and journal[-1].at_us < at_us:
            kept += 1
        chain.begin(event.subscriber_id, state)
        matched = match(facts.see(chain, event.type, at_us, attributes, event.cell_id, ""))
        if matched:
            found.append((kept, matched))
    return found


def _timed(call: Callable[[], object]) -> int:
    """Nanoseconds of the processor. The collector of cyclic garbage waits meanwhile, as for matching."""
    gc.collect()
    gc.disable()
    before = process_time_ns()
    call()
    taken = process_time_ns() - before
    gc.enable()
    return taken


def _flat(event: Event, attributes: Mapping[str, Any], figures: Mapping[str, int]) -> dict[str, int | str]:
    """An event as the matcher's contenders take it. A figure of nothing is one that no rule wants."""
    known: dict[str, Any] = context(event.subscriber_id)
    return {
        "type": event.type,
        "kind": attributes["kind"],
        "amount": attributes["amount"],
        **known,
        **{metric: figures.get(metric, -1) for metric in METRICS},
    }


def _wrong(workload: Any, revision: Revision, people: Sequence[str]) -> bool:
    """Whether any moment differs from the oracle's: figures recomputed, every rule of the type tried."""
    events = list(day(99, people[:50], 100))
    newest: dict[str, dict[str, int]] = {}
    given = []
    for event, attributes in events:
        figures = newest.setdefault(event.subscriber_id, {})
        figures[METRICS[TYPES.index(event.type) % len(METRICS)]] = attributes["level"]
        given.append(_flat(event, attributes, figures))
    whole = [all(each[metric] != -1 for metric in METRICS) for each in given]
    answers = expected(workload, given)
    moments = _observe(revision, _known(people[:50]), events)
    found = {
        moment.key.event_id: frozenset(candidate.campaign for candidate in moment.candidates)
        for moment in moments
    }
    pairs = zip(events, answers, whole, strict=True)
    right = all(
        found.get(event.id, frozenset()) == answer for (event, _), answer, complete in pairs if complete
    )
    return not right or not any(answers)


def profile() -> None:
    """Where the time of an event goes, by functions."""
    people = subscriber_ids(PEOPLE)
    revision, states = _ready(rulebase(make(SIZE, 1, 1))), _known(people)
    events = list(day(1, people, DAILY))
    _observe(revision, states, events[: len(events) // 2])
    timed = events[len(events) // 2 :][: PEOPLE * 10]
    gc.disable()
    running = cProfile.Profile()
    running.runcall(_observe, revision, states, timed)
    gc.enable()
    pstats.Stats(running).sort_stats("tottime").print_stats(25)
