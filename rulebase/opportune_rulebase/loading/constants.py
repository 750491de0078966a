"""Constants that CEL refuses whatever the event: a bad pattern, zone, duration, instant or number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from opportune_rulebase.checked import last_operands
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression, Scope, Unknown
from opportune_rulebase.nodes import Constant
from opportune_rulebase.unparse import unparse

MAX_TRIED: Final = 20_000
"""Characters of constants that are tried, with 20 more for each: a pattern made to cost much takes 2 ms for
a hundred characters. People's rulebases stay far below. What is beyond is not looked at."""

MAX_PATTERN: Final = 200
"""Characters of a pattern. CEL compiles it at every evaluation: one of 2,400 that is made to cost much took
184 ms, one of 200 takes 15."""

_GETTERS: Final = (
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
)
# Function, and how many operands it has -> an expression of the last one alone that fails as the call does.
_TRIALS: Final = {
    **{(name, 1): f"{name}({{}})" for name in ("timestamp", "duration", "int", "uint", "double", "bool")},
    **{(name, 2): f"timestamp(0).{name}({{}})" for name in _GETTERS},
    ("matches", 2): "''.matches({})",
    ("_/_", 2): "{0} / {0}",
    ("_%_", 2): "{0} % {0}",
}
_MENTIONED: Final = re.compile(
    r"[/%]|\b(?:" + "|".join(name for name, _ in _TRIALS if name.isidentifier()) + ")\\b"
)
_ZONE: Final = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+)*|[+-]?\d\d:\d\d", re.ASCII)
_STATUS: Final = re.compile(r"^[A-Z_]+: ")
_HINTS: Final = {
    "matches": "patterns are those of RE2",
    "duration": "write hours, minutes and seconds: duration('24h'), duration('1h30m')",
    "timestamp": "write it with its offset: timestamp('2026-11-20T20:00:00+08:00')",
    **dict.fromkeys(_GETTERS, "write 'zone', or a name such as 'Asia/Shanghai'"),
}


class Constants:
    """Tries the constants of the expressions of one rulebase, each once."""

    def __init__(self) -> None:
        self._scope = Scope({})
        self._tried: dict[str, str] = {}
        self._length = 0

    def refused(self, expression: Expression) -> Iterator[tuple[int, str, str]]:
        """(Offset in the text, what is wrong, what to write) of each constant that makes every evaluation
        unknown, wherever in the expression it stands."""
        if not _MENTIONED.search(expression.text):
            return
        for function, count, last, at in last_operands(expression.program.serialized):
            hint = _HINTS.get(function, "")
            if count == 2 and function in _GETTERS and not _is_zone(last):
                yield at, "a time zone is a name, or 'zone'", hint
            elif function == "matches" and _length(last) > MAX_PATTERN:
                yield at, f"a pattern may have {MAX_PATTERN} characters", "use several, or a list with 'in'"
            elif (
                isinstance(last, Constant)
                and (function, count) in _TRIALS
                and not _harmless(function, last)
            ):
                text = unparse(last)
                fault = text and self._fault(_TRIALS[function, count].format(text))
                if fault:
                    yield at, f"this is unknown at every event: {fault}", hint

    def _fault(self, trial: str) -> str:
        """What CEL says of an expression without variables; empty if it has a value."""
        if trial not in self._tried:
            self._length += len(trial) + 20
            if self._length > MAX_TRIED:
                return ""
            value = self._scope.compile(trial, Position("constant", 1, 1)).evaluate({})
            self._tried[trial] = _STATUS.sub("", value.reason) if isinstance(value, Unknown) else ""
        return self._tried[trial]


def _length(value: Constant | str) -> int:
    return len(value.value) if isinstance(value, Constant) and isinstance(value.value, str) else 0


def _is_zone(value: Constant | str) -> bool:
    """Whether it may be given to CEL as a time zone: CEL opens any file whose path it is given for one."""
    if isinstance(value, Constant):
        return isinstance(value.value, str) and _ZONE.fullmatch(value.value) is not None
    return value == "zone"


def _harmless(function: str, constant: Constant) -> bool:
    """What need not be tried: dividing by what is not 0, or not by a whole number."""
    return function in ("_/_", "_%_") and (constant.type not in ("int", "uint") or constant.value != 0)


__all__ = ["MAX_PATTERN", "MAX_TRIED", "Constants"]
