"""What patterns are given, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Place
from xxhash import xxh3_128_hexdigest

from opportune_service.core.admit import Attributes

Link = Callable[[Expression, Mapping[str, object], Mapping[str, object]], bool]
"""(link, the event's kept attributes, ``first.*`` and ``previous.*`` by qualified name) -> whether it
holds."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One event as patterns see it. `digest`: the hash of (source, event id). `cell_id` is the event's own,
    empty without one; `place` is where that is, None off the map. `holds`: whether a `where` is true of it.
    """

    type: str
    at_us: int
    digest: int
    attributes: Attributes
    cell_id: str
    place: Place | None
    holds: Callable[[Expression], bool]


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
    made_of = [due_us.to_bytes(8, "little", signed=True), *(each.to_bytes(8, "little") for each in digests)]
    id_ = xxh3_128_hexdigest(key.encode() + b"\0" + b"".join(made_of))
    return Found(Completion(name, id_, int(id_[:16], 16), at_us, attributes or {}, cell_id), since_us)
