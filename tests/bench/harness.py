"""What a benchmark module gives to `run.py`: rows for the JSON file, and a table for people."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

__all__ = ["Row", "console"]

console = Console()


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` says how many times better than the row named `against` it is.

    `value` and `ratio` are None where the answers were wrong: only right answers count.
    """

    name: str
    value: float | None
    unit: str
    against: str | None = None
    ratio: float | None = None
