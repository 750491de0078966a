"""Problems while a rulebase loads: the closed list of codes, and the report that gathers them all.

Loading goes on after an error, so that one run reports everything. `docs/reference/problems.md`
explains each code to the people who write rulebases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from enum import StrEnum

from opportune_rulebase.errors import Position, Problem, Severity

MAX_PROBLEMS = 1_000
"""More than this helps nobody, and a hostile file must not fill the memory with complaints."""

_MAX_SUGGESTIONS = 200  # each compares a name with every known one
_MAX_SUGGESTED_LENGTH = 80
_MAX_SNIPPET = 400


class Code(StrEnum):
    """What can be wrong. Stable: tools may match on it."""

    # files and archives
    BAD_PATH = "bad-path"
    BAD_ARCHIVE = "bad-archive"
    TOO_LARGE = "too-large"
    TOO_MANY = "too-many"
    MISSING_FILE = "missing-file"
    UNKNOWN_FILE = "unknown-file"
    NOT_UTF8 = "not-utf8"
    # YAML
    BAD_YAML = "bad-yaml"
    TOO_DEEP = "too-deep"
    ALIAS = "alias"
    TAG = "tag"
    DUPLICATE_KEY = "duplicate-key"
    # keys and values
    UNKNOWN_KEY = "unknown-key"
    NOT_YET_SUPPORTED = "not-yet-supported"
    MISSING_KEY = "missing-key"
    CONFLICTING_KEYS = "conflicting-keys"
    WRONG_TYPE = "wrong-type"
    BAD_VALUE = "bad-value"
    BAD_NAME = "bad-name"
    RESERVED_NAME = "reserved-name"
    # names that meet
    UNKNOWN_NAME = "unknown-name"
    DUPLICATE_NAME = "duplicate-name"
    DUPLICATE_DEFINITION = "duplicate-definition"
    TYPE_CONFLICT = "type-conflict"
    MODE_CONFLICT = "mode-conflict"
    CIRCLE = "circle"
    MATRIX_CONFLICT = "matrix-conflict"
    EMPTY_VALIDITY = "empty-validity"
    SLOW_SOURCE = "slow-source"
    # expressions and content
    BAD_EXPRESSION = "bad-expression"
    NOT_ALLOWED_HERE = "not-allowed-here"
    ATTRIBUTE_NOT_ON_EVENT = "attribute-not-on-event"
    BAD_TEMPLATE = "bad-template"
    # tables
    BAD_TABLE = "bad-table"
    # warnings
    UNUSED = "unused"
    NEVER_TRUE = "never-true"
    OUTRANKED = "outranked"
    NO_SOURCE = "no-source"
    SUPPRESSES_AT_FIRST = "suppresses-at-first"
    UNKNOWN_AT_FIRST = "unknown-at-first"
    ALWAYS_QUIET = "always-quiet"
    NEVER_SENT = "never-sent"
    DEFERRED_IN_VAIN = "deferred-in-vain"
    NO_EFFECT = "no-effect"
    NOT_MEASURED = "not-measured"
    CALENDAR_ENDS = "calendar-ends"
    # the report itself
    TOO_MANY_PROBLEMS = "too-many-problems"


class Report:
    """Gathers problems. Made for one load; not shared."""

    def __init__(self) -> None:
        self._problems: set[Problem] = set()
        self._full: set[Severity] = set()
        self._suggestions = 0

    def error(self, at: Position, code: Code, message: str, hint: str = "") -> None:
        self.add(Problem(at, code, message, hint))

    def warning(self, at: Position, code: Code, message: str, hint: str = "") -> None:
        self.add(Problem(at, code, message, hint, severity=Severity.WARNING))

    def unknown(self, at: Position, kind: str, name: str, known: Collection[str]) -> None:
        """Report a name that is not among `known`, with the nearest one or the whole short list."""
        self.error(at, Code.UNKNOWN_NAME, f"unknown {kind} {clip(name)!r}", self.suggest(name, known))

    def suggest(self, name: str, known: Collection[str]) -> str:
        """A hint for a name that is not among `known`."""
        if not known:
            return "none is declared"
        self._suggestions += 1
        if self._suggestions <= _MAX_SUGGESTIONS and len(name) <= _MAX_SUGGESTED_LENGTH:
            near = get_close_matches(name, sorted(map(str, known)), n=1)
            if near:
                return f"did you mean {near[0]!r}?"
        return f"known: {', '.join(sorted(known))}" if len(known) <= 20 else ""

    @property
    def count(self) -> int:
        """How many problems there are so far: tells whether something was read without any."""
        return len(self._problems)

    @property
    def failed(self) -> bool:
        """Whether any error (not merely a warning) was reported."""
        return any(problem.severity is Severity.ERROR for problem in self._problems)

    def problems(self, lines: Mapping[str, list[str]]) -> tuple[Problem, ...]:
        """Everything reported, each once, sorted by place, with the line at fault from `lines`."""
        return tuple(_with_snippet(problem, lines) for problem in sorted(self._problems))

    def add(self, problem: Problem) -> None:
        """Report a problem that is made already."""
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.add(problem)
        elif problem.severity not in self._full:
            self._full.add(problem.severity)
            self._problems.add(
                Problem(
                    Position(""),
                    Code.TOO_MANY_PROBLEMS,
                    f"more than {MAX_PROBLEMS} problems; the rest is not listed",
                    "mend these first",
                    # Warnings alone never refuse a rulebase, however many they are.
                    severity=problem.severity,
                )
            )


def article(kind: str) -> str:
    """A kind of thing with its indefinite article."""
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def clip(text: str, length: int = 60) -> str:
    """`text`, short enough for a message."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _with_snippet(problem: Problem, lines: Mapping[str, list[str]]) -> Problem:
    at = problem.position
    text = lines.get(at.file, [])
    if not 0 < at.line <= len(text):
        return problem
    snippet = text[at.line - 1][:_MAX_SNIPPET]
    return Problem(at, problem.code, problem.message, problem.hint, snippet, problem.severity)
