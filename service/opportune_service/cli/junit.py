"""Results in the form that build servers read: JUnit XML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True, slots=True)
class Entry:
    """One test of a report. `failure` is empty if it passed; `note` is what else there is to say."""

    suite: str
    name: str
    failure: str = ""
    note: str = ""


def junit(name: str, entries: Iterable[Entry]) -> str:
    """The report as an XML document, with a suite for each file. Texts may hold anything."""
    suites: dict[str, list[Entry]] = {}
    for entry in entries:
        suites.setdefault(entry.suite, []).append(entry)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<testsuites name={_quoted(name)}{_counts([e for each in suites.values() for e in each])}>",
    ]
    for suite, within in suites.items():
        lines.append(f"  <testsuite name={_quoted(suite)}{_counts(within)}>")
        for entry in within:
            lines.append(f"    <testcase classname={_quoted(suite)} name={_quoted(entry.name)}>")
            if entry.failure:
                first = entry.failure.splitlines()[0]
                lines.append(f"      <failure message={_quoted(first)}>{_text(entry.failure)}</failure>")
            if entry.note:
                lines.append(f"      <system-out>{_text(entry.note)}</system-out>")
            lines.append("    </testcase>")
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _counts(entries: list[Entry]) -> str:
    return f' tests="{len(entries)}" failures="{sum(bool(entry.failure) for entry in entries)}" errors="0"'


def _quoted(text: str) -> str:
    return quoteattr(_holdable(text))


def _text(text: str) -> str:
    return escape(_holdable(text))


def _holdable(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
