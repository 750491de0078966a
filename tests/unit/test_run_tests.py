"""Running the tests of a rulebase for somebody who asked for it."""

from __future__ import annotations

from itertools import count

from opportune_rulebase.network import NetworkEngine
from opportune_service.app.run_tests import SuiteReport, run_tests
from support.small_rulebase import small_rulebase

CASE = """\
  - name: sender number {number}
    subscriber: {{id: "8613800000001"}}
    given: {{metric.mms_30d: {sent}}}
    events: [{{type: mms_sent, size_kb: 80}}]
    expect: {expect}
"""


def suite(*cases: tuple[int, bool]) -> dict[str, bytes]:
    """Of each case: how many MMS were sent before, and whether the bundle is expected to be offered."""
    said = "".join(
        CASE.format(number=number, sent=sent, expect="[{campaign: mms-bundle}]" if is_offered else "[]")
        for number, (sent, is_offered) in enumerate(cases)
    )
    text = f"now: 2026-11-20T12:00:00+08:00\ncases:\n{said}"
    return small_rulebase() | {"tests/sending_test.yaml": text.encode()}


def run(files: dict[str, bytes], only: str = "", most: int | None = None) -> SuiteReport:
    asked = count()
    return run_tests(files, NetworkEngine, only, lambda: most is not None and next(asked) >= most)


def test_a_suite_has_passed_if_every_case_has_and_there_was_one() -> None:
    assert run(suite((9, True), (0, False))).passed
    assert not run(suite((9, True), (0, True))).passed
    none = run(small_rulebase())
    assert (none.passed, none.results, none.problems) == (False, (), ())


def test_what_held_is_counted_by_cases() -> None:
    report = run(suite((9, True), (0, False), (5, True), (1, False), (1, False)))
    assert report.counts == {
        "behaviour.often_sends_mms": (2, 3),
        "care-plan": (0, 0),
        "mms-bundle": (2, 3),
    }


def test_only_some_of_them() -> None:
    files = suite((9, True), (0, True), (5, True))
    assert [each.case.name for each in run(files, "number 1").results] == ["sender number 1"]
    assert len(run(files, "sending_test").results) == 3
    nothing = run(files, "there is none")
    assert (nothing.passed, nothing.results) == (False, ())


def test_whoever_goes_away_ends_it_between_two_cases() -> None:
    files = suite(*[(9, True)] * 5)
    found = [len(run(files, most=number).results) for number in range(20)]
    assert found == sorted(found)
    assert set(found) == set(range(6))


def test_whoever_goes_away_ends_it_within_a_long_case() -> None:
    events = "".join(f"\n      - {{type: mms_sent, size_kb: 80, at: {second}s}}" for second in range(100))
    files = suite((9, True))
    path = "tests/sending_test.yaml"
    files[path] = files[path].partition(b"[{type")[0] + f"{events}\n    expect: []\n".encode()
    asked = count()
    stopped = run_tests(files, NetworkEngine, "", lambda: next(asked) >= 10)
    assert stopped.results == ()
    assert next(asked) <= 12, "it went on for all its events"
    assert len(run(files).results) == 1


def test_what_keeps_them_from_running() -> None:
    broken = suite((9, True)) | {"tests/other_test.yaml": b"cases: [{name: 3}]\n"}
    report = run(broken)
    assert not report.passed
    assert {each.position.file for each in report.problems} == {"tests/other_test.yaml"}
    assert run(small_rulebase() | {"old.yaml": b"x: 1\n"}).problems
