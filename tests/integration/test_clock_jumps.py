"""The clock of the machine jumps, by seconds or months, either way, over midnights and ends of summer time:
no cap is exceeded, nobody is disturbed in quiet hours, and what was recorded can be recovered."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.verdict import ContactState, History
from support.applications import decided, in_loop, running
from support.rebuilt import live_and_rebuilt
from support.small_rulebase import mms, small_rulebase, subscribers

PEOPLE = subscribers(3)
LIMIT = 2
MINUTE_US = 60_000_000
DAY_US = 1440 * MINUTE_US
WEEK_US = 7 * DAY_US
JUMPS_US = [
    *(1_000_000, 59 * MINUTE_US, 61 * MINUTE_US, DAY_US, 25 * 60 * MINUTE_US, WEEK_US, WEEK_US + 1),
    *(30 * DAY_US, 190 * DAY_US),
]
NIGHT = b"""
quiet_hours:
  night: {from: "22:00", to: "08:00", otherwise: drop}
"""
ZONE = ZoneInfo("Europe/Berlin")
# Just before an hour that does not exist, and just before one that is there twice.
STARTS = [datetime(2026, 3, 29, 1, 50, tzinfo=ZONE), datetime(2026, 10, 25, 1, 50, tzinfo=ZONE)]


def rulebase() -> dict[str, bytes]:
    files = small_rulebase(threshold=1, weekly_limit=LIMIT)
    files["rulebase.yaml"] = files["rulebase.yaml"].replace(b"Asia/Shanghai", str(ZONE).encode())
    files["policies.yaml"] += NIGHT
    return files


async def contacts(app: Application, who: str) -> list[int]:
    """When each contact that counts was made."""

    def read() -> History:
        with app.ledger.transaction() as tx:
            return tx.histories([who], 0, 0)[who]

    history = await app.thread.run(read)
    return sorted(each.at_us for each in history.contacts if each.state is not ContactState.RELEASED)


def most_in_a_week(instants: Sequence[int]) -> int:
    """The most of these, which are sorted, within any seven days."""
    return max(
        (n + 1 - bisect_left(instants, at_us - WEEK_US + 1) for n, at_us in enumerate(instants)), default=0
    )


def is_quiet(at_us: int) -> bool:
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)
    return not 8 <= at.astimezone(ZONE).hour < 22


async def life(seed: int, *, back: bool) -> tuple[list[list[int]], int]:
    """Contacts of each of the people, and how many offers were decided, after many jumps."""
    rng = random.Random(seed)
    start_us = int(STARTS[seed % len(STARTS)].timestamp()) * 1_000_000
    offers = 0
    async with running(files=rulebase(), people=PEOPLE, now_us=start_us) as app:
        assert isinstance(app.clock, ManualClock)
        for step in range(120):
            events = [
                mms(rng.choice(PEOPLE), f"{step}-{n}", app.clock.now_us() - rng.choice([0, 1, MINUTE_US]))
                for n in range(rng.randrange(4))
            ]
            receipt = await app.ingest.publish("mmsc", events)
            assert not receipt.rejections
            offers += len(decided(receipt.verdicts))
            by_us = rng.choice(JUMPS_US)
            if back and rng.random() < 0.3:
                by_us = -by_us
            app.clock.value_us += by_us
            if not step % 20:
                live, rebuilt = await live_and_rebuilt(app, PEOPLE)
                assert rebuilt == live
        return [await contacts(app, who) for who in PEOPLE], offers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("back", [False, True], ids=["forwards", "both ways"])
def test_no_cap_is_exceeded_and_nobody_disturbed(seed: int, back: bool) -> None:
    made, offers = in_loop(lambda: life(seed, back=back))
    assert offers == sum(map(len, made))
    assert offers > 3, "little was decided: the test shows little"
    assert max(map(most_in_a_week, made)) <= LIMIT
    assert not any(is_quiet(at_us) for instants in made for at_us in instants)


def test_control_without_the_history_caps_are_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SqlTransaction.histories

    def blind(self: SqlTransaction, ids: Collection[str], since_us: int, now_us: int) -> dict[str, History]:
        found = honest(self, ids, since_us, now_us)
        return found if not now_us else {who: History() for who in ids}

    monkeypatch.setattr(SqlTransaction, "histories", blind)
    made, _ = in_loop(lambda: life(0, back=True))
    assert max(map(most_in_a_week, made)) > LIMIT


def test_control_without_quiet_hours_somebody_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.NIGHT", b"")
    made, _ = in_loop(lambda: life(0, back=True))
    assert any(is_quiet(at_us) for instants in made for at_us in instants)
