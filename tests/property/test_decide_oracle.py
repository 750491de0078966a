"""Deciding equals its naive oracle, over random rulebases and lives; and nothing is ever exceeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase.policies import Fate
from opportune_service.core import channels, decide
from opportune_service.core.verdict import Reason
from support.deciding import Life


@settings(deadline=None, max_examples=300)  # the oracle looks at every quarter of an hour of days
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_every_answer_is_the_oracles_and_nothing_is_exceeded(seed: int, steps: int) -> None:
    life = Life(seed)
    life.live(steps)
    assert life.violations() == []


def test_the_lives_see_every_reason_and_fate() -> None:
    """Otherwise the test above would show less than it says."""
    seen: Counter[tuple[Reason, Fate | None]] = Counter()
    for seed in range(150):
        life = Life(seed)
        life.live(50)
        seen.update((decision.reason, decision.fate) for decision in life.decisions)
    assert {reason for reason, _ in seen} == set(Reason)
    stops = (Reason.QUIET_HOURS, Reason.CAPPED, Reason.QUOTA, Reason.CAPACITY)
    assert {(reason, fate) for reason in stops for fate in Fate} <= set(seen)


@pytest.mark.parametrize(
    ("module", "check", "off", "exceeded"),
    [
        (channels, "cap_rulings", lambda *_: (), ("cap0", "cap1", "cap2")),
        (channels, "quiet_refusal", lambda *_: None, ("quiet hours",)),
        (channels, "quota_rulings", lambda *_: (), ("per_day",)),
        (channels, "quota_rulings", lambda *_: (), ("total",)),
        (channels, "quota_rulings", lambda *_: (), ("budget",)),
        (channels, "quota_rulings", lambda *_: (), ("capacity",)),
        (decide, "control_group", lambda *_: "", ("control group",)),
    ],
)
def test_control_without_a_check_it_is_exceeded(
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    check: str,
    off: Callable[..., Any],
    exceeded: tuple[str, ...],
) -> None:
    monkeypatch.setattr(module, check, off)
    found: list[str] = []
    for seed in range(40):
        life = Life(seed, compared=False)
        life.live(50)
        found += life.violations()
    assert any(violation.endswith(exceeded) for violation in found)


def test_control_a_policy_that_is_forgotten_is_seen_by_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "story_refusal", lambda *_: None)  # what was decided a moment ago
    lives = [Life(seed) for seed in range(150)]
    with pytest.raises(AssertionError):
        [life.live(50) for life in lives]
