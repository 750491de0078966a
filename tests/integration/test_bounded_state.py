"""What is kept of a subscriber does not grow with the years."""

from __future__ import annotations

from support.applications import in_loop, running
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, mms, subscribers

DAY_US = 86_400 * SECOND_US
ANNE = subscribers(1)[0]


def test_whoever_comes_once_a_day_is_relieved_of_old_hashes() -> None:
    """An event may be sent again for an hour or so; a day later its hash is of no use."""

    async def body() -> None:
        async with running() as app:
            for day in range(40):
                event = mms(ANNE, f"e{day}", NOON_US + day * DAY_US)
                await app.ingest.publish("test", [event], at_event_time=True)
            state = (await app.states.load([ANNE]))[ANNE]
            assert len(state.seen) == 1

    in_loop(body)
