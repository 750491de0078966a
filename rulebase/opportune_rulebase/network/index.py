"""Which campaigns can still match, by the value of one key after another.

A set of campaigns is an int, one bit each. For a key such as `sub.age`, the constants that campaigns
compare it with cut its values into regions; for each region the set of campaigns whose tests on the
key all hold is computed beforehand. Matching then is: look the value up, find its region, and it with
what is still alive. The work grows with the number of keys, not of campaigns.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Bound
from opportune_rulebase.network.conditions import Test
from opportune_rulebase.nodes import Node

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Regions:
    """`masks[bisect_right(bounds, value)]` are the campaigns that hold for `value`.

    `bounded` is the same for a figure of which `value` is only a bound. `nan` is for a double that is not
    a number.
    """

    bounds: list[Value]
    masks: list[int]
    bounded: list[int]
    nan: int


@dataclass(frozen=True, slots=True)
class Choices:
    """`masks.get(value, other)` are the campaigns that hold for `value`."""

    masks: dict[Value, int]
    other: int


@dataclass(slots=True)
class Group:
    """All tests on one key. `tests` pairs a campaign's bit number with a test of it."""

    name: str
    key: Node
    owner: Expression
    tests: list[tuple[int, Test]]

    @property
    def members(self) -> int:
        """The campaigns that have a test on this key."""
        return _union(1 << bit for bit, _ in self.tests)


def _union(sets: Iterable[int]) -> int:
    total = 0
    for each in sets:
        total |= each
    return total


def indexable(test: Test) -> bool:
    """Whether the constants of a test cut the values of its key as `regions` needs it."""
    return not any(isinstance(each, float) and not math.isfinite(each) for each in test.constants)


def truths(group: Group, everyone: int) -> tuple[int, int]:
    """For a boolean key: the campaigns (of `everyone`) that hold when it is True, and when it is False."""
    when_true = when_false = everyone
    for bit, test in group.tests:
        if test.constants[0] is True:
            when_false &= ~(1 << bit)
        else:
            when_true &= ~(1 << bit)
    return when_true, when_false


def choices(group: Group, everyone: int) -> Choices | None:
    """By equality alone; None if a test needs the order of values, or the key is a double."""
    if group.key.type == "double" or any(t.function not in ("_==_", "_!=_", "@in") for _, t in group.tests):
        return None
    values = {constant for _, test in group.tests for constant in test.constants}

    def holds(test: Test, value: Value | None) -> bool:
        return ((value in test.constants) is (test.function != "_!=_")) is test.positive

    def mask(value: Value | None) -> int:
        return everyone & ~_union(1 << bit for bit, test in group.tests if not holds(test, value))

    return Choices({value: mask(value) for value in values}, mask(None))


def regions(group: Group, everyone: int, bound: Bound = Bound.NONE) -> Regions:
    """By order. Every test must be `indexable`. `bound`: what a bounded value says."""
    cuts: set[Value] = set()
    for _, test in group.tests:
        for constant in test.constants:
            cuts |= {constant, _successor(constant)}
    bounds = sorted(cuts)
    count = len(bounds) + 1
    allowed: dict[int, tuple[int, int]] = {}
    for bit, test in group.tests:
        exact, bounded = _allowed(test, bounds, count, bound)
        before = allowed.get(bit, (-1, -1))
        allowed[bit] = before[0] & exact, before[1] & bounded
    outside = everyone & ~group.members
    masks = _transpose({bit: exact for bit, (exact, _) in allowed.items()}, count + 1)
    bounded_masks = _transpose({bit: bounded for bit, (_, bounded) in allowed.items()}, count)
    return Regions(
        bounds,
        [outside | each for each in masks[:count]],
        [outside | each for each in bounded_masks],
        outside | masks[count],
    )


def _successor(value: Value) -> Value:
    """The smallest value above: `x > c` is `x >= successor(c)`."""
    if isinstance(value, str):
        return value + "\0"
    if isinstance(value, float):
        return math.nextafter(value, math.inf)
    return value + 1


def _allowed(test: Test, bounds: Sequence[Value], count: int, bound: Bound) -> tuple[int, int]:
    """Regions, as a set of bits, in which the test holds: for an exact value (bit `count`: not a number),
    and for one that is a bound."""
    everything = (1 << (count + 1)) - 1
    numbers = (1 << count) - 1

    def from_(value: Value) -> int:
        """Regions of values >= `value`."""
        return numbers & ~((1 << bisect_right(bounds, value)) - 1)

    first = test.constants[0] if test.constants else None
    assert first is not None or test.function == "@in"  # noqa: S101 - comparisons have a constant
    exact = never = always = 0
    if first is not None:
        at, above = from_(first), from_(_successor(first))
        below, up_to = numbers & ~at, numbers & ~above
        exact = {
            "_>=_": at,
            "_>_": above,
            "_<_": below,
            "_<=_": up_to,
            "_==_": at & ~above,
            "_!=_": everything & ~(at & ~above),
            "@in": _union(from_(each) & ~from_(_successor(each)) for each in test.constants),
        }[test.function]
        if bound is Bound.LOWER:
            always = {"_>=_": at, "_>_": above, "_!=_": above}.get(test.function, 0)
            never = {"_<_": at, "_<=_": above, "_==_": above}.get(test.function, 0)
        elif bound is Bound.UPPER:
            always = {"_<=_": up_to, "_<_": below, "_!=_": below}.get(test.function, 0)
            never = {"_>_": up_to, "_>=_": below, "_==_": below}.get(test.function, 0)
    if test.positive:
        return exact, always
    return everything & ~exact, never


def _transpose(rows: dict[int, int], count: int) -> list[int]:
    """From "bit -> set of regions" to "region -> set of bits", in steps of changes, not of regions."""
    changes = [0] * (count + 1)
    for bit, row in rows.items():
        within = row & ((1 << count) - 1)
        edges = within ^ (within << 1)
        while edges:
            lowest = edges & -edges
            changes[lowest.bit_length() - 1] ^= 1 << bit
            edges ^= lowest
    masks, current = [], 0
    for change in changes[:count]:
        current ^= change
        masks.append(current)
    return masks
