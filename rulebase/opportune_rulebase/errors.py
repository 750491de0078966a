"""What can be wrong with a rulebase, said once, with its place.

RulebaseError          a rulebase did not load; carries every `Problem`, sorted by place
ExpressionError        one expression did not compile; becomes Problems of the file it stands in
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a rulebase file. `line` and `column` count from 1; 0 means "the file as a whole"."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong, at one place.

    `code` is stable and documented (`unknown-name`, `duplicate-key`, ...). `message` says what is
    wrong, `hint` what to do next ("did you mean ..."), `snippet` is the line at fault.
    """

    position: Position
    code: str
    message: str
    hint: str = ""
    snippet: str = ""
    severity: Severity = Severity.ERROR


class RulebaseError(Exception):
    """A rulebase is refused. `problems` holds every error (and warning) found, sorted by place."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        errors = [p for p in problems if p.severity is Severity.ERROR]
        first = f": {errors[0].position}: {errors[0].message}" if errors else ""
        super().__init__(f"{len(errors)} error(s) in the rulebase{first}")


class ExpressionError(Exception):
    """An expression does not compile. `faults` are (line, column, message) within its own text, from 1."""

    def __init__(self, text: str, faults: tuple[tuple[int, int, str], ...]) -> None:
        self.text = text
        self.faults = faults
        super().__init__("; ".join(message for _, _, message in faults))
