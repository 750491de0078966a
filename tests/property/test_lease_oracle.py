"""No lease is given in quiet hours, reaches into them, or is held back without need: against an oracle that
looks at every minute of the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_rulebase.policies import Mode, Policies, QuietHours, Selector
from opportune_service.app.clearance import Ended, Postponed, next_step
from opportune_service.app.records import DeliveryState, Lease, Waiting
from opportune_service.core.revision import Revision
from support.rulebases import make_rulebase

MINUTE_US = 60_000_000
ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe")
LEASE_US = 30_000_000

windows = st.builds(
    QuietHours,
    name=st.just("quiet"),
    label=st.just(""),
    start_minute=st.integers(0, 1439),
    end_minute=st.integers(0, 1440),
    weekdays=st.frozensets(st.integers(0, 6), max_size=7),
    applies_to=st.just(Selector()),
).filter(lambda window: window.start_minute != window.end_minute)
# Around the changes of the clocks too.
starts = st.one_of(
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),
    *(
        st.datetimes(day - timedelta(hours=30), day + timedelta(hours=12))
        for day in (datetime(2026, 3, 29), datetime(2026, 10, 25), datetime(2026, 3, 8))
    ),
)


def is_quiet(quiet: tuple[QuietHours, ...], at_us: int, zone: ZoneInfo) -> bool:
    local = datetime.fromtimestamp(at_us // 1_000_000, zone)
    minute, today, yesterday = local.hour * 60 + local.minute, local.weekday(), (local.weekday() - 1) % 7
    for each in quiet:
        start, end = each.start_minute, each.end_minute
        if start < end and start <= minute < end and today in each.weekdays:
            return True
        if start > end and (
            (minute >= start and today in each.weekdays) or (minute < end and yesterday in each.weekdays)
        ):
            return True
    return False


def rulebase_with(quiet: tuple[QuietHours, ...]) -> Rulebase:
    return make_rulebase(
        events={"e": {}},
        subscriber={"time_zone": "string"},
        campaigns={"c": {}},
        policies=Policies(quiet_hours=quiet),
    )


@settings(max_examples=150, deadline=None)
@given(
    quiet=st.lists(windows, max_size=3).map(tuple),
    start=starts,
    lasts=st.integers(1, 2_000),
    zone=st.sampled_from(ZONES),
)
def test_the_lease_is_as_every_minute_of_the_clock_says(
    quiet: tuple[QuietHours, ...], start: datetime, lasts: int, zone: str
) -> None:
    now_us = int(start.replace(second=0, microsecond=0, tzinfo=UTC).timestamp()) * 1_000_000
    expires_us = now_us + lasts * MINUTE_US
    step = step_of(quiet, now_us, expires_us, zone)
    minutes = range(now_us, expires_us, MINUTE_US)
    quiet_at = [is_quiet(quiet, at_us, ZoneInfo(zone)) for at_us in minutes]
    if quiet_at[0]:
        ends_us = next((at_us for at_us, held in zip(minutes, quiet_at, strict=True) if not held), None)
        expected = Ended(DeliveryState.EXPIRED) if ends_us is None else Postponed(ends_us)
        assert step == expected
    else:
        begins_us = next((at_us for at_us, held in zip(minutes, quiet_at, strict=True) if held), expires_us)
        assert isinstance(step, Lease)
        assert step.expires_at_us == begins_us
        assert step.lease_until_us == min(begins_us, now_us + LEASE_US)


def step_of(
    quiet: tuple[QuietHours, ...], now_us: int, expires_us: int, zone: str
) -> Lease | Postponed | Ended:
    rulebase = rulebase_with(quiet)
    waiting = Waiting(
        decision_id="d",
        subscriber_id="8613800000001",
        channel="sms",
        campaign="c",
        product="product",
        category="category",
        mode=Mode.AUTOMATIC,
        content="",
        token=0,
        attempts=0,
        uncertain=False,
        expires_at_us=expires_us,
    )
    with_engine = Revision(rulebase, NetworkEngine(rulebase), {})
    try:
        return next_step(with_engine, waiting, {"time_zone": zone}, now_us, LEASE_US)
    finally:
        with_engine.close()
