"""Reading a YAML mapping key by key, with types, bounds and the errors that belong to them.

Every getter logs what is wrong and returns a harmless value of the right type, so that loading can go
on to the next problem. A rulebase with any error is refused in the end, so such values never escape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import RESERVED
from opportune_rulebase.loading.problems import Code, Report, article, clip
from opportune_rulebase.loading.source import ListNode, MapNode, Node, ScalarNode
from opportune_rulebase.policies import SHARES, Fate

MAX_NAME = 64
MAX_INT = 2**53
"""Larger counts and money are typing errors; up to here a double is exact too."""

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

_UNITS: Final = {"s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": DAY_US}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_SHARE = re.compile(r"(100|[1-9]?[0-9])(?:\.([0-9]{1,2}))? ?%")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_BOOLS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def is_identifier(text: str) -> bool:
    """Whether `text` can be the last part of a variable's name in an expression."""
    return bool(_IDENTIFIER.fullmatch(text)) and text not in RESERVED and len(text) <= MAX_NAME


def parse_duration(text: str) -> int | None:
    """Microseconds of `30s`, `10m`, `24h` or `7d`; None if it is not written so."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def parse_bool(text: str) -> bool | None:
    """YAML 1.2: `true` and `false` only; `yes`, `on` and `1` are not booleans."""
    return _BOOLS.get(text)


def parse_int(text: str) -> int | None:
    """A decimal integer without leading zeros, of at most 2**53; None otherwise."""
    if not _INT.fullmatch(text) or len(text) > 20 or abs(int(text)) > MAX_INT:
        return None
    return int(text)


def parse_float(text: str) -> float | None:
    """A finite decimal number; None otherwise."""
    if not _FLOAT.fullmatch(text) or not math.isfinite(float(text)):
        return None
    return float(text)


def parse_share(text: str) -> int | None:
    """Of `SHARES`: 250 for `2.5%`, up to two decimals, at most 100 %; None if it is not written so."""
    match = _SHARE.fullmatch(text)
    share = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else None
    return share if share is None or share <= SHARES else None


def describe(node: Node) -> str:
    """What a node is, for "expected X, got Y"."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    if node.is_null:
        return "nothing"
    return f"the text {clip(node.text, 40)!r}" if node.style else repr(clip(node.text, 40))


class Fields:
    """One mapping of a rulebase file. `what` names it in messages ("the campaign")."""

    def __init__(
        self,
        report: Report,
        node: Node | None,
        what: str,
        keys: Collection[str],
        *,
        later: Mapping[str, str] | None = None,
        at: Position | None = None,
    ) -> None:
        """`later`: keys of the language that are not honoured yet, with what to do instead.

        `at`: where a missing key is reported; the mapping's own start if not given.
        """
        self.report = report
        self.what = what
        self._broken = False  # of the wrong type as a whole: then nothing is missing from it
        self._nodes: dict[str, Node] = {}
        self._keys: dict[str, ScalarNode] = {}
        self.at = at or (node.at if node else Position(""))
        if node is None:
            return
        if not isinstance(node, MapNode):
            report.error(node.at, Code.WRONG_TYPE, f"expected a mapping for {what}, got {describe(node)}")
            self._broken = True
            return
        for key, value in node.values.items():
            self._keys[key] = node.keys[key]
            if key in keys:
                self._nodes[key] = value
            elif later and key in later:
                report.error(
                    node.keys[key].at,
                    Code.NOT_YET_SUPPORTED,
                    f"{key!r} in {what} is not honoured yet",
                    later[key],
                )
            else:
                report.error(
                    node.keys[key].at,
                    Code.UNKNOWN_KEY,
                    f"unknown key {clip(key)!r} in {what}",
                    report.suggest(key, keys),
                )

    def node(self, key: str) -> Node | None:
        """The value of a key; None if the key is absent."""
        return self._nodes.get(key)

    def place(self, key: str) -> Position:
        """Where the value of a key stands, or the mapping if it is absent."""
        node = self._nodes.get(key)
        return node.at if node else self.at

    def key_at(self, key: str) -> Position:
        """Where the key itself stands."""
        return self._keys[key].at if key in self._keys else self.at

    def require(self, *keys: str) -> None:
        for key in keys:
            if key not in self._nodes and not self._broken:
                self.report.error(self.at, Code.MISSING_KEY, f"{self.what} has no {key!r}", f"add {key!r}")

    def require_any(self, *keys: str) -> None:
        """At least one of these keys must be there."""
        if not any(key in self._nodes for key in keys) and not self._broken:
            names = ", ".join(map(repr, keys))
            message = f"{self.what} has none of {names}" if len(keys) > 2 else ""
            message = message or f"{self.what} has neither {' nor '.join(map(repr, keys))}"
            self.report.error(self.at, Code.MISSING_KEY, message, "add one of them")

    def goes_with(self, key: str, other: str) -> None:
        """A key that says nothing without another one."""
        if key in self._nodes and other not in self._nodes:
            message = f"{key!r} in {self.what} says nothing without {other!r}"
            hint = f"add {other!r}, or leave {key!r} out"
            self.report.error(self.key_at(key), Code.MISSING_KEY, message, hint)

    def scalar(self, key: str, expected: str = "text") -> ScalarNode | None:
        """The scalar of a key, whatever it looks like; None (and an error, if present) otherwise."""
        node = self._nodes.get(key)
        if node is None:
            return None
        if not isinstance(node, ScalarNode) or node.is_null:
            self._wrong(node, key, expected)
            return None
        return node

    def text(self, key: str, default: str = "") -> str:
        """Text. A number is taken as it is written; true, false and null must be quoted."""
        node = self.scalar(key)
        if node is None:
            return default
        if not node.style and parse_bool(node.text) is not None:
            self._wrong(node, key, "text", "quote it")
            return default
        return node.text

    def integer(self, key: str, default: int, *, least: int = 0, most: int = MAX_INT) -> int:
        node = self.scalar(key, "a whole number")
        if node is None:
            return default
        value = None if node.style else parse_int(node.text)
        if value is None:
            self._wrong(node, key, "a whole number")
            return default
        if not least <= value <= most:
            self.report.error(node.at, Code.BAD_VALUE, f"{key!r} must be between {least} and {most}")
            return default
        return value

    def count(self, key: str, *, least: int = 0, most: int = MAX_INT) -> int | None:
        """A whole number; None if the key is absent (or wrong)."""
        if self.node(key) is None:
            return None
        found = self.integer(key, least - 1, least=least, most=most)
        return None if found < least else found

    def number(self, key: str, default: float, *, least: float, most: float) -> float:
        node = self.scalar(key, "a number")
        if node is None:
            return default
        value = None if node.style else parse_float(node.text)
        if value is None:
            self._wrong(node, key, "a number")
            return default
        if not least <= value <= most:
            self.report.error(node.at, Code.BAD_VALUE, f"{key!r} must be between {least:g} and {most:g}")
            return default
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        node = self.scalar(key, "true or false")
        if node is None:
            return default
        value = None if node.style else parse_bool(node.text)
        if value is None:
            self._wrong(node, key, "true or false")
            return default
        return value

    def share(self, key: str, default: int = 0, *, instead: str = "") -> int:
        """Of `SHARES`: 500 for `5%`. `instead`: a word that may stand there too, for the hint."""
        node = self.scalar(key, "a share")
        if node is None:
            return default
        value = parse_share(node.text)
        if value is None:
            hint = "write 0% to 100%, with two decimals at most: 5%, 2.5%"
            hint += f"; or {instead}" if instead else ""
            self._wrong(node, key, "a share", hint)
        return default if value is None else value

    def fate(self, key: str = "otherwise", known: Collection[str] = tuple(Fate)) -> Fate:
        """What happens to what a policy stops; it is dropped if nothing is said."""
        return Fate(self.choice(key, "fate", known) or Fate.DROP)

    def duration(self, key: str, default: int, *, most: int, least: int = 1) -> int:
        """Microseconds, more than zero (unless `least` is 0) and at most `most`."""
        node = self.scalar(key, "a duration")
        if node is None:
            return default
        value = parse_duration(node.text)
        if value is None:
            self._wrong(node, key, "a duration", "write a number and a unit: 30s, 10m, 24h or 7d")
            return default
        if not least <= value <= most:
            above = "more than nothing and " if least else ""
            message = f"{key!r} must be {above}at most {write_duration(most)}"
            self.report.error(node.at, Code.BAD_VALUE, message)
            return default
        return value

    def choice(self, key: str, kind: str, known: Collection[str]) -> str | None:
        """A name that must be one of `known`."""
        node = self.scalar(key, article(kind))
        if node is None:
            return None
        if node.text not in known:
            self.report.unknown(node.at, kind, node.text, known)
            return None
        return node.text

    def scalars(self, key: str, expected: str) -> tuple[ScalarNode, ...]:
        """A list of scalars; a single scalar stands for a list of one."""
        node = self._nodes.get(key)
        if node is None:
            return ()
        found: list[ScalarNode] = []
        for item in node.items if isinstance(node, ListNode) else (node,):
            if isinstance(item, ScalarNode) and not item.is_null:
                found.append(item)
            else:
                self._wrong(item, key, expected)
        return tuple(found)

    def choices(self, key: str, kind: str, known: Collection[str]) -> tuple[str, ...]:
        """A list of different names, each one of `known`, in the order written."""
        found: dict[str, None] = {}
        for item in self.scalars(key, article(kind)):
            if item.text not in known:
                self.report.unknown(item.at, kind, item.text, known)
            elif item.text in found:
                self.report.error(item.at, Code.DUPLICATE_NAME, f"{kind} {item.text!r} is listed twice")
            else:
                found[item.text] = None
        return tuple(found)

    def entries(self, key: str) -> Iterator[tuple[ScalarNode, Node]]:
        """Key and value of each entry of a mapping under `key`."""
        node = self._nodes.get(key)
        if node is None or (isinstance(node, ScalarNode) and node.is_null):
            return
        if not isinstance(node, MapNode):
            self._wrong(node, key, "a mapping")
            return
        for name, value in node.values.items():
            yield node.keys[name], value

    def named(self, key: str, kind: str, *, identifier: bool = False) -> Iterator[tuple[ScalarNode, Node]]:
        """Like `entries`, for names that are being declared; badly formed ones are refused."""
        for name, value in self.entries(key):
            if check_name(self.report, name, kind, identifier=identifier):
                yield name, value

    def _wrong(self, node: Node, key: str, expected: str, hint: str = "") -> None:
        self.report.error(
            node.at, Code.WRONG_TYPE, f"expected {expected} for {key!r}, got {describe(node)}", hint
        )


def keys_of(node: Node | None) -> tuple[str, ...]:
    """The keys of a mapping, in the order written; none for anything else."""
    return tuple(node.keys) if isinstance(node, MapNode) else ()


def write_duration(duration_us: int) -> str:
    """The shortest way to write a duration of whole seconds."""
    for unit, size in sorted(_UNITS.items(), key=lambda item: -item[1]):
        if duration_us % size == 0:
            return f"{duration_us // size}{unit}"
    return f"{duration_us} µs"


def check_name(report: Report, name: ScalarNode, kind: str, *, identifier: bool = False) -> bool:
    """Whether a name may be declared; an `identifier` is one that expressions mention."""
    if identifier and is_identifier(name.text):
        return True
    if not identifier and _NAME.fullmatch(name.text) and len(name.text) <= MAX_NAME:
        return True
    allowed = "small letters, digits and _" if identifier else "small letters, digits, _ and -"
    reserved = " (it is a word of the expression language)" if name.text in RESERVED else ""
    report.error(
        name.at,
        Code.BAD_NAME,
        f"{clip(name.text)!r} cannot be the name of {article(kind)}{reserved}",
        f"use at most {MAX_NAME} {allowed}, beginning with a letter",
    )
    return False
