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
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from opportune_service import bootstrap
from opportune_service.adapters.sql import SqlLedger
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app import clearance
from opportune_service.core import channels, decide
from opportune_service.core.verdict import History, Usage, UsageKey
from support.ledger_oracle import Oracle
from support.policy_life import Life
from support.servers import Postgres

STEPS = 70


def lived(seed: int, directory: Path) -> Oracle:
    """One life, counted."""
    directory.mkdir(parents=True, exist_ok=True)
    return counted(Life(seed, lambda n: directory / f"{n}.db"))


def counted(life: Life) -> Oracle:
    asyncio.run(life.live(STEPS))
    oracle = Oracle(life.database, life.specs, life.zones)
    oracle.found += life.faults
    oracle.check()
    return oracle


@pytest.mark.parametrize("seed", range(16))
def test_nothing_that_must_not_be_is_in_the_ledger(seed: int, tmp_path: Path) -> None:
    assert lived(seed, tmp_path).found == []


@pytest.mark.parametrize("seed", range(2))
def test_nor_is_it_on_postgresql(
    seed: int, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lives: the same service, which keeps the same ledger there."""
    with postgres_server.database() as url, ExitStack() as after_crashes:

        def place(n: int) -> str:
            if n == 0:
                return url
            copy = f"{url}_{n}"
            after_crashes.callback(drop, postgres_server, copy)
            return copy

        life = Life(seed, place)
        ledgers = SimpleNamespace(open=lambda _: SqlLedger.open(str(life.database)))
        monkeypatch.setattr(bootstrap, "SqlLedger", ledgers)
        oracle = counted(life)
        assert oracle.found == []
        assert oracle.seen["contacts"], "the journal is of this life"


def drop(server: Postgres, url: str) -> None:
    with server.connect() as admin:
        admin.execute(f'DROP DATABASE "{sa.make_url(url).database}" WITH (FORCE)'.encode())


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


def finds(kind: str, directory: Path) -> bool:
    """Whether some life goes wrong in this way."""
    return any(
        what.startswith(f"{kind}:")
        for seed in range(20)
        for what in lived(seed, directory / str(seed)).found
    )


def test_control_with_histories_read_before_another_commit_caps_are_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As two processes would that take turns, where each has read before the other commits."""
    monkeypatch.setattr(SqlTransaction, "histories", read_too_early(SqlTransaction.histories))
    assert finds("cap", tmp_path / "caps")
    assert finds("story", tmp_path / "stories")


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
    assert finds("quota", tmp_path)


def test_control_without_the_check_before_a_lease_people_are_contacted_who_opted_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clearance, "consent_refusal", lambda *_: None)
    assert finds("consent", tmp_path)


def test_control_without_control_groups_their_members_are_contacted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every other time somebody forgets to look."""
    look, times = decide.control_group, [0]

    def forgetful(*asked: Any) -> str:
        times[0] += 1
        return look(*asked) if times[0] % 2 else ""

    monkeypatch.setattr(decide, "control_group", forgetful)
    assert finds("control", tmp_path)


def test_control_without_quiet_hours_people_are_disturbed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(channels, "quiet_refusal", lambda *_: None)
    assert finds("quiet", tmp_path)


def test_control_without_quiet_hours_at_leases_people_are_disturbed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was decided before the quiet hours is sent in them."""
    for module in (clearance, decide):
        monkeypatch.setattr(module, "quiet_begins_us", lambda *asked: asked[4])
    monkeypatch.setattr(clearance, "quiet_refusal", lambda *_: None)
    assert finds("quiet", tmp_path)


def test_control_without_releases_reservations_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is never given back is found at the end."""
    monkeypatch.setattr("opportune_service.adapters.sql.deliveries.release", lambda *_: None)
    assert finds("reserved", tmp_path)
