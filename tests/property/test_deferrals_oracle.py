"""What is known to be due soon, against the whole record: nothing is late, no offers are torn apart."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from opportune_rulebase.policies import Fate
from opportune_service.app import deferrals
from opportune_service.app.defer import AHEAD_US, look_ahead
from opportune_service.app.deferrals import Deferrals
from opportune_service.core.verdict import Deferral, Reason, Trigger
from support.verdicts import decision, verdict

PEOPLE = ("8613800000001", "8613800000002", "8613800000003")
CAMPAIGNS = ("a", "b", "c")
MOST = 2

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("defer"),
            st.sampled_from(PEOPLE),
            st.sampled_from(CAMPAIGNS),
            st.sampled_from((AHEAD_US // 8, AHEAD_US // 4, AHEAD_US // 2, 2 * AHEAD_US)),
        ),
        st.tuples(st.just("event"), st.sampled_from(PEOPLE)),
        st.tuples(st.just("pass"), st.sampled_from((AHEAD_US // 8, AHEAD_US // 2, 2 * AHEAD_US))),
        st.tuples(st.just("poll")),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)


class Record:
    """All deferrals, as the ledger has them; it reads them for the pipeline as that one does."""

    def __init__(self) -> None:
        self.deferrals = Deferrals()
        self.all: dict[tuple[str, str], Deferral] = {}
        self.decided = 0

    async def read_deferrals(self, until_us: int) -> None:
        due = sorted(
            (each for each in self.all.values() if each.due_us < until_us),
            key=lambda each: (each.due_us, each.subscriber_id, each.campaign),
        )
        first = {each.subscriber_id for each in due[:MOST]}
        self.deferrals.read([each for each in due if each.subscriber_id in first], until_us)

    def due(self, now_us: int, subscriber_id: str = "") -> list[Deferral]:
        mine = (each for each in self.all.values() if subscriber_id in ("", each.subscriber_id))
        return sorted((each for each in mine if each.due_us <= now_us), key=lambda each: each.campaign)

    def defer(self, subscriber_id: str, campaign: str, due_us: int) -> None:
        self.decided += 1
        made = decision(
            f"d{self.decided}",
            campaign=campaign,
            reason=Reason.QUIET_HOURS,
            fate=Fate.DEFER,
            due_us=due_us,
            trigger=Trigger("call_made", 0),
        )
        self.all[subscriber_id, campaign] = Deferral(
            subscriber_id, made.id, campaign, 1, due_us, made.expires_at_us, Trigger("call_made", 0)
        )
        self.deferrals.note([verdict(subscriber_id, made.id, made)])

    def decide(self, taken: list[Deferral]) -> None:
        self.decided += 1
        for each in taken:
            assert each not in self.deferrals.take(each.subscriber_id, each.due_us), "it is given once"
            del self.all[each.subscriber_id, each.campaign]
            again = decision(f"d{self.decided}", campaign=each.campaign, deferred_of=each.decision_id)
            self.deferrals.note([verdict(each.subscriber_id, f"again{self.decided}", again)])

    async def poll(self, now_us: int) -> None:
        while await look_ahead(self, now_us, AHEAD_US):  # type: ignore[arg-type]  # all that it asks for
            subscriber_id = self.deferrals.first(now_us)
            assert subscriber_id is not None
            taken = self.deferrals.take(subscriber_id, now_us)
            assert taken == self.due(now_us, subscriber_id), "all of a subscriber comes together"
            assert taken, "nobody is looked at for nothing"
            self.decide(taken)
        assert self.due(now_us) == [], "nothing is late"


# One that is deferred when only the first of what is due were read.
_PARTLY_READ = [
    *(("defer", who, "a", AHEAD_US // 2) for who in PEOPLE),
    ("poll",),
    ("defer", PEOPLE[0], "b", AHEAD_US // 2),
    ("pass", AHEAD_US // 2),
    ("poll",),
]

# One of whom nothing was read, so that of theirs only what is due first of all is known.
_NOT_READ = [
    *(("defer", who, "a", AHEAD_US // 4) for who in PEOPLE[:2]),
    ("defer", PEOPLE[2], "a", AHEAD_US // 2),
    ("poll",),
    ("defer", PEOPLE[2], "b", AHEAD_US // 8),
    ("defer", PEOPLE[2], "c", AHEAD_US // 2),
    ("pass", AHEAD_US // 8),
    ("poll",),
    ("pass", AHEAD_US // 2),
    ("poll",),
]


@settings(max_examples=300)
@given(steps)
@example(_PARTLY_READ)
@example(_NOT_READ)
def test_all_that_is_due_is_taken_once_and_together(steps: list[tuple[Any, ...]]) -> None:
    async def body() -> None:
        record, now_us = Record(), 1_000 * AHEAD_US
        for step in steps:
            match step:
                case ("defer", who, campaign, in_us):
                    record.defer(who, campaign, now_us + in_us)
                case ("event", who):
                    record.decide(record.deferrals.take(who, now_us))
                case ("pass", us):
                    now_us += us
                case ("poll",):
                    await record.poll(now_us)
                case ("restart",):
                    record.deferrals = Deferrals()
        await record.poll(now_us + 10 * AHEAD_US)
        assert record.all == {}

    most, deferrals.MOST = deferrals.MOST, MOST
    try:
        asyncio.run(body())
    finally:
        deferrals.MOST = most
