"""What all commands share of the terminal: where text goes, exit codes, and errors as one clear line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console, ConsoleOptions
from rich.segment import Segment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PIPE_WIDTH = 150
"""Columns of tables where no terminal says how many there are."""

_DIGITS = re.compile(r"\d{7,}")
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that turn the direction of writing."""


class ExitCode(IntEnum):
    """What a command answers to the shell."""

    OK = 0
    NO = 1
    """The answer is no: errors were found, a test failed, what was asked for does not exist."""
    USAGE = 2
    """The command line is wrong."""
    UNAVAILABLE = 3
    """The service or its ledger cannot be reached; the same command may work later."""
    SHORT = 4
    """It is so, but less than was asked for: warnings under --strict, coverage under --min-coverage."""
    UNREADABLE = 5
    """What was named cannot be read: no rulebase is there, no permission, a damaged archive."""


class _SafeConsole(Console):
    """What others have written, such as comments and texts of messages, cannot steer this terminal or
    change what its reader sees: characters that would are shown as U+FFFD."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not _STEERING.search(segment.text):
                yield segment
            else:
                yield Segment(_STEERING.sub("\N{REPLACEMENT CHARACTER}", segment.text), segment.style)


def out() -> Console:
    """Where answers go. Made anew each time: tests and pipes change what standard output is."""
    return _SafeConsole(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def err() -> Console:
    """Where messages go that are no part of the answer."""
    return _SafeConsole(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """One JSON document on a line of its own."""
    typer.echo(msgspec.json.encode(value).decode())


def stop(code: ExitCode, message: str) -> NoReturn:
    """End the command with one line that says what to do."""
    err().print(message, style="red", markup=False)
    raise typer.Exit(code)


def instant_text(at_us: int) -> str:
    """An instant for programs: RFC 3339 in UTC."""
    instant = _EPOCH + timedelta(microseconds=at_us)
    return instant.isoformat(timespec="microseconds" if at_us % 1_000_000 else "seconds").replace(
        "+00:00", "Z"
    )


def mask_number(number: str) -> str:
    """A subscriber's number as screens show it: enough to tell two apart, not enough to call."""
    return f"{number[:-8]}****{number[-4:]}" if len(number) > 8 else f"****{number[-2:]}"


def mask_numbers(text: str) -> str:
    """Text with each long run of digits masked."""
    return _DIGITS.sub(lambda match: mask_number(match[0]), text)
