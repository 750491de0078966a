"""Run the tests that a rulebase carries, for somebody who asked for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from opportune_rulebase import load
from opportune_rulebase.errors import Problem, RulebaseError
from opportune_rulebase.model import Rulebase

from opportune_service.app.case_run import StoppedError
from opportune_service.app.coverage import Seen
from opportune_service.app.read_cases import read_cases
from opportune_service.app.try_cases import CaseResult, try_case
from opportune_service.core.revision import EngineFactory


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """How the tests went. `counts`: campaigns and definitions by name -> (in how many cases each held, in
    how many it did not). `problems`: what kept tests from running at all."""

    results: tuple[CaseResult, ...] = ()
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every case that ran passed, and at least one did run."""
        return bool(self.results) and not any(each.failures for each in self.results)


def run_tests(
    files: Mapping[str, bytes], make_engine: EngineFactory, only: str, stopped: Callable[[], bool]
) -> SuiteReport:
    """Try the cases whose file or name contains `only`, in order of file and place. Before each moment
    `stopped` is asked whether nobody waits for the report any more; it ends with the case before then."""
    try:
        rulebase = load(files)
        cases = read_cases(rulebase, files)
    except RulebaseError as error:
        return SuiteReport(problems=error.problems)
    engine = make_engine(rulebase)
    try:
        results = []
        for case in cases:
            if stopped():
                break
            if only in case.position.file or only in case.name:
                results.append(try_case(rulebase, engine, case, stopped))
    except StoppedError:
        pass
    finally:
        engine.close()
    return SuiteReport(tuple(results), _counts(rulebase, [each.seen for each in results]))


def _counts(rulebase: Rulebase, seen: Sequence[Seen]) -> dict[str, tuple[int, int]]:
    """In how many cases each campaign and definition held, and in how many it came up and did not hold. In
    one case it may do both, at two moments."""
    found: dict[str, tuple[int, int]] = {}
    for campaign in rulebase.campaigns.values():
        held = sum(campaign.name in each.matched for each in seen)
        came_up = sum(not each.types.isdisjoint(campaign.on) for each in seen)
        found[campaign.name] = (held, max(came_up - held, 0))
    for name in (*rulebase.definitions, *rulebase.imported):
        found[name] = (sum(name in each.held for each in seen), sum(name in each.not_held for each in seen))
    return dict(sorted(found.items()))
