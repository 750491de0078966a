"""Try the cases of a rulebase through the same core that serves: observe, then decide. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import AbsencePattern, ChangePattern, DwellPattern, Rulebase
from opportune_rulebase.policies import Fate

from opportune_service.app.case_run import run_case
from opportune_service.app.coverage import Seen, Watcher
from opportune_service.app.read_cases import Case, Expected
from opportune_service.core.verdict import Decision, Reason


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case. `failures` says in words what is not as expected; empty: it passed. `seen` is
    what it exercised, for `coverage`."""

    case: Case
    decisions: Sequence[Decision]
    failures: Sequence[str]
    seen: Seen


def try_case(
    rulebase: Rulebase, engine: Engine, case: Case, stopped: Callable[[], bool] = lambda: False
) -> CaseResult:
    """Publish the case's events, let its time pass, decide each moment at its own time, and compare.

    What is known before the first event is in `run_case`. A decision that is not listed under `expect` is a
    failure; other reasons need not be listed. `stopped` as for `run_case`.
    """
    watcher = Watcher(rulebase, engine)
    decisions = run_case(rulebase, watcher, case, stopped)
    watcher.seen.decided = {each.campaign for each in decisions if each.reason is Reason.DECIDED}
    remaining = list(decisions)
    missing = []
    for expected in case.expect:
        jitter_us = rulebase.policies.jitter_us
        found = next((decision for decision in remaining if _meets(decision, expected, jitter_us)), None)
        if found is None:
            missing.append(expected)
        else:
            remaining.remove(found)
    failures = _why_missing(rulebase, engine, case, missing, decisions, stopped) if missing else []
    # What an expectation named but wanted otherwise is one failure, not two.
    named = {expected.campaign for expected in missing}
    failures += [
        f"{decision.campaign} was decided on {decision.channel}, but is not listed under expect"
        for decision in remaining
        if decision.reason is Reason.DECIDED and decision.campaign not in named
    ]
    return CaseResult(case, decisions, failures, watcher.seen)


def _meets(decision: Decision, expected: Expected, jitter_us: int) -> bool:
    return (
        decision.campaign == expected.campaign
        and decision.reason is expected.reason
        and (expected.mode is None or decision.mode is expected.mode)
        and (expected.channel is None or decision.channel == expected.channel)
        and (expected.content is None or expected.content in decision.content)
        and (expected.fate is None or decision.fate is expected.fate)
        and (expected.due_us is None or 0 <= decision.due_us - expected.due_us <= jitter_us)
    )


def _why_missing(
    rulebase: Rulebase,
    engine: Engine,
    case: Case,
    missing: Sequence[Expected],
    decisions: Sequence[Decision],
    stopped: Callable[[], bool],
) -> list[str]:
    """Why expectations are not met, with what happened instead."""
    watcher = Watcher(rulebase, engine, asked={expected.campaign for expected in missing})
    run_case(rulebase, watcher, case, stopped)
    return [_why(rulebase, case, expected, decisions, watcher.values) for expected in missing]


def _why(
    rulebase: Rulebase,
    case: Case,
    expected: Expected,
    decisions: Sequence[Decision],
    values: Mapping[str, Mapping[str, object]],
) -> str:
    zone = rulebase.time_zone
    wanted = f"{expected.campaign} should be {_words(expected, zone)}"
    found = [decision for decision in decisions if decision.campaign == expected.campaign]
    if found:
        return f"{wanted}, but it is {', then '.join(_what_happened(each, zone) for each in found)}"
    if expected.campaign not in values:
        on = rulebase.campaigns[expected.campaign].on
        hint = (
            "; 'until: 25h' lets time pass" if case.until_us is None and _needs_time(rulebase, on) else ""
        )
        return f"{wanted}, but nothing in the case triggers it: it is on {', '.join(on)}{hint}"
    held = ", ".join(f"{name} is {_value(value)}" for name, value in values[expected.campaign].items())
    return f"{wanted}, but its 'when' does not hold: {held}"


def _needs_time(rulebase: Rulebase, on: Sequence[str]) -> bool:
    """Whether one of these comes of a timer."""
    timed = (AbsencePattern, DwellPattern, ChangePattern)
    return any(name in rulebase.triggers or isinstance(rulebase.patterns.get(name), timed) for name in on)


def _words(expected: Expected, zone: tzinfo) -> str:
    parts = [expected.mode or "", expected.reason]
    if expected.channel:
        parts.append(f"on {expected.channel}")
    if expected.content:
        parts.append(f"saying {expected.content!r}")
    if expected.fate:
        parts.append(f"with the fate {expected.fate}")
    if expected.due_us is not None:
        parts.append(f"until {_instant(expected.due_us, zone)}")
    return " ".join(part for part in parts if part)


def _what_happened(decision: Decision, zone: tzinfo) -> str:
    if decision.reason is Reason.DECIDED:
        return f"{decision.mode} decided on {decision.channel}, saying {decision.content!r}"
    failed = [check for check in decision.checks if not check.passed]
    said = f"{decision.reason} ({failed[-1].policy}: {failed[-1].detail})" if failed else decision.reason
    if decision.fate is Fate.DEFER:
        return f"{said}, deferred until {_instant(decision.due_us, zone)}"
    return f"{said}, and the next may take its place" if decision.fate is Fate.NEXT else said


def _instant(at_us: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, zone).isoformat()


def _value(value: object) -> str:
    if value is None:
        return "unknown"
    return str(value).lower() if isinstance(value, bool) else str(value)
