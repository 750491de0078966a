"""Revisions side by side on one event: each definition is folded once, by the first revision that has it.

Definitions are known by their content (their keys), so one that two revisions share has one state, which
both read. The revision in full force folds all that it has, the next what is left, and so on: each has its
own **lane**, a `Chain` with its own engine, and names things as its own rulebase does. At the event, and
at all that is derived of it, the lanes take turns; what completes in one is passed on to those that have
the same pattern, under their names for it. So every key comes to the same as if its revision ran alone,
and so do the candidates of whichever revision decides.

That needs the revisions to agree on what an event is: see `disagreements`.
"""

from __future__ import annotations

from collections.abc import Mapping

from opportune_rulebase.model import Attribute, EventType, Rulebase

from opportune_service.core.admit import Attributes
from opportune_service.core.chain import Chain, Peers, in_order
from opportune_service.core.events import Due, Event
from opportune_service.core.patterns import Completion
from opportune_service.core.plans import Plan
from opportune_service.core.responses import Told
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Candidate, Response


def chain_of(revision: Revision, peers: Peers, *, slow: bool = False) -> Chain | Lanes:
    """What takes in events under a revision, and those beside it. `slow`: those of a slow source."""
    return Lanes(revision, peers, slow=slow) if revision.beside else Chain(revision, peers)


class Lanes:
    """The chains of a revision and of those beside it, used as one `Chain` is.

    `deciding`: the lane that decides for the subscriber; candidates and what was derived are its own.
    `shadow`: the lane of the shadow, if there is one. Its candidates are decided apart.
    """

    def __init__(self, revision: Revision, peers: Peers, *, slow: bool = False) -> None:
        """`slow`: events are of a slow source. Nothing but `begin` may be called first."""
        self.revision = revision
        self._chains = [Chain(each, peers) for each in revision.side_by_side]
        self._plans = [each.slow_plans if slow else each.plans for each in revision.side_by_side]
        self._slow = slow
        shadow = revision.shadow
        self.deciding = self._chains[0]
        self.shadow = next((each for each in self._chains if each.revision is shadow), None)

    def begin(self, subscriber_id: str, state: SubscriberState) -> Lanes:
        """As of a chain."""
        decides = self.revision.of(subscriber_id)
        for chain in self._chains:
            chain.begin(subscriber_id, state)
            chain.matches = chain.revision is decides or chain is self.shadow
            if chain.revision is decides:
                self.deciding = chain
        return self

    @property
    def subscriber_id(self) -> str:
        return self._chains[0].subscriber_id

    @property
    def candidates(self) -> dict[str, Candidate]:
        return self.deciding.candidates

    @property
    def derived(self) -> tuple[tuple[str, int], ...]:
        return self.deciding.derived

    @property
    def timers_changed(self) -> bool:
        return any(chain.timers_changed for chain in self._chains)

    @property
    def refused(self) -> bool:
        return any(chain.refused for chain in self._chains)

    @property
    def responses(self) -> tuple[Response, ...]:
        """Replies as the revision in full force hears them, orders as the one does that decides."""
        first = self._chains[0]
        return first.responses if self.deciding is first else first.responses + self.deciding.responses

    def see_handset(self, event: Event, digest: int) -> None:
        """As of a chain."""
        self._chains[0].see_handset(event, digest)
        for chain in self._chains[1:]:
            chain.imei = event.imei

    def settle(self, due: Due) -> str | None:
        """As of a chain; a trigger is due for those that have it."""
        if due.name in self.revision.triggers:
            ids = {
                chain.settle(due) for chain in self._chains if due.name in chain.revision.rulebase.triggers
            }
            return ids.pop()
        for place, chain in enumerate(self._chains):
            if due.name in chain.revision.own_keys:
                event_id = chain.settle(due)
                for other, names in zip(self._chains, self.revision.renamed[place], strict=True):
                    other.type = names.get(chain.type, "")
                return event_id
        return None

    def hear(self, told: Told, type_: str, at_us: int, attributes: Attributes, cell_id: str) -> None:
        """As of a chain, for the first; the others hear when they `take` the event."""
        self._chains[0].hear(told, type_, at_us, attributes, cell_id)

    def take(
        self,
        type_: str,
        at_us: int,
        digest: int,
        attributes: Attributes,
        cell_id: str,
        plan: Plan | None,
        prompts: Mapping[str, str] | None,
    ) -> None:
        """Take in the event itself, lane after lane. `plan`: that of the first."""
        for place, (chain, plans) in enumerate(zip(self._chains, self._plans, strict=True)):
            own = plan
            asked = prompts if chain is self.deciding else None
            if place:
                own = plans.get(type_)
                if own is None and cell_id and not self._slow:
                    own = chain.revision.cell_plan
                if not asked and (own is None or not (chain.matches or own.folds)):
                    chain.type = type_
                    continue  # nearly always, where most is shared
                if own is not None and own.told:
                    chain.hear(own.told, type_, at_us, attributes, cell_id)
            chain.take(type_, at_us, digest, attributes, cell_id, own, asked)

    def finish(self) -> bool:
        """As of a chain; what is derived in any lane."""
        pending = self._completed()
        names = self.revision.renamed
        for source, each in pending:  # grows meanwhile
            for chain, known in zip(self._chains, names[source], strict=True):
                name = known.get(each.name)
                if name is not None:
                    chain.derive(each, name)
            pending += self._completed()
        return any(chain.derived for chain in self._chains)

    def _completed(self) -> list[tuple[int, Completion]]:
        """What the lanes have completed since last asked: the place of the lane, and what."""
        found = [(place, each) for place, chain in enumerate(self._chains) for each in chain.pending]
        if found:
            found.sort(key=lambda each: in_order(each[1]))
            for chain in self._chains:
                chain.pending.clear()
        return found


def disagreements(full: Rulebase, other: Rulebase) -> list[str]:
    """Why a revision cannot run beside another, in words; none if it can.

    Events and context are taken in once, as `full` declares them, for all to see. So `other` may declare
    less, but nothing otherwise, and nothing more; where a cell is, what a handset can, and which day it is,
    must be the same.
    """
    found = [
        f"{what} differ"
        for what, one, two in (
            ("the time zones", full.time_zone, other.time_zone),
            ("the calendars", full.calendar, other.calendar),
            ("the tables of cells", full.tables.cells, other.tables.cells),
            ("the tables of terminals", full.tables.terminals, other.tables.terminals),
            ("the sources", _sources(full), _sources(other)),
            ("the meanings of replies", full.policies.replies, other.policies.replies),
        )
        if one != two
    ]
    known = full.vocabulary.events
    for name, event_type in other.vocabulary.events.items():
        if not event_type.derived:
            found += _unlike(f"event type {name!r}", known.get(name), event_type)
    found += [
        f"the attribute sub.{name} {fault}"
        for name, fault in _faults(full.vocabulary.subscriber, other.vocabulary.subscriber)
    ]
    found += [
        f"{name} is valid for another time"
        for name, behaviour in other.imported.items()
        if name in full.imported and full.imported[name].valid_for_us != behaviour.valid_for_us
    ]
    return found


def _sources(rulebase: Rulebase) -> dict[str, tuple[object, ...]]:
    return {
        name: (source.events, source.subscriber, source.max_lateness_us)
        for name, source in rulebase.vocabulary.sources.items()
    }


def _unlike(what: str, known: EventType | None, other: EventType) -> list[str]:
    if known is None or known.derived:
        return [f"{what} is not declared in the revision in full force"]
    return [
        f"{what}: its attribute {n!r} {fault}" for n, fault in _faults(known.attributes, other.attributes)
    ]


def _faults(known: Mapping[str, Attribute], other: Mapping[str, Attribute]) -> list[tuple[str, str]]:
    found = []
    for name, attribute in other.items():
        if name not in known:
            found.append((name, "is not declared in the revision in full force"))
        elif _meaning(known[name]) != _meaning(attribute):
            found.append((name, "is declared otherwise than in the revision in full force"))
    return found


def _meaning(attribute: Attribute) -> tuple[object, ...]:
    """All but the label."""
    return attribute.type, attribute.values, attribute.minimum, attribute.default
