"""What patterns are given, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from functools import lru_cache
from typing import NamedTuple

import msgspec
from opportune_rulebase.engine import Facts
from opportune_rulebase.expressions import Expression
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from opportune_service.core.admit import Attributes
from opportune_service.core.state import SubscriberState

Told = Mapping[str, object]
"""Attributes of an event that a sequence has kept."""

Holds = Callable[[Facts], bool]
"""Whether a `where` is true of an event."""

Link = Callable[[Told, Told, Told], bool]
"""Whether a link holds: (what was kept of this event, of that of the first step, of that before)."""


class Compilers(NamedTuple):
    """How expressions become functions: `test` those of `where`, `link` those of `link`."""

    test: Callable[[Expression], Holds]
    link: Callable[[Expression], Link]


class Sighting(msgspec.Struct, gc=False):
    """One event as changes see it.

    `facts` are what a `where` is asked of. `digest`: the `ranked` hash of (source, event id). `cell_id` is
    the event's own, empty without one. No event before
    `horizon_us` comes any more. `coverage`: pattern key -> since when it has been folded. `timed` becomes
    true when a pattern that waits for something took part.
    """

    state: SubscriberState
    facts: Facts
    at_us: int
    digest: int
    attributes: Attributes
    cell_id: str
    horizon_us: int
    zone: tzinfo
    coverage: Mapping[str, int]
    timed: bool = False


Taker = Callable[[Sighting], "Sequence[Completion]"]
"""Lets an event of one type take part in one change; the completions to give out now, in order of time."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A completed pattern: what its derived event is made of. `id` is a hash of the definition, the events
    that contributed and, for timers, when it was due; `digest` is the same for patterns that take it in.
    `at_us`: when the completing event occurred, or the timer was due.

    `attributes` has at least those that the derived event is declared with.
    """

    name: str
    id: str
    digest: int
    at_us: int
    attributes: Attributes
    cell_id: str


class Found(NamedTuple):
    """A completion, and when what it speaks of began."""

    completion: Completion
    since_us: int


def found(
    name: str,
    key: str,
    digests: Iterable[int],
    at_us: int,
    since_us: int,
    attributes: Attributes | None = None,
    cell_id: str = "",
    due_us: int = 0,
) -> Found:
    """A completion of the pattern `key`, to which the events of `digests` contributed. `due_us` for
    timers."""
    digests = list(digests)
    made_of = [due_us.to_bytes(8, "little", signed=True), *(each.to_bytes(8, "little") for each in digests)]
    id_ = xxh3_128_hexdigest(key.encode() + b"\0" + b"".join(made_of))
    digest = ranked(int(id_[:16], 16), 1 + max((each >> _RANK_BITS for each in digests), default=0))
    return Found(Completion(name, id_, digest, at_us, attributes or {}, cell_id), since_us)


_RANK_BITS = 62
_MAX_RANK = 3


def ranked(digest: int, rank: int) -> int:
    """A digest that orders what occurs at one instant: `rank` 0 for events that came in, and for what is
    derived of some, one more than the greatest of theirs. Deeper chains share the last rank."""
    return (digest >> 2) | (min(rank, _MAX_RANK) << _RANK_BITS)


def carry(attributes: Told | None, names: frozenset[str]) -> Attributes | None:
    """The attributes of an event that have these names; None for nothing."""
    if not attributes or not names:
        return None
    if isinstance(attributes, dict) and len(attributes) <= len(names) and attributes.keys() <= names:
        return attributes
    return {name: value for name, value in attributes.items() if name in names} or None


@lru_cache(maxsize=4096, typed=True)
def digest_of(value: object) -> int:
    """64 bits that tell values apart. With the type: 1, true and "1" are three values."""
    return xxh3_64_intdigest(f"{type(value).__name__}:{value}".encode())
