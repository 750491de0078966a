"""Contact policies hold whatever happens: whole lives of a service on a real file, with random rulebases,
traffic, channel workers, people, reloads, failing commits and crashes, counted again by a naive oracle over
the rows that the database itself recorded.

The controls switch one safety off at a time, and the same count goes red.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app import clearance
from opportune_service.core import channels, decide
from opportune_service.core.verdict import History, Usage, UsageKey
from support.ledger_oracle import Oracle
from support.policy_life import Life

STEPS = 70


def lived(seed: int, directory: Path) -> Oracle:
    """One life, counted."""
    directory.mkdir(exist_ok=True)
    life = Life(seed, directory)
    asyncio.run(life.live(STEPS))
    oracle = Oracle(life.database, life.specs, life.zones)
    oracle.found += life.faults
    oracle.check()
    return oracle


@pytest.mark.parametrize("seed", range(16))
def test_nothing_that_must_not_be_is_in_the_ledger(seed: int, tmp_path: Path) -> None:
    assert lived(seed, tmp_path).found == []


def test_the_lives_put_policies_to_the_test(tmp_path: Path) -> None:
    """Otherwise the test above would show nothing."""
    seen: Counter[str] = Counter()
    for seed in range(5):
        seen += lived(seed, tmp_path / str(seed)).seen
    assert seen["contacts"] > 100
    assert seen["full caps"] > 20, "as many contacts as a cap allows"
    assert seen["quotas"] > 20
    assert seen["leases"] > 50
    assert seen["control"] > 10
    assert seen["decided again"] > 20
    assert seen["released"] > 20
    assert seen["committed"] > 20
    assert seen["reserved"] > 0, "leases of which nobody ever heard"


def violations(tmp_path: Path, seeds: range) -> Counter[str]:
    """How often each kind of thing was wrong."""
    return Counter(
        what.partition(":")[0] for seed in seeds for what in lived(seed, tmp_path / str(seed)).found
    )


def test_control_with_histories_read_before_another_commit_caps_are_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As two processes would that take turns, where each has read before the other commits."""
    monkeypatch.setattr(SqlTransaction, "histories", read_too_early(SqlTransaction.histories))
    found = violations(tmp_path, range(5))
    assert found["cap"] > 0
    assert found["story"] > 0


def read_too_early(
    read: Callable[[SqlTransaction, Collection[str], int, int], dict[str, History]],
) -> Callable[[SqlTransaction, Collection[str], int, int], dict[str, History]]:
    """Reads what the read before found."""
    before: dict[str, History] = {}

    def early(
        tx: SqlTransaction, subscriber_ids: Collection[str], since_us: int, now_us: int
    ) -> dict[str, History]:
        now = read(tx, subscriber_ids, since_us, now_us)
        found = {who: before.get(who, copy.deepcopy(history)) for who, history in now.items()}
        before.update(copy.deepcopy(now))
        return found

    return early


def test_control_with_counters_read_before_another_commit_quotas_are_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, before = SqlTransaction.usage, Usage()

    def early(tx: SqlTransaction, keys: Collection[UsageKey]) -> Usage:
        now = {key: read(tx, keys).get(key, 0) for key in keys}
        found = {key: before.get(key, count) for key, count in now.items()}
        before.update(now)
        return found

    monkeypatch.setattr(SqlTransaction, "usage", early)
    assert violations(tmp_path, range(3))["quota"] > 0


def test_control_without_the_check_before_a_lease_people_are_contacted_who_opted_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clearance, "consent_refusal", lambda *_: None)
    assert violations(tmp_path, range(5))["consent"] > 0


def test_control_without_control_groups_their_members_are_contacted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every other time somebody forgets to look."""
    look, times = decide.control_group, [0]

    def forgetful(*asked: Any) -> str:
        times[0] += 1
        return look(*asked) if times[0] % 2 else ""

    monkeypatch.setattr(decide, "control_group", forgetful)
    assert violations(tmp_path, range(3))["control"] > 0


def test_control_without_quiet_hours_people_are_disturbed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(channels, "quiet_refusal", lambda *_: None)
    assert violations(tmp_path, range(3))["quiet"] > 0


def test_control_without_quiet_hours_at_leases_people_are_disturbed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was decided before the quiet hours is sent in them."""
    for module in (clearance, decide):
        monkeypatch.setattr(module, "quiet_begins_us", lambda *asked: asked[4])
    monkeypatch.setattr(clearance, "quiet_refusal", lambda *_: None)
    assert violations(tmp_path, range(4))["quiet"] > 0


def test_control_without_releases_reservations_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is never given back is found at the end."""
    monkeypatch.setattr("opportune_service.adapters.sql.deliveries.release", lambda *_: None)
    assert violations(tmp_path, range(2))["reserved"] > 0
