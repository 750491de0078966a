"""Steps 2 to 6 of one event: deduplicate, enrich, fold, infer, match. The fast path.

Everything here works on the subscriber's live state alone. What comes out are `Moment`s: the few
events that a campaign wants, joined with all that deciding will need, so that the strict path never
looks at live state again (it may have moved on by then).

A completed pattern gives a derived event, which is folded and matched like any other, to the end. All that
comes of one event is one moment: its candidates compete with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from opportune_service.core.admit import Attributes
from opportune_service.core.cells import see_cell
from opportune_service.core.chain import Chain, Peers, no_peer
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US, Due, Event
from opportune_service.core.forgetting import forget_unread
from opportune_service.core.join import preferred, profile_of
from opportune_service.core.lanes import Lanes, chain_of
from opportune_service.core.patterns import forget_idle, horizon_us
from opportune_service.core.responses import touches_of
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Deferral, EventKey, Moment, OpenPrompt, Response, Touch

MAX_SEEN = 20_000
"""Hashes of events that are kept of one subscriber. Whoever sends more in an hour is no person; the oldest
are then forgotten, and a repetition of those would be taken for new."""

_TIDY_EVERY_US = 2 * 3_600_000_000
_FORGET_EVERY_US = 24 * 3_600_000_000
"""Forget what is old only now and then: hashes every two hours, all else once a day, for it takes
as long as several events. States that go to rest are relieved of it as well (`forget`)."""

CLOCK = "clock"
"""The source of derived events that a timer or a trigger made: the service itself."""

DEFERRAL = "deferral"
"""The source of moments that are made of what was deferred."""

PROMPT = "prompt"
"""The source of moments that are made of prompts which the service itself shows."""

DueDeferrals = Callable[[str, int], Sequence[Deferral]]
"""(subscriber id, decision time) -> what was deferred and is due: whoever gets it has it decided again."""


def nothing_deferred(_: str, __: int) -> Sequence[Deferral]:
    """For those who defer nothing."""
    return ()


class _Now(NamedTuple):
    """When a moment is decided (`now_us` None: at its own time), where, and with what was deferred."""

    now_us: int | None
    touch_point: str
    deferred: DueDeferrals


class Observed(msgspec.Struct):
    """What a batch came to: events to log (duplicates left out); what the ledger is to do, in order:
    moments to decide, and responses to what was decided before; touches for the contact view; the
    subscribers whose next timer may be due at another time than before; and (type, time) of events that
    were derived. `refused`: subscribers who refused a channel. `shadowed`: moments of the shadow, if there
    is one."""

    events: list[Event] = msgspec.field(default_factory=list)
    duplicates: int = 0
    steps: list[Moment | Response] = msgspec.field(default_factory=list)
    touches: list[Touch] = msgspec.field(default_factory=list)
    timers: set[str] = msgspec.field(default_factory=set)
    refused: set[str] = msgspec.field(default_factory=set)
    derived: list[tuple[str, int]] = msgspec.field(default_factory=list)
    shadowed: list[Moment] = msgspec.field(default_factory=list)

    @property
    def moments(self) -> list[Moment]:
        return [step for step in self.steps if isinstance(step, Moment)]

    def note(self, chain: Chain | Lanes) -> None:
        """What a chain came to, its moment apart."""
        if chain.timers_changed:
            self.timers.add(chain.subscriber_id)
        if chain.refused:
            self.refused.add(chain.subscriber_id)
        if chain.derived:
            self.derived += chain.derived
        if chain.responses:
            self.steps += chain.responses

    def decide(self, chain: Chain | Lanes, key: EventKey, at_us: int, now: _Now) -> None:
        """The moment of a chain, if it has candidates, and that of its shadow."""
        deciding = chain.deciding if isinstance(chain, Lanes) else chain
        shadow = chain.shadow if isinstance(chain, Lanes) else None
        if shadow is not None and shadow.candidates:
            self.shadowed.append(_moment(shadow, key, at_us, now._replace(deferred=nothing_deferred)))
        if deciding.candidates:
            self.steps.append(_moment(deciding, key, at_us, now))


def observe(
    revision: Revision,
    source: str,
    admitted: Iterable[tuple[Event, Attributes]],
    states: Mapping[str, SubscriberState],
    position: int,
    now_us: int | None,
    *,
    touch_point: str = "",
    prompts: Mapping[str, str] | None = None,
    peers: Peers = no_peer,
    deferred: DueDeferrals = nothing_deferred,
) -> Observed:
    """Take admitted events into their subscribers' states, which change.

    `position` is the log position that the batch will have. `now_us` is the decision time; None means
    each event's own time (replay). `touch_point` and `prompts` (campaign -> earlier decision) come from
    `advise`: those campaigns are candidates at this moment whether or not the event triggers them.
    `peers` gives the context of subscribers that events name. `deferred` is asked for those of a moment.
    Those beside the revision fold as well; whichever decides for a subscriber has its candidates decided.
    """
    observed = Observed()
    seed = xxh3_64_intdigest(source.encode())
    lateness_us = revision.lateness_us(source)
    slow = lateness_us > MAX_LATENESS_US
    again_us = lateness_us + MAX_SKEW_US
    definitions = len(revision.keys)
    plans = revision.slow_plans if slow else revision.plans
    shadow = revision.shadow is not None
    chain = chain_of(revision, peers, slow=slow)
    now = _Now(now_us, touch_point, deferred)
    tidy_from_us = tidy_until_us = 0
    for event, attributes in admitted:
        subscriber_id = event.subscriber_id
        state = states[subscriber_id]
        at_us = event.occurred_at_us
        digest = xxh3_64_intdigest(event.id.encode(), seed)
        seen = state.seen
        if digest in seen:
            observed.duplicates += 1
            continue
        seen[digest] = at_us + again_us
        state.position = position
        before_us = state.latest_us
        if at_us > before_us:
            state.latest_us = at_us
            if before_us < tidy_from_us or at_us >= tidy_until_us:
                tidy_from_us, tidy_until_us = _tidy(state, revision, before_us)
        if len(state.series) + len(state.patterns) > definitions:
            _forget_undefined(state, revision)
        observed.events.append(event)
        plan = plans.get(event.type)
        if not slow and event.cell_id:
            see_cell(state, at_us, event.cell_id)
            if plan is None:
                plan = revision.cell_plan
        tells_imei = event.imei and not slow
        if plan is None and not tells_imei and not prompts:
            continue
        chain.begin(subscriber_id, state)
        ordering = digest >> 2  # as `ranked`; every event asks
        if tells_imei:
            chain.see_handset(event, ordering)
        if plan is not None and plan.told:
            chain.hear(plan.told, event.type, at_us, attributes, event.cell_id)
            observed.touches += touches_of(plan.told, source, event, attributes)
        chain.take(event.type, at_us, ordering, attributes, event.cell_id, plan, prompts)
        if chain.finish() or chain.timers_changed or chain.responses or chain.refused:
            observed.note(chain)
        if chain.candidates or shadow:
            observed.decide(chain, EventKey(subscriber_id, source, event.id), at_us, now)
    return observed


def observe_due(
    revision: Revision,
    dues: Sequence[Due],
    states: Mapping[str, SubscriberState],
    position: int,
    now_us: int | None,
    *,
    peers: Peers = no_peer,
    deferred: DueDeferrals = nothing_deferred,
) -> Observed:
    """Settle timers and triggers that are due: what comes of them is folded and matched like any event.

    `now_us` is the decision time; None means the time each was due (replay). Those that are no more (the
    revision does not have them, the state is past them) come to nothing. `duplicates` and `events` of the
    answer stay empty. The moments' keys have CLOCK for a source.
    """
    observed = Observed()
    chain = chain_of(revision, peers)
    now = _Now(now_us, "", deferred)
    for due in dues:
        state = states[due.subscriber_id]
        chain.begin(due.subscriber_id, state)
        event_id = chain.settle(due)
        if due.name in revision.patterns_by_key:
            state.position = position
            observed.timers.add(due.subscriber_id)
        if event_id is None:
            continue
        chain.finish()
        observed.note(chain)
        observed.decide(chain, EventKey(due.subscriber_id, CLOCK, event_id), due.at_us, now)
    return observed


def observe_deferred(
    revision: Revision,
    deferrals: Sequence[Deferral],
    state: SubscriberState,
    now_us: int,
    *,
    peers: Peers = no_peer,
) -> Moment:
    """The one moment of all deferrals (at least one) of a subscriber that are due, as of `now_us`.

    The state does not change. The key has DEFERRAL for a source, and an id that is the same whenever the
    same deferrals are decided again.
    """
    first = min(deferrals, key=lambda each: (each.trigger.at_us, each.decision_id))
    parts = sorted(f"{each.decision_id}/{each.attempt}" for each in deferrals)
    event_id = blake2b("\n".join(parts).encode(), digest_size=12, person=b"opp-deferral").hexdigest()
    chain = Chain(revision, peers).begin(first.subscriber_id, state)
    key = EventKey(first.subscriber_id, DEFERRAL, event_id)
    chain.type = first.trigger.type
    return _moment(chain, key, first.trigger.at_us, _Now(now_us, "", lambda _, __: deferrals))


def observe_prompts(
    revision: Revision,
    prompts: Sequence[OpenPrompt],
    state: SubscriberState,
    now_us: int,
    touch_point: str,
    *,
    peers: Peers = no_peer,
) -> Moment:
    """The one moment of open prompts (at least one) of a subscriber that the service itself shows on a bulk
    channel, as of `now_us`. Their campaigns are in the revision. The state does not change. The key has
    PROMPT for a source."""
    first = prompts[0]
    parts = sorted(f"{each.decision_id}/{now_us}" for each in prompts)
    event_id = blake2b("\n".join(parts).encode(), digest_size=12, person=b"opp-prompt").hexdigest()
    chain = Chain(revision, peers).begin(first.subscriber_id, state)
    for each in prompts:
        chain.show(each, now_us)
    key = EventKey(first.subscriber_id, PROMPT, event_id)
    chain.type = PROMPT
    return _moment(chain, key, now_us, _Now(now_us, touch_point, nothing_deferred))


def refold(
    revision: Revision,
    source: str,
    events: Iterable[Event],
    states: Mapping[str, SubscriberState],
    position: int,
) -> None:
    """Fold logged events again, as recovery does: into the states that do not hold `position` yet.

    Events of subscribers that are not in `states` are passed over. Decides nothing.
    """
    admitted = []
    for event in events:
        state = states.get(event.subscriber_id)
        if state is None or state.position >= position:
            continue
        attributes = revision.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(attributes, dict):
            admitted.append((event, attributes))
    observe(revision, source, admitted, states, position, None)


def refold_due(
    revision: Revision, dues: Iterable[Due], states: Mapping[str, SubscriberState], position: int
) -> None:
    """The same for logged timers and triggers."""
    behind = [
        due for due in dues if due.subscriber_id in states and states[due.subscriber_id].position < position
    ]
    observe_due(revision, behind, states, position, None)


def _moment(chain: Chain, key: EventKey, at_us: int, now: _Now) -> Moment:
    now_us = at_us if now.now_us is None else now.now_us
    for deferral in now.deferred(key.subscriber_id, now_us):
        chain.decide_again(deferral, now_us)
    preference = chain.revision.rulebase.policies.preference
    scores: dict[str, float] = {}
    segment: tuple[str, ...] = ()
    if preference.scores or preference.segment is not None:
        scores, segment = preferred(chain.revision, chain.facts(now_us))
    return Moment(
        key=key,
        event_type=chain.type,
        occurred_at_us=at_us,
        now_us=now_us,
        profile=profile_of(chain.revision, chain.state, chain.zone),
        candidates=tuple(chain.candidates[name] for name in sorted(chain.candidates)),
        touch_point=now.touch_point,
        channel_scores=scores,
        segment=segment,
    )


def _tidy(state: SubscriberState, revision: Revision, before_us: int) -> tuple[int, int]:
    """Forget what is old, if it is time to; `before_us`: the newest event before this one. Between the two
    instants that it gives, it is not time again."""
    from_us = state.latest_us - state.latest_us % _TIDY_EVERY_US
    if before_us < from_us:
        _forget_hashes(state)
        if state.latest_us // _FORGET_EVERY_US > before_us // _FORGET_EVERY_US:
            forget(state, revision)
    return from_us, from_us + _TIDY_EVERY_US


def _forget_hashes(state: SubscriberState) -> None:
    """Drop those of events that would be rejected as too late by now."""
    latest_us = state.latest_us
    state.seen = {digest: until for digest, until in state.seen.items() if until >= latest_us}
    if len(state.seen) > MAX_SEEN:
        newest = sorted(state.seen.items(), key=lambda item: item[1])[-MAX_SEEN:]
        state.seen = dict(newest)


def forget(state: SubscriberState, revision: Revision) -> None:
    """Drop what can make no difference any more: what is outside of every window, patterns that have come
    to nothing. Nobody can tell by any reading or completion that it was done."""
    forget_idle(revision.patterns_by_key, revision.machines, state)
    # A timer that is not settled yet will be read as of when it was due.
    due_us = state.due_us or state.latest_us
    read_from_us = min(horizon_us(state, 0), due_us)
    series, foldings = state.series, revision.foldings
    unread = [
        key
        for key, kept in series.items()
        if key in foldings and forget_unread(foldings[key].of, kept, read_from_us)
    ]
    for key in unread:
        del series[key]


def _forget_undefined(state: SubscriberState, revision: Revision) -> None:
    """Reloads leave behind the state of definitions that are no more."""
    keys = revision.keys
    state.series = {key: each for key, each in state.series.items() if key in keys}
    state.patterns = {key: each for key, each in state.patterns.items() if key in keys}
    if state.seeds:
        state.seeds = {key: each for key, each in state.seeds.items() if key in keys}
