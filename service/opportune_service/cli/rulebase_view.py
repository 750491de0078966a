"""Revisions of the service as the contract tells them, made ready for screens and programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opportune_client import ActivationMode, RulebaseEvent, RulebaseState, from_timestamp
from opportune_rulebase.diff import Change, ChangeKind, KeyChange
from opportune_rulebase.errors import Position, Problem, Severity
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opportune_service.cli.decisions import instant_of
from opportune_service.cli.problems import problem_record, show_problems

_SHORT = 12
_CHANGES = (ChangeKind.CHANGED, ChangeKind.ADDED, ChangeKind.REMOVED, ChangeKind.CHANGED)


def short(revision: str) -> str:
    """Enough of a revision to tell it from others."""
    return revision[:_SHORT]


def state_word(number: int) -> str:
    """`draft`, `checked` ..."""
    return RulebaseState(number).name.lower() if number in RulebaseState._value2member_map_ else str(number)


def event_word(number: int) -> str:
    """`snapshot`, `activated` ..."""
    return RulebaseEvent(number).name.lower() if number in RulebaseEvent._value2member_map_ else str(number)


def mode_word(number: int) -> str:
    """`full`, `canary`, `shadow`."""
    known = number in ActivationMode._value2member_map_
    return ActivationMode(number).name.lower() if known else str(number)


def full_revision(activations: Iterable[Any]) -> str:
    """The revision in full force; empty if there is none."""
    return next((each.revision for each in activations if each.mode == ActivationMode.FULL), "")


def problem_of(message: Any) -> Problem:
    """A `Problem` of the contract as the one that is found here."""
    return Problem(
        Position(message.file, message.line, message.column),
        message.code,
        message.message,
        message.hint,
        message.snippet,
        Severity.WARNING if message.severity == _WARNING else Severity.ERROR,
    )


_WARNING = 2


def change_of(message: Any) -> Change:
    """A `RulebaseChange` of the contract as the one that is found here."""
    return Change(
        _CHANGES[message.kind] if message.kind < len(_CHANGES) else ChangeKind.CHANGED,
        message.element,
        message.name,
        message.label,
        message.summary,
        tuple(KeyChange(each.key, each.before, each.after) for each in message.keys),
        tuple(message.affected_campaigns),
    )


# For programs


def rulebase_record(rulebase: Any) -> dict[str, object]:
    """A `Rulebase` as lists have it."""
    return {
        "revision": rulebase.revision,
        "name": rulebase.name,
        "state": state_word(rulebase.state),
        "author": rulebase.author,
        "uploaded_at": instant_of(rulebase, "uploaded_at"),
        "comment": rulebase.comment,
        "approver": rulebase.approver,
        "approved_at": instant_of(rulebase, "approved_at"),
    }


def whole_record(answer: Any) -> dict[str, object]:
    """Everything that is known of a revision, and what is in force."""
    rulebase = answer.rulebase
    return rulebase_record(rulebase) | {
        "label": rulebase.label,
        "campaigns": [campaign_record(each) for each in rulebase.campaigns],
        "metrics": rulebase.metric_count,
        "definitions": rulebase.definition_count,
        "warnings": [problem_record(problem_of(each)) for each in rulebase.warnings],
        "history": [
            {
                "at": instant_of(entry, "occurred_at"),
                "by": entry.actor,
                "action": entry.action,
                "mode": mode_word(entry.mode) if entry.mode else None,
                "share": entry.canary_share or None,
                "comment": entry.comment,
            }
            for entry in answer.history
        ],
        "in_force": [activation_record(each) for each in answer.activations],
        "last_attempt": attempt_record(answer.last_attempt) if answer.HasField("last_attempt") else None,
    }


def campaign_record(status: Any) -> dict[str, object]:
    """A `CampaignStatus`."""
    return {
        "campaign": status.campaign,
        "label": status.label,
        "paused": status.paused,
        "by": status.paused_by,
        "reason": status.pause_reason,
        "at": instant_of(status, "paused_at"),
    }


def activation_record(activation: Any) -> dict[str, object]:
    """An `Activation`; the share of a canary is between 0 and 1."""
    return {
        "revision": activation.revision,
        "mode": mode_word(activation.mode),
        "share": activation.canary_share or None,
        "at": instant_of(activation, "activated_at"),
        "by": activation.actor,
        "comment": activation.comment,
    }


def attempt_record(attempt: Any) -> dict[str, object]:
    """An `ActivationAttempt`."""
    return {
        "revision": attempt.revision,
        "at": instant_of(attempt, "attempted_at"),
        "succeeded": attempt.succeeded,
        "message": attempt.message,
        "problems": [problem_record(problem_of(each)) for each in attempt.problems],
    }


def event_record(event: Any) -> dict[str, object]:
    """A message to a watcher."""
    return {
        "event": event_word(event.kind),
        "campaign": event.campaign,
        "in_force": [activation_record(each) for each in event.activations],
        "paused": [campaign_record(each) for each in event.paused_campaigns],
        "attempt": attempt_record(event.attempt) if event.HasField("attempt") else None,
    }


# For screens


def how(activation: Any) -> str:
    """Of an `Activation`, or a `HistoryEntry` of one: `full`, `canary for 10 %`, `shadow`."""
    word = mode_word(activation.mode)
    return f"{word} for {100 * activation.canary_share:g} %" if activation.canary_share else word


def show_rulebases(console: Console, rulebases: Sequence[Any]) -> None:
    """A line for each."""
    table = Table("revision", "state", "uploaded", "by", "approved by", "comment", box=None, pad_edge=False)
    for each in rulebases:
        cells = (
            short(each.revision),
            state_word(each.state),
            local_minute(each, "uploaded_at"),
            each.author,
            each.approver,
            each.comment,
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def show_whole(console: Console, answer: Any) -> None:
    """One revision: what it is, what is paused of it, what was done with it, and what is in force."""
    rulebase = answer.rulebase
    title = f"{rulebase.name} {short(rulebase.revision)}: {state_word(rulebase.state)}"
    console.print(Text(title, style="bold"))
    counts = (len(rulebase.campaigns), rulebase.definition_count, rulebase.metric_count)
    console.print("  {} campaigns, {} definitions, {} metrics".format(*counts))
    for status in rulebase.campaigns:
        if status.paused:
            line = f"  paused: {status.campaign}, by {status.paused_by}: {status.pause_reason}"
            console.print(Text(line, style="yellow"))
    if rulebase.warnings:
        console.print(Text(f"  {len(rulebase.warnings)} warnings; with --json all of them", style="yellow"))
    if answer.history:
        console.print(_history(answer.history))
    show_in_force(console, answer.activations)
    if answer.HasField("last_attempt") and not answer.last_attempt.succeeded:
        console.print(Text(_failure(answer.last_attempt), style="red"))


def _history(entries: Iterable[Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for entry in entries:
        action = f"{entry.action}, {how(entry)}" if entry.mode else entry.action
        cells = (local_minute(entry, "occurred_at"), action, entry.actor, entry.comment)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def show_in_force(console: Console, activations: Iterable[Any]) -> None:
    """What decides now, a line for each."""
    lines = [
        f"in force: {short(each.revision)}, {how(each)}, since {local_minute(each, 'activated_at')}"
        + (f", by {each.actor}" if each.actor else "")
        + (f": {each.comment}" if each.comment else "")
        for each in activations
    ]
    for line in lines or ["in force: nothing"]:
        console.print(Text(line))


def _failure(attempt: Any) -> str:
    return (
        f"the last attempt to activate, of {short(attempt.revision) or 'a rulebase'} at "
        f"{local_minute(attempt, 'attempted_at')}, failed: {attempt.message}"
    )


def event_text(event: Any) -> Text:
    """A message to a watcher on one line."""
    running = ", ".join(f"{short(each.revision)} ({how(each)})" for each in event.activations)
    paused = ", ".join(each.campaign for each in event.paused_campaigns)
    state = f"in force: {running or 'nothing'}" + (f"; paused: {paused}" if paused else "")
    about = event.campaign or (short(event.attempt.revision) if event.HasField("attempt") else "")
    if event.kind == RulebaseEvent.SNAPSHOT:
        return Text(state)
    failed = event.kind == RulebaseEvent.ACTIVATION_FAILED
    happened = f"{event_word(event.kind).replace('_', ' ')} {about}".rstrip()
    why = f": {event.attempt.message}" if failed else ""
    return Text.assemble((happened, "bold red" if failed else "bold"), f"{why}; {state}")


def local_minute(message: Any, name: str) -> str:
    """A time of a message in that of this machine; empty if it is not set."""
    if not message.HasField(name):
        return ""
    return f"{from_timestamp(getattr(message, name)).astimezone():%Y-%m-%d %H:%M}"


def tests_record(answer: Any) -> dict[str, object]:
    """A `TestRulebaseResponse` for programs."""
    return {
        "ok": answer.passed,
        "passed": sum(each.passed for each in answer.results),
        "failed": sum(not each.passed for each in answer.results),
        "cases": [
            {
                "file": each.file,
                "line": each.line,
                "name": each.name,
                "passed": each.passed,
                "difference": each.difference,
            }
            for each in answer.results
        ],
        "coverage": {
            each.name: {"held": each.held_count, "not_held": each.not_held_count}
            for each in answer.coverage
        },
        "problems": [problem_record(problem_of(each)) for each in answer.problems],
    }


def show_tests(console: Console, answer: Any) -> None:
    """Each case on a line, what failed below it, then how many pass."""
    show_problems(console, map(problem_of, answer.problems))
    file = ""
    for each in answer.results:
        if each.file != file:
            file = each.file
            console.print(Text(file, style="bold"))
        mark = ("  ok      ", "green") if each.passed else ("  FAILED  ", "bold red")
        console.print(Text.assemble(mark, each.name))
        if not each.passed:
            console.print(Text(f"          {each.file}:{each.line}: {each.difference}", style="red"))
    passed = sum(each.passed for each in answer.results)
    summary = f"{passed} of {len(answer.results)} cases pass"
    console.print(Text(summary, style="bold green" if answer.passed else "bold red"))
