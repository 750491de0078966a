"""What the service keeps of one subscriber between events: context and dynamic state together."""

from __future__ import annotations

import sys
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate, pairwise
from math import gcd
from typing import Any

import msgspec


# gc=False: states hold no cycles, and millions of them must not be walked by the garbage collector.
class Series(msgspec.Struct, array_like=True, gc=False):
    """What one metric or fact retains, sorted by `at`.

    Sliding windows: `at` are event times in microseconds, `amount` what the metric needs of each event
    (empty for counts and facts). Day windows: `at` are local day numbers since 1970-01-01, `amount` what
    that day came to. See `fold.py` for what an amount is by kind.
    """

    at: list[int] = msgspec.field(default_factory=list)
    amount: list[Any] = msgspec.field(default_factory=list)


class Seed(msgspec.Struct, array_like=True, gc=False):
    """What an import said, as of `as_of_us`, that single local days of a metric came to: sorted day numbers
    since 1970-01-01, and their figures."""

    as_of_us: int
    at: list[int]
    amount: list[int | float]


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One event that took part in a pattern. Ordered by `at_us`, then `digest`.

    `what` is what the pattern found in it; what that is depends on the kind of pattern. `attributes` are
    those that a completion or a link may need, None for none. `found` is the digest of the completion that
    this event brought about; 0 for none.
    """

    at_us: int
    digest: int
    what: Any = None
    attributes: dict[str, Any] | None = None
    cell_id: str = ""
    found: int = 0


class Given(msgspec.Struct, array_like=True, gc=False):
    """A completion that was given out: from `since_us` to `at_us`. It answers for the completion whose
    digest `stands_for` is: itself, or another that late input made of it. 0: for none any more."""

    at_us: int
    digest: int
    since_us: int
    stands_for: int


class PatternState(msgspec.Struct, array_like=True, gc=False):
    """What one pattern retains of one subscriber. What is in it by kind: the modules of `core/patterns`.

    `recent`: the events that took part and that a late one may still come before, in order. `base`: what
    the events before them came to. `tip`: what all came to. `given`: what was given out, for as long as
    late input may move it. `days`: the figure of each local day, for changes. `due_us`: when its timer is
    due; 0 for none.
    """

    base: tuple[Any, ...] = ()
    tip: tuple[Any, ...] = ()
    recent: list[Entry] = msgspec.field(default_factory=list)
    given: tuple[Given, ...] = ()
    days: Series | None = None
    due_us: int = 0


class SubscriberState(msgspec.Struct, array_like=True, gc=False):
    """One subscriber's live state. Mutable; owned by one writer at a time.

    `position` is the last log position folded into it: replaying the log skips what it holds already.
    `context` is the static data with, for each attribute, its as-of time in `as_of_us`.
    `known` says whether any context was ever imported. `seen` maps the hash of (source, event id) to
    the instant until which it may come again, for deduplication. `series` and `patterns` are keyed by the
    definition's content. `latest_us` is the newest event time seen. `cells` are the cells of the last hour
    and the one before them. `imei` is that of the newest event that told one, `handset` the pattern that
    tells when it changes. `replaced_us` is the as-of time of the newest import that said all there is.
    `filled` is the last backfill it took in. `seeds`: metric key -> what an import says of earlier days.
    """

    position: int = 0
    known: bool = False
    context: dict[str, object] = msgspec.field(default_factory=dict)
    as_of_us: dict[str, int] = msgspec.field(default_factory=dict)
    seen: dict[int, int] = msgspec.field(default_factory=dict)
    series: dict[str, Series] = msgspec.field(default_factory=dict)
    patterns: dict[str, PatternState] = msgspec.field(default_factory=dict)
    cells: Series | None = None
    imei: str = ""
    handset: PatternState | None = None
    latest_us: int = 0
    replaced_us: int = 0
    filled: int = 0
    seeds: dict[str, Seed] | None = None

    @property
    def due_us(self) -> int:
        """When the first of its timers is due; 0 if there is none."""
        return min((each.due_us for each in self.patterns.values() if each.due_us), default=0)


class StateHead(msgspec.Struct, array_like=True, gc=False):
    """The beginning of an encoded state: what can be read of it without the rest. `due_us`: when the first
    of its timers is due; 0 for none."""

    position: int
    due_us: int
    known: bool
    context: dict[str, object]


class _Encoded(msgspec.Struct, array_like=True, gc=False):
    """A state as bytes. The head as it is, then the keys of series and patterns, then all else, packed."""

    position: int
    due_us: int
    known: bool
    context: msgspec.Raw
    keys: list[str | int]
    packed: bytes


class _Body(msgspec.Struct, array_like=True, gc=False):
    """All that is packed of a state. Every number that is an instant, a digest or a hash stands once, in a
    table; everywhere else is its place there. Most instants and hashes are in several patterns and metrics.

    The table: `others`, then the instants: the first, and their differences in multiples of `unit_us`.
    Patterns are rows, see `_pattern_row`. Series are their instants, amounts, and whether those are places.
    """

    others: list[int]
    first_us: int
    unit_us: int
    steps: list[int]
    as_of_us: dict[str, int]
    seen: list[int]
    seen_until: list[int]
    series: list[tuple[list[int], list[Any], bool]]
    patterns: list[list[Any]]
    cells: tuple[list[int], list[str]] | None
    imei: str
    handset: list[Any] | None
    latest_us: int
    replaced_us: int
    filled: int
    seeds: dict[str, Seed] | None


_encode = msgspec.msgpack.Encoder().encode
_decode_encoded = msgspec.msgpack.Decoder(_Encoded).decode
_decode_body = msgspec.msgpack.Decoder(_Body).decode
_decode_context = msgspec.msgpack.Decoder(dict[str, object]).decode
head_of = msgspec.msgpack.Decoder(StateHead).decode
"""The head of an encoded state. Raises `msgspec.DecodeError` on anything else."""

_LEVEL = 6
"""Of the compression. 1 saves a tenth of the time and takes three bytes in a hundred more."""

_FIRST_US, _LAST_US = 2**48, 2**52
"""What lies between is taken for an instant of the years 1978 to 2112. A hash that lies there costs some
bytes and does no harm."""

_LARGE = 2**32
"""Whole numbers from here on are hashes more often than amounts."""


def encode_state(state: SubscriberState) -> bytes:
    """The state as bytes. Equal states give equal bytes only if built in equal order."""
    numbers = {state.latest_us, *state.seen, *state.seen.values()}
    hashed = []
    for series in state.series.values():
        numbers.update(series.at)
        amount = series.amount
        hashes = bool(amount) and all(type(each) is int and each >= _LARGE for each in amount)
        hashed.append(hashes)
        if hashes:
            numbers.update(amount)
    for kept in state.patterns.values():
        _collect(kept, numbers)
    if state.handset is not None:
        _collect(state.handset, numbers)
    if state.cells is not None:
        numbers.update(state.cells.at)
    table = sorted(numbers)
    first, last = bisect_left(table, _FIRST_US), bisect_left(table, _LAST_US)
    others, instants = table[:first] + table[last:], table[first:last]
    steps = [after - before for before, after in pairwise(instants)]
    unit_us = gcd(*steps) or 1
    places = {number: place for place, number in enumerate(others + instants)}
    at = places.__getitem__
    body = _Body(
        others,
        instants[0] if instants else 0,
        unit_us,
        [each // unit_us for each in steps] if unit_us > 1 else steps,
        state.as_of_us,
        [*map(at, state.seen)],
        [*map(at, state.seen.values())],
        [
            ([*map(at, series.at)], [*map(at, series.amount)] if hashes else series.amount, hashes)
            for series, hashes in zip(state.series.values(), hashed, strict=True)
        ],
        [_pattern_row(kept, places) for kept in state.patterns.values()],
        None if state.cells is None else ([*map(at, state.cells.at)], state.cells.amount),
        state.imei,
        None if state.handset is None else _pattern_row(state.handset, places),
        at(state.latest_us),
        state.replaced_us,
        state.filled,
        state.seeds,
    )
    packed = zlib.compress(_encode(body), _LEVEL, -15)
    context = msgspec.Raw(_encode(state.context))
    keys: list[str | int] = [*state.series, *state.patterns]
    return _encode(_Encoded(state.position, state.due_us, state.known, context, keys, packed))


def decode_state(data: bytes) -> SubscriberState:
    """The inverse of `encode_state`. Raises `msgspec.DecodeError` on anything else."""
    try:
        encoded = _decode_encoded(data)
        return _unpacked(encoded, _decode_body(zlib.decompress(encoded.packed, -15)))
    except (zlib.error, LookupError, TypeError, ValueError) as error:
        raise msgspec.DecodeError("not a state") from error


def _unpacked(encoded: _Encoded, body: _Body) -> SubscriberState:
    unit_us = body.unit_us
    table = body.others
    table += accumulate((step * unit_us for step in body.steps), initial=body.first_us)
    at = table.__getitem__
    # Interned: the same few keys are in all states.
    keys = [sys.intern(str(key)) for key in encoded.keys]
    series = [
        Series([*map(at, instants)], [*map(at, amount)] if hashed else amount)
        for instants, amount, hashed in body.series
    ]
    patterns = [_pattern_of(row, table) for row in body.patterns]
    return SubscriberState(
        position=encoded.position,
        known=encoded.known,
        context=_decode_context(encoded.context),
        as_of_us=body.as_of_us,
        seen=dict(zip(map(at, body.seen), map(at, body.seen_until), strict=True)),
        series=dict(zip(keys[: len(series)], series, strict=True)),
        patterns=dict(zip(keys[len(series) :], patterns, strict=True)),
        cells=None if body.cells is None else Series([*map(at, body.cells[0])], list(body.cells[1])),
        imei=body.imei,
        handset=None if body.handset is None else _pattern_of(body.handset, table),
        latest_us=at(body.latest_us),
        replaced_us=body.replaced_us,
        filled=body.filled,
        seeds=body.seeds,
    )


def _collect(kept: PatternState, numbers: set[int]) -> None:
    """All whole numbers of a pattern's state, but for those among attributes and in its days' figures."""
    numbers.add(kept.due_us)
    _collect_in(kept.base, numbers)
    if kept.tip is not kept.base:
        _collect_in(kept.tip, numbers)
    for entry in kept.recent:
        numbers.update((entry.at_us, entry.digest, entry.found))
        _collect_in((entry.what,), numbers)
    for given in kept.given:
        numbers.update((given.at_us, given.digest, given.since_us, given.stands_for))
    if kept.days is not None:
        numbers.update(kept.days.at)


def _collect_in(values: Iterable[Any], numbers: set[int]) -> None:
    for each in values:
        kind = type(each)
        if kind is int:
            numbers.add(each)
        elif kind is list or kind is tuple:
            _collect_in(each, numbers)


def _pattern_row(kept: PatternState, places: dict[int, int]) -> list[Any]:
    """Due, base, tip (None for that of the base), entries, what was given, days: each flat, with places."""
    entries: list[Any] = []
    for entry in kept.recent:
        (what,) = _placed((entry.what,), places)
        found = places[entry.found]
        entries += (places[entry.at_us], places[entry.digest], what, entry.attributes, entry.cell_id, found)
    given = [
        places[each] for one in kept.given for each in (one.at_us, one.digest, one.since_us, one.stands_for)
    ]
    tip = None if kept.tip is kept.base else _placed(kept.tip, places)
    row = [places[kept.due_us], _placed(kept.base, places), tip, entries, given]
    if kept.days is not None:
        row += ([places[day] for day in kept.days.at], kept.days.amount)
    return row


def _pattern_of(row: list[Any], table: list[int]) -> PatternState:
    due, base, tip, entries, given, *days = row
    recent = [
        Entry(table[at], table[digest], _looked_up((what,), table)[0], attributes, cell_id, table[found])
        for at, digest, what, attributes, cell_id, found in zip(*[iter(entries)] * 6, strict=True)
    ]
    base = tuple(_looked_up(base, table))
    return PatternState(
        base,
        base if tip is None else tuple(_looked_up(tip, table)),
        recent,
        tuple(Given(*map(table.__getitem__, each)) for each in zip(*[iter(given)] * 4, strict=True)),
        Series([table[day] for day in days[0]], days[1]) if days else None,
        table[due],
    )


def _placed(values: Iterable[Any], places: dict[int, int]) -> list[Any]:
    """Whole numbers as places; what is neither that nor a list of such stays as it is."""
    placed: list[Any] = []
    for each in values:
        kind = type(each)
        if kind is int:
            placed.append(places[each])
        elif kind is list or kind is tuple:
            placed.append(_placed(each, places))
        else:
            placed.append(each)
    return placed


def _looked_up(values: Iterable[Any], table: list[int]) -> list[Any]:
    """The inverse of `_placed`."""
    found: list[Any] = []
    for each in values:
        kind = type(each)
        if kind is int:
            found.append(table[each])
        elif kind is list:
            found.append(_looked_up(each, table))
        else:
            found.append(each)
    return found


class KeyTable:
    """Numbers for the keys of metrics, facts and patterns, for whoever keeps many encoded states: a number
    takes one byte, a key eleven, and a state has dozens. It grows with every new key, and never shrinks.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._numbers: dict[str, int] = {}

    def shorten(self, data: bytes) -> bytes:
        """An encoded state with numbers for keys; nobody else can read it, but for its head."""
        encoded = _decode_encoded(data)
        numbers = self._numbers
        short: list[str | int] = []
        for key in encoded.keys:
            number = numbers.setdefault(str(key), len(numbers))
            if number == len(self._keys):
                self._keys.append(str(key))
            short.append(number)
        encoded.keys = short
        return _encode(encoded)

    def spell_out(self, data: bytes) -> bytes:
        """The inverse of `shorten`."""
        encoded = _decode_encoded(data)
        encoded.keys = [self._keys[int(number)] for number in encoded.keys]
        return _encode(encoded)
