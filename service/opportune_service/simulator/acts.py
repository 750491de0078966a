"""What people do, one function an act. Each appends the events that collectors see of it, on both sides."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from opportune_service.simulator.day import HOUR_US, SECOND_US
from opportune_service.simulator.habits import (
    DATA_CATEGORIES,
    DATA_KB,
    GENRES,
    PAGES,
    PRODUCTS,
    QUERY_CHANNELS,
    SALES_CHANNELS,
    TOPICS,
)
from opportune_service.simulator.people import FIRST_FOREIGN_NUMBER, NEVER_US, Person

Pending = list[tuple[int, Person, str, bytes, bool]]
"""Events not yet due: instant, whose, type, attributes, and whether the handset took part.

Cell and IMEI of such an event are looked up when it is due: by then the person may have moved on.
"""

_encode = msgspec.json.Encoder().encode
_LOW_BALANCE = 1_000
_CALLED_BACK = 0.4
_CHARGED = 0.3
"""Share of calls and messages outside a bundle."""


def _emit(pending: Pending, person: Person, at_us: int, kind: str, /, **attributes: object) -> None:
    pending.append((at_us, person, kind, _encode(attributes), True))


def _by_network(pending: Pending, person: Person, at_us: int, kind: str, /, **attributes: object) -> None:
    """An event that the network or the account knows of by itself: no cell, no handset."""
    pending.append((at_us, person, kind, _encode(attributes), False))


def _foreign(rng: Random) -> str:
    return str(FIRST_FOREIGN_NUMBER + rng.randrange(10_000_000))


def _charge(pending: Pending, person: Person, at_us: int, kind: str, amount: int) -> None:
    """Take money off the account; a low balance is told once and sooner or later mended."""
    rng = person.rng
    amount = max(1, round(amount * person.spending))
    at_us += rng.randrange(SECOND_US, 20 * SECOND_US)
    _by_network(pending, person, at_us, "charge", amount=amount, kind=kind)
    above = person.balance >= _LOW_BALANCE
    person.balance -= amount
    if above and person.balance < _LOW_BALANCE:
        _by_network(pending, person, at_us + SECOND_US, "low_balance", balance=person.balance)
    if person.balance < _LOW_BALANCE and person.recharge_us == NEVER_US:
        person.recharge_us = at_us + int(rng.uniform(0.3, 36) * HOUR_US)


def _deliver(pending: Pending, person: Person, at_us: int, kind: str, /, **attributes: object) -> None:
    """A message arrives; at a phone that is off it waits until the phone is switched on."""
    if person.is_off(at_us):
        at_us = person.off_until(at_us) + person.rng.randrange(5 * SECOND_US, 60 * SECOND_US)
        if person.is_off(at_us):
            return
        _by_network(pending, person, at_us, kind, **attributes)
    else:
        _emit(pending, person, at_us, kind, **attributes)


def _message(pending: Pending, sender: Person, other: str | Person, at_us: int) -> None:
    peer = other if isinstance(other, str) else other.number
    _emit(pending, sender, at_us, "sms_sent", peer=peer)
    if isinstance(other, Person):
        _deliver(pending, other, at_us + sender.rng.randrange(SECOND_US, 6 * SECOND_US), "sms_received",
                 peer=sender.number)  # fmt: skip
    if sender.rng.random() < _CHARGED:
        _charge(pending, sender, at_us, "sms", 10)


def _text(pending: Pending, person: Person, at_us: int) -> None:
    """A text, often with an answer."""
    other = person.rng.choice(person.contacts)
    _message(pending, person, other, at_us)
    if person.rng.random() < 0.45:
        reply_us = at_us + person.rng.randrange(15 * SECOND_US, 240 * SECOND_US)
        if isinstance(other, str):
            _deliver(pending, person, reply_us, "sms_received", peer=other)
        elif not other.is_off(at_us) and not other.is_off(reply_us):
            _message(pending, other, person, reply_us)


def _text_in(pending: Pending, person: Person, at_us: int) -> None:
    _emit(pending, person, at_us, "sms_received", peer=_foreign(person.rng))


def _mms(pending: Pending, person: Person, at_us: int) -> None:
    rng = person.rng
    other = rng.choice(person.contacts)
    peer = other if isinstance(other, str) else other.number
    size_kb = rng.randint(8, 100)
    _emit(
        pending,
        person,
        at_us,
        "mms_sent",
        peer=peer,
        size_kb=size_kb,
        to_count=rng.choice((1, 1, 1, 1, 2, 5)),
    )
    if isinstance(other, Person):
        arrival_us = at_us + rng.randrange(5 * SECOND_US, 60 * SECOND_US)
        _deliver(pending, other, arrival_us, "mms_received", peer=person.number, size_kb=size_kb)
    if rng.random() < _CHARGED:
        _charge(pending, person, at_us, "mms", 30)


def _mms_in(pending: Pending, person: Person, at_us: int) -> None:
    _emit(
        pending,
        person,
        at_us,
        "mms_received",
        peer=_foreign(person.rng),
        size_kb=person.rng.randint(8, 100),
    )


def _call(pending: Pending, caller: Person, at_us: int) -> None:
    _ring(pending, caller, caller.rng.choice(caller.contacts), at_us)


def _ring(pending: Pending, caller: Person, other: str | Person, at_us: int) -> None:
    """A call, known when it ends; missed at a phone that is off, or when nobody answers."""
    rng = caller.rng
    callee = other if isinstance(other, Person) else None
    peer = callee.number if callee else str(other)
    fate = rng.random()
    off = callee is not None and callee.is_off(at_us)
    ringback = not off and rng.random() < 0.35
    if off or fate < 0.17:
        _emit(pending, caller, at_us, "call_made", peer=peer, duration_s=0, ringback_heard=ringback)
        if callee and fate >= 0.14 and not off:
            _emit(pending, callee, at_us, "call_refused", peer=caller.number)
        elif callee:
            cause = "powered_off" if off else "busy" if fate < 0.05 else "no_answer"
            tell = _by_network if off else _emit
            tell(pending, callee, at_us, "call_missed", peer=caller.number, cause=cause)
            _call_back(pending, callee, caller, at_us)
        return
    ends_us = at_us + _talk_s(rng) * SECOND_US
    ends_us = min(ends_us, caller.next_off(at_us) - 1, callee.next_off(at_us) - 1 if callee else NEVER_US)
    seconds = max(1, (ends_us - at_us) // SECOND_US)
    _emit(pending, caller, ends_us, "call_made", peer=peer, duration_s=seconds, ringback_heard=ringback)
    if not caller.cell_at(at_us):
        _by_network(pending, caller, ends_us, "roaming_call", minutes=1 + seconds // 60)
    if callee:
        _emit(pending, callee, ends_us, "call_received", peer=caller.number, duration_s=seconds)
    if rng.random() < _CHARGED:
        _charge(pending, caller, ends_us, "voice", 25 * (1 + seconds // 60))


def _call_back(pending: Pending, person: Person, other: str | Person, at_us: int) -> None:
    """Who missed a call often calls back within the hour, or as soon as the phone is on again."""
    rng = person.rng
    if rng.random() < _CALLED_BACK:
        # Not much later: after midnight the times off of the new day are not laid out yet.
        off = person.is_off(at_us)
        back_us = rng.randrange(60 * SECOND_US, (600 if off else 2_400) * SECOND_US)
        back_us += person.off_until(at_us) if off else at_us
        if not person.is_off(back_us):
            _ring(pending, person, other, back_us)


def _talk_s(rng: Random) -> int:
    """Most calls last about a minute, a few an hour."""
    return min(3_600, 1 + int(rng.lognormvariate(4.1, 1.1)))


def _call_in(pending: Pending, person: Person, at_us: int) -> None:
    """A call from another network."""
    rng = person.rng
    peer, fate = _foreign(rng), rng.random()
    if fate < 0.15:
        _emit(
            pending, person, at_us, "call_missed", peer=peer, cause="busy" if fate < 0.03 else "no_answer"
        )
        _call_back(pending, person, peer, at_us)
    elif fate < 0.18:
        _emit(pending, person, at_us, "call_refused", peer=peer)
    else:
        ends_us = min(at_us + _talk_s(rng) * SECOND_US, person.next_off(at_us) - 1)
        seconds = max(1, (ends_us - at_us) // SECOND_US)
        _emit(pending, person, ends_us, "call_received", peer=peer, duration_s=seconds)


def _data(pending: Pending, person: Person, at_us: int) -> None:
    """A session on a site; crossing 80, 90 or 100 in 100 of the bundle is told by the network."""
    rng = person.rng
    category = rng.choice(person.favourites if rng.random() < 0.8 else DATA_CATEGORIES)
    kb = 1 + int(rng.expovariate(1.0) * DATA_KB.get(category, 150) / 8)
    site = f"{category}{rng.choice((1, 1, 1, 2, 2, 3))}.example"
    _emit(pending, person, at_us, "data_session", site=site, category=category, kb=kb)
    before = 100 * person.used_kb // person.bundle_kb
    person.used_kb += kb
    after = 100 * person.used_kb // person.bundle_kb
    for percent in (80, 90, 100):
        if before < percent <= after:
            _by_network(pending, person, at_us + 2 * SECOND_US, "data_threshold", percent=percent)
    if after >= 100 and rng.random() < _CHARGED:
        _charge(pending, person, at_us, "data", 1 + kb // 10)


def _balance(pending: Pending, person: Person, at_us: int) -> None:
    channel = person.rng.choice(QUERY_CHANNELS)
    _emit(pending, person, at_us, "balance_query", channel=channel, balance=person.balance)


def _bill(pending: Pending, person: Person, at_us: int) -> None:
    months = person.rng.choice((0, 1, 1, 2))
    _emit(
        pending, person, at_us, "bill_query", channel=person.rng.choice(QUERY_CHANNELS), months_back=months
    )


def _usage(pending: Pending, person: Person, at_us: int) -> None:
    kind = person.rng.choice(("voice", "sms", "data", "data"))
    _emit(pending, person, at_us, "usage_query", channel=person.rng.choice(QUERY_CHANNELS), kind=kind)


def _ringtone(pending: Pending, person: Person, at_us: int) -> None:
    rng = person.rng
    _emit(
        pending,
        person,
        at_us,
        "ringtone_changed",
        tone=f"tone-{rng.randint(1, 900)}",
        genre=rng.choice(GENRES),
    )


def _hotline(pending: Pending, person: Person, at_us: int) -> None:
    _emit(pending, person, at_us, "hotline_inquiry", topic=person.rng.choice(TOPICS))


def _complaint(pending: Pending, person: Person, at_us: int) -> None:
    channel = person.rng.choice(("hotline", "hotline", "counter", "web"))
    _emit(pending, person, at_us, "complaint", topic=person.rng.choice(TOPICS), channel=channel)


def _counter(pending: Pending, person: Person, at_us: int) -> None:
    _emit(pending, person, at_us, "counter_visit", topic=person.rng.choice(TOPICS))


def _web(pending: Pending, person: Person, at_us: int) -> None:
    _by_network(pending, person, at_us, "web_visit", page=person.rng.choice(PAGES))


def _app(pending: Pending, person: Person, at_us: int) -> None:
    _emit(pending, person, at_us, "app_visit", page=person.rng.choice(PAGES))


def _order(pending: Pending, person: Person, at_us: int) -> None:
    wanted = [product for product in PRODUCTS if product not in person.products]
    if wanted:
        product = person.rng.choice(wanted)
        person.products.append(product)
        _by_network(
            pending, person, at_us, "order", product=product, channel=person.rng.choice(SALES_CHANNELS)
        )


def _cancel(pending: Pending, person: Person, at_us: int) -> None:
    if person.products:
        product = person.products.pop(person.rng.randrange(len(person.products)))
        _by_network(
            pending, person, at_us, "cancel", product=product, channel=person.rng.choice(SALES_CHANNELS)
        )


ACTS: dict[str, Callable[[Pending, Person, int], None]] = {
    "text": _text, "text_in": _text_in, "call": _call, "call_in": _call_in, "mms": _mms, "mms_in": _mms_in,
    "data": _data, "balance": _balance, "bill": _bill, "usage": _usage, "ringtone": _ringtone,
    "hotline": _hotline, "complaint": _complaint, "counter": _counter, "web": _web, "app": _app,
    "order": _order, "cancel": _cancel,
}  # fmt: skip
"""Kind of act, as in `Segment.per_day` -> what it does."""
