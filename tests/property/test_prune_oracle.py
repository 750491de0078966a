"""Pruning is never noticed: months of a service in which what is old goes now and then, and the same months
in which nothing does, decide the same, to the byte; and recovery finds the same states.

The control keeps what is needed for too short a time, and the same comparison goes red.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import cache
from typing import Any

import pytest
from opportune_rulebase.network import NetworkEngine
from opportune_service.app import retention
from opportune_service.app.housekeeping import Housekeeping
from opportune_service.app.records import Kept
from opportune_service.app.recover import recover_some
from opportune_service.app.retention import Keep
from opportune_service.bootstrap import Application
from opportune_service.core.verdict import Reason
from support.long_lives import DAY_US, LOOKBACK_DAYS, PEOPLE, Lived, lived
from support.rebuilt import live_and_rebuilt
from support.snapshots import snapshot

SEEDS = 4
SHORTEST = Keep(log_days=1, history_days=1, audit_days=1)


async def untouched(_: Application) -> None:
    pass


class Pruner:
    """Prunes whatever may go; `pruned` counts it."""

    def __init__(self) -> None:
        self.pruned: Counter[Kept] = Counter()

    async def __call__(self, app: Application) -> None:
        await snapshot(app)
        before, _ = await app.thread.run(recover_some, app.ledger, NetworkEngine, PEOPLE)
        housekeeping = Housekeeping(app.live, app.ledger, app.thread, app.clock, SHORTEST)
        self.pruned.update(await housekeeping.turn(app.clock.now_us()))
        live, rebuilt = await live_and_rebuilt(app, PEOPLE)
        assert rebuilt == before == live


@cache
def alone(seed: int) -> Lived:
    return asyncio.run(lived(seed, untouched))


def both(seed: int) -> tuple[Lived, Lived, Counter[Kept]]:
    pruner = Pruner()
    return alone(seed), asyncio.run(lived(seed, pruner)), pruner.pruned


@pytest.mark.parametrize("seed", range(SEEDS))
def test_decisions_are_the_same_whether_or_not_what_is_old_goes(seed: int) -> None:
    without, pruned, gone = both(seed)
    assert pruned.verdicts == without.verdicts
    assert pruned.outcomes == without.outcomes
    assert pruned.states == without.states
    assert gone[Kept.HISTORY] > 20
    assert gone[Kept.LOG] > 20
    assert gone[Kept.USAGE] > 20


def test_the_lives_put_it_to_the_test() -> None:
    """Otherwise the test above would show nothing."""
    reasons: Counter[Reason] = Counter()
    for seed in range(SEEDS):
        reasons += alone(seed).reasons()
    for reason in (Reason.CAPPED, Reason.COOLING_OFF, Reason.QUOTA, Reason.INCONSISTENT, Reason.CONTROL):
        assert reasons[reason] > 0, reason
    assert reasons[Reason.DECIDED] > 100


@pytest.mark.parametrize("days", [8, 25])
def test_control_with_history_kept_too_short_other_things_are_decided(
    monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    assert days < LOOKBACK_DAYS
    monkeypatch.setattr(retention, "history_needed_us", lambda _: (days - 3) * DAY_US)
    assert any(differs(seed) for seed in range(SEEDS))


def test_control_with_the_log_kept_too_short_a_backfill_finds_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "_longest_window_us", lambda _: DAY_US)
    assert any(differs(seed) for seed in range(SEEDS))


def differs(seed: int) -> bool:
    without, pruned, _ = both(seed)
    return pruned.verdicts != without.verdicts or pruned.states != without.states


def test_control_with_what_is_held_pruned_too_offers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offers that stand, prompts and deferrals that wait, answers that came late."""
    from opportune_service.adapters.sql import prune

    def never(*_: Any) -> bool:
        return False

    monkeypatch.setattr(prune, "_holds", never)
    monkeypatch.setattr(retention, "history_needed_us", lambda _: 41 * DAY_US)
    assert any(differs(seed) for seed in range(SEEDS))
