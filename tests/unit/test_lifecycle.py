"""How far steps bring a revision, and what is let through."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.diff import Change, ChangeKind
from opportune_service.app.callers import Caller
from opportune_service.app.errors import ForbiddenError, NotReadyError
from opportune_service.app.lifecycle import (
    RulebaseState,
    check_activation,
    check_approval,
    check_rollback,
    check_scope,
    progress,
)
from opportune_service.app.records import ActivationMode, Step, StepKind

FULL, CANARY, SHADOW = ActivationMode
KINDS = {
    "d": StepKind.DRAFTED,
    "u": StepKind.UPLOADED,
    "t": StepKind.TESTED,
    "r": StepKind.REHEARSED,
    "a": StepKind.APPROVED,
    "F": StepKind.ACTIVATED,
    "C": StepKind.ACTIVATED,
    "S": StepKind.ACTIVATED,
    "B": StepKind.ROLLED_BACK,
}
MODES = {"F": FULL, "C": CANARY, "S": SHADOW, "B": FULL}


def steps(said: str, by: str = "li") -> list[Step]:
    """One for each letter, all by the same one."""
    return [Step("r1", at, by, KINDS[each], "", MODES.get(each)) for at, each in enumerate(said)]


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("", "checked"),
        ("d", "draft"),
        ("u", "checked"),
        ("ur", "checked"),
        ("ut", "tested"),
        ("utr", "rehearsed"),
        ("urt", "rehearsed"),
        ("utu", "checked"),
        ("uta", "approved"),
        ("utra", "approved"),
        ("utau", "approved"),
        ("utaF", "superseded"),
        ("utaC", "superseded"),
        ("uS", "superseded"),
        ("uSt", "superseded"),
        ("uSta", "approved"),
        ("utaFF", "superseded"),
        ("uB", "superseded"),
    ],
)
def test_states(said: str, state: str) -> None:
    assert progress(steps(said)).state(in_force=False) is RulebaseState(state)
    assert progress(steps(said)).state(in_force=True) is RulebaseState.ACTIVE


def test_authors_are_all_who_uploaded_it() -> None:
    so_far = progress([*steps("u", "ann"), *steps("t", "wang"), *steps("u", "li"), *steps("t", "wang")])
    assert so_far.authors == {"ann", "li"}
    for author in ("ann", "li"):
        with pytest.raises(ForbiddenError, match=author):
            check_approval("r1", so_far, author)
    check_approval("r1", so_far, "wang")


@given(st.text(alphabet="utraFCSB", max_size=12), st.sampled_from(ActivationMode), st.booleans())
def test_the_gate_of_activation(said: str, mode: ActivationMode, gated: bool) -> None:
    """Said again in the words of the decision: approved, or in full force before, unless it is a shadow."""
    may = not gated or mode is SHADOW or "a" in said or "F" in said or "B" in said
    try:
        check_activation("r1", progress(steps(said)), mode, gated=gated)
    except NotReadyError:
        assert not may
    else:
        assert may


@given(st.text(alphabet="utraFCSB", max_size=12))
def test_the_gate_of_approval(said: str) -> None:
    """By another, and only if the tests passed after the last upload."""
    may = "t" in said.rpartition("u")[2]
    try:
        check_approval("r1", progress(steps(said)), "wang")
    except NotReadyError:
        assert not may
    else:
        assert may


@given(st.text(alphabet="utraFCSB", max_size=12))
def test_the_gate_of_rollback(said: str) -> None:
    may = "F" in said or "B" in said
    try:
        check_rollback("r1", progress(steps(said)))
    except NotReadyError:
        assert not may
    else:
        assert may


@pytest.mark.parametrize(("mode", "gated"), list(product(ActivationMode, (False, True))))
def test_a_draft_gets_nowhere(mode: ActivationMode, gated: bool) -> None:
    draft = progress(steps("d"))
    with pytest.raises(NotReadyError, match="draft"):
        check_activation("r1", draft, mode, gated=gated)
    with pytest.raises(NotReadyError, match="draft"):
        check_approval("r1", draft, "wang")
    with pytest.raises(NotReadyError):
        check_rollback("r1", draft)


def test_whoever_is_for_all_branches_may_change_all() -> None:
    change = Change(ChangeKind.CHANGED, "policy", "caps", "", "", (), ())
    nothing = object()
    check_scope(Caller("ann"), [change], nothing, nothing)  # type: ignore[arg-type]
    for branches in (frozenset[str](), frozenset({"north"})):
        with pytest.raises(ForbiddenError, match="policy"):
            check_scope(Caller("li", branches=branches), [change], nothing, nothing)  # type: ignore[arg-type]
