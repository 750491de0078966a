"""The simulated province: the same for the same seed, believable, and true to its own table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta

import msgspec
import pytest
from opportune_service import simulator
from opportune_service.core.events import Event
from opportune_service.simulator import Answer, Province, answer, luhn_digit
from support.provinces import MONDAY_US, ZONE, made_up_cells, made_up_tacs

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
PEOPLE = 300
TYPES = {"int": int, "string": str, "bool": bool}

DIGEST = """
import hashlib
from opportune_service.simulator import Province
from support.provinces import MONDAY_US, ZONE, made_up_cells, made_up_tacs
province = Province(11, 40, MONDAY_US, ZONE, made_up_cells(), made_up_tacs())
digest = hashlib.sha256(repr(list(province.context())).encode())
for event in province.events(MONDAY_US + 86_400_000_000):
    digest.update(repr(event).encode())
print(digest.hexdigest())
"""


def province(
    seed: int = 7, people: int = PEOPLE, start_us: int = MONDAY_US, scale: float = 1.0
) -> Province:
    return Province(seed, people, start_us, ZONE, made_up_cells(), made_up_tacs(), scale)


@pytest.fixture(scope="module")
def two_days() -> list[Event]:
    return list(province().events(MONDAY_US + 2 * DAY_US))


@pytest.fixture(scope="module")
def documented() -> dict[str, dict[str, type]]:
    """Event type -> attribute -> type, from the table that the module shows its readers."""
    table = {}
    for line in (simulator.__doc__ or "").splitlines():
        if row := re.fullmatch(r"\| ?([a-z_]+) *\|(.*)\|", line):
            words = re.findall(r"(\w+) (int|string|bool)\b", row[2])
            table[row[1]] = {name: TYPES[word] for name, word in words}
    return table


def attributes(event: Event) -> dict[str, object]:
    return msgspec.json.decode(event.attributes, type=dict[str, object])


def test_same_seed_gives_the_same_bytes_in_any_process() -> None:
    def digest(hash_seed: str) -> str:
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        run = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        return run.stdout

    assert digest("1") == digest("2") != ""


def test_another_seed_gives_other_events() -> None:
    until_us = MONDAY_US + DAY_US
    one, other = (list(province(seed, 20).events(until_us)) for seed in (1, 2))
    assert [event.attributes for event in one] != [event.attributes for event in other]


def test_taking_events_in_pieces_changes_nothing(two_days: list[Event]) -> None:
    piecewise = province()
    cuts = (MONDAY_US + 90 * 60_000_000, MONDAY_US + DAY_US, MONDAY_US + DAY_US, MONDAY_US + 2 * DAY_US)
    assert [event for until_us in cuts for event in piecewise.events(until_us)] == two_days


def test_a_province_that_starts_in_the_middle_of_a_day_starts_there() -> None:
    start_us = MONDAY_US + 15 * HOUR_US + 20 * 60_000_000
    events = list(province(people=50, start_us=start_us).events(start_us + HOUR_US))
    assert events
    assert all(start_us <= event.occurred_at_us < start_us + HOUR_US for event in events)


def test_events_are_in_time_order_with_ids_of_their_own(two_days: list[Event]) -> None:
    times = [event.occurred_at_us for event in two_days]
    assert times == sorted(times)
    assert len({event.id for event in two_days}) == len(two_days)


def test_every_event_is_as_the_table_says(
    two_days: list[Event], documented: dict[str, dict[str, type]]
) -> None:
    cells = made_up_cells()
    for event in two_days:
        assert {name: type(value) for name, value in attributes(event).items()} == documented[event.type]
        assert re.fullmatch(r"86138[0-9]{8}", event.subscriber_id)
        assert event.cell_id == "" or event.cell_id in cells
    rare = {"complaint", "sim_separated", "cancel"}
    assert documented.keys() - {event.type for event in two_days} <= rare


def test_about_a_hundred_events_a_subscriber_a_day(two_days: list[Event]) -> None:
    assert 80 <= len(two_days) / PEOPLE / 2 <= 125


def test_scale_multiplies_what_people_do_but_not_how_they_move() -> None:
    def counts(scale: float) -> Counter[bool]:
        events = province(people=60, scale=scale).events(MONDAY_US + DAY_US)
        return Counter(event.type in {"cell_changed", "power_on", "power_off"} for event in events)

    plain, busy = counts(1.0), counts(3.0)
    assert 2.6 < busy[False] / plain[False] < 3.4
    assert 0.8 < busy[True] / plain[True] < 1.25


def test_the_nights_are_quiet_and_the_evenings_busy(two_days: list[Event]) -> None:
    by_hour = Counter(datetime.fromtimestamp(event.occurred_at_us / 1e6, ZONE).hour for event in two_days)
    night = sum(by_hour[hour] for hour in (2, 3, 4)) / 3
    evening = sum(by_hour[hour] for hour in (18, 19, 20)) / 3
    assert night * 8 < evening
    assert by_hour[12] > by_hour[14]


def test_offices_are_empty_at_the_weekend() -> None:
    friday_us = MONDAY_US + 4 * DAY_US
    at_work: Counter[int] = Counter()
    for event in province(people=150, start_us=friday_us).events(friday_us + 2 * DAY_US):
        if event.cell_id.startswith("office"):
            at_work[(event.occurred_at_us - friday_us) // DAY_US] += 1
    assert at_work[1] * 3 < at_work[0]


def test_habits_show_in_what_people_do(two_days: list[Event]) -> None:
    context = dict(province().context())

    def mean(kind: str, people: set[str]) -> float:
        return sum(e.type == kind and e.subscriber_id in people for e in two_days) / len(people)

    for kind, attribute, bound in (
        ("mms_sent", "mms_sent_30d", 20),
        ("power_off", "off_days_30d", 11),
        ("balance_query", "balance_queries_30d", 10),
        ("ringtone_changed", "ringtone_changes_90d", 6),
    ):
        known = {who: known[attribute] for who, known in context.items()}
        often = {who for who, value in known.items() if isinstance(value, int) and value >= bound}
        assert mean(kind, often) > 2 * mean(kind, known.keys() - often)


def test_a_phone_that_is_off_does_nothing(two_days: list[Event]) -> None:
    off: set[str] = set()
    for event in two_days:
        if event.type == "power_off":
            off.add(event.subscriber_id)
        elif event.type == "power_on":
            off.discard(event.subscriber_id)
        elif event.subscriber_id in off:
            assert event.imei == "" or event.type == "sim_separated"


def test_the_cell_of_an_act_is_the_one_the_phone_moved_to(two_days: list[Event]) -> None:
    """The cell is always the last that the phone told of."""
    last: dict[str, str] = {}
    compared = 0
    for event in two_days:
        if event.type in {"cell_changed", "power_on"}:
            last[event.subscriber_id] = event.cell_id
        elif event.type == "sms_sent" and event.subscriber_id in last:
            compared += 1
            assert event.cell_id == last[event.subscriber_id]
    assert compared > PEOPLE


def test_both_sides_of_a_call_agree(two_days: list[Event]) -> None:
    made = {
        (
            event.occurred_at_us,
            event.subscriber_id,
            attributes(event)["peer"],
            attributes(event)["duration_s"],
        )
        for event in two_days
        if event.type == "call_made"
    }
    received = [event for event in two_days if event.type == "call_received"]
    within = [event for event in received if str(attributes(event)["peer"]).startswith("86138")]
    assert within
    for event in within:
        told = attributes(event)
        assert (event.occurred_at_us, told["peer"], event.subscriber_id, told["duration_s"]) in made


def riders_of(events: Iterable[Event]) -> set[str]:
    """Who passed six cells within ten minutes."""
    passed: dict[str, list[tuple[int, str]]] = defaultdict(list)
    riders = set()
    for event in events:
        if event.type == "cell_changed":
            trail = passed[event.subscriber_id]
            trail.append((event.occurred_at_us, event.cell_id))
            recent = {cell for at_us, cell in trail[-8:] if at_us > event.occurred_at_us - 10 * 60_000_000}
            if len(recent) >= 6:
                riders.add(event.subscriber_id)
    return riders


def test_some_ride_to_work_and_fewer_to_town(two_days: list[Event]) -> None:
    assert 0.05 < len(riders_of(two_days)) / PEOPLE < 0.5
    saturday_us = MONDAY_US + 5 * DAY_US
    weekend = list(province(start_us=saturday_us).events(saturday_us + 2 * DAY_US))
    assert 0 < len(riders_of(weekend)) < len(riders_of(two_days))


def test_some_handsets_restart_again_and_again(two_days: list[Event]) -> None:
    off: dict[str, int] = {}
    restarts: Counter[str] = Counter()
    for event in two_days:
        if event.type == "power_off":
            off[event.subscriber_id] = event.occurred_at_us
        elif event.type == "power_on" and event.subscriber_id in off:
            restarts[event.subscriber_id] += event.occurred_at_us - off[event.subscriber_id] < HOUR_US // 6
    failing = [who for who, count in restarts.items() if count >= 3]
    assert 0 < len(failing) < PEOPLE / 10


def test_some_call_back_whom_they_missed_while_the_phone_was_off(two_days: list[Event]) -> None:
    missed: set[tuple[str, object]] = set()
    called_back = 0
    for event in two_days:
        if event.type == "call_missed" and attributes(event)["cause"] == "powered_off":
            missed.add((event.subscriber_id, attributes(event)["peer"]))
        elif event.type == "call_made":
            pair = (event.subscriber_id, attributes(event)["peer"])
            called_back += pair in missed
            missed.discard(pair)
    assert called_back > 10


def test_some_wait_half_an_hour_at_the_airport(two_days: list[Event]) -> None:
    since: dict[str, int] = {}
    waited = set()
    for event in two_days:
        if event.cell_id.startswith("airport"):
            since.setdefault(event.subscriber_id, event.occurred_at_us)
            if event.occurred_at_us - since[event.subscriber_id] > HOUR_US // 2:
                waited.add(event.subscriber_id)
        elif event.cell_id:
            since.pop(event.subscriber_id, None)
    assert waited


def test_calls_abroad_are_charged_by_other_networks(two_days: list[Event]) -> None:
    """They come with their minutes, and only of people who are out of the province."""
    abroad = {event.subscriber_id for event in two_days if event.type == "roaming_call"}
    assert abroad
    gone = {event.subscriber_id for event in two_days if event.cell_id.startswith("airport")}
    assert abroad <= gone


def test_some_run_out_of_money_for_a_day_and_some_weeks_cost_far_more() -> None:
    low: dict[str, int] = {}
    late = set()
    spent: Counter[tuple[str, int]] = Counter()
    people = 150
    for event in province(people=people).events(MONDAY_US + 28 * DAY_US):
        who = event.subscriber_id
        if event.type == "low_balance":
            low[who] = event.occurred_at_us
        elif event.type == "recharge" and event.occurred_at_us - low.pop(who, MONDAY_US * 2) > DAY_US:
            late.add(who)
        elif event.type == "charge":
            amount = attributes(event)["amount"]
            assert isinstance(amount, int)
            spent[who, (event.occurred_at_us - MONDAY_US) // (7 * DAY_US)] += amount
    assert 0.1 < len(late) / people < 0.9
    changes = [
        spent[who, week + 1] / before for (who, week), before in spent.items() if before > 300 and week < 3
    ]
    assert 0.02 < sum(change > 3 for change in changes) / len(changes) < 0.2
    assert 0.02 < sum(change < 1 / 3 for change in changes) / len(changes) < 0.3


def test_imeis_are_valid_and_new_handsets_appear() -> None:
    handsets: dict[str, list[str]] = defaultdict(list)
    for event in province(people=100).events(MONDAY_US + 10 * DAY_US):
        if event.imei and (
            not handsets[event.subscriber_id] or handsets[event.subscriber_id][-1] != event.imei
        ):
            handsets[event.subscriber_id].append(event.imei)
    tacs = made_up_tacs()
    for imeis in handsets.values():
        assert len(set(imeis)) == len(imeis), "a handset that was left does not come back"
        for imei in imeis:
            assert imei[:8] in tacs
            assert len(imei) == 15
            assert luhn_digit(imei[:14]) == int(imei[14])
    assert any(len(imeis) > 1 for imeis in handsets.values())


def test_the_check_digit_is_the_published_one() -> None:
    assert luhn_digit("7992739871") == 3


def test_context_is_typed_alike_for_everybody_and_misses_a_few() -> None:
    people = province(people=1_000)
    records = dict(people.context())
    assert 980 <= len(records) < 1_000
    shapes = {tuple((name, type(value)) for name, value in record.items()) for record in records.values()}
    assert len(shapes) == 1
    assert records == dict(people.context())
    assert {record["segment"] for record in records.values()} == {s.name for s in simulator.habits.SEGMENTS}


def test_dates_are_those_of_the_start() -> None:
    start = datetime.fromtimestamp(MONDAY_US / 1e6, ZONE).date()
    months = 0
    for known in (record for _, record in province(people=500).context()):
        dates = {
            name: date.fromisoformat(str(known[name]))
            for name in ("birthday", "contract_end", "points_expire_on")
        }
        assert (start - dates["birthday"]).days // 365 == known["age"]
        left = (dates["contract_end"] - start).days
        assert (left > 0) is bool(known["contract_months_left"])
        months += 0 < left <= 60
        assert 0 < (dates["points_expire_on"] - start).days <= 30
    assert months > 20


def test_the_clocks_may_change_without_a_gap() -> None:
    """The hours follow local time over a daylight-saving change."""
    zone = type(ZONE)("Europe/Berlin")
    start = datetime(2026, 3, 28, tzinfo=zone)
    start_us = int(start.timestamp()) * 1_000_000
    people = Province(3, 40, start_us, zone, made_up_cells(), made_up_tacs())
    days = Counter(
        datetime.fromtimestamp(event.occurred_at_us / 1e6, zone).date()
        for event in people.events(start_us + 71 * HOUR_US)
    )
    assert set(days) == {(start + timedelta(days=day)).date() for day in range(3)}
    assert min(days.values()) * 2 > max(days.values())


def test_a_province_needs_cells_and_people() -> None:
    with pytest.raises(ValueError, match="cell"):
        Province(1, 1, MONDAY_US, ZONE, {}, made_up_tacs())
    with pytest.raises(ValueError, match="subscriber"):
        province(people=0)


def test_a_province_of_one_cell_and_no_handsets_works() -> None:
    cell = dict(list(made_up_cells().items())[:1])
    events = list(Province(1, 3, MONDAY_US, ZONE, cell, []).events(MONDAY_US + DAY_US))
    assert events
    assert {event.imei for event in events} == {""}


def test_answers_are_stable_and_complaints_rare() -> None:
    answers = [answer(5, f"decision-{number}", "mms-bundle") for number in range(20_000)]
    assert answers == [answer(5, f"decision-{number}", "mms-bundle") for number in range(20_000)]
    share = {kind: count / len(answers) for kind, count in Counter(answers).items()}
    assert 0.03 < share[Answer.ACCEPTED] < 0.2
    assert 0.06 < share[Answer.REFUSED] < 0.1
    assert 0.001 < share[Answer.COMPLAINED] < 0.01
    assert share[Answer.IGNORED] > 0.6
