"""Random lives of revisions against a naive model: whatever is asked in whatever order, nothing decides
that another than its author has not approved, one revision is in full force, and no update is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from opportune_rulebase import load
from opportune_service.app import lifecycle
from opportune_service.app.callers import Caller
from opportune_service.app.errors import (
    ConflictError,
    ForbiddenError,
    NotReadyError,
    OpportuneError,
)
from opportune_service.app.promotions import Asked
from opportune_service.app.records import ActivationMode, StepKind
from opportune_service.bootstrap import Application
from support.applications import in_loop, running
from support.small_rulebase import small_rulebase

FULL, CANARY, SHADOW = ActivationMode
PEOPLE = [Caller("ann"), Caller("li"), Caller("wang")]
CASE = b"""\
now: 2026-11-20T12:00:00+08:00
cases:
  - name: nothing comes of nothing
    subscriber: {id: "8613800000001"}
    events: [{type: sms_sent}]
    expect: []
"""
REVISIONS = {load(files).revision: files for files in (small_rulebase(text=f"Text {n}") for n in range(5))}


@dataclass
class Model:
    """What a clerk would write down, one line for each thing done."""

    full: list[str] = field(default_factory=list)
    beside: dict[ActivationMode, str] = field(default_factory=dict)
    author: dict[str, str] = field(default_factory=dict)
    tested: set[str] = field(default_factory=set)
    approved: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def upload(self, revision: str, by: str) -> None:
        if revision not in self.author:
            self.author[revision] = by
            self.history[revision] = [("uploaded", by)]

    def note(self, revision: str, action: str, by: str) -> None:
        self.history[revision].append((action, by))

    def approve(self, revision: str, by: str) -> type[OpportuneError] | None:
        if self.author[revision] == by:
            return ForbiddenError
        if revision not in self.tested:
            return NotReadyError
        if revision not in self.approved:
            self.approved[revision] = by
            self.note(revision, "approved", by)
        return None

    def activate(
        self, revision: str, expected: str, mode: ActivationMode, by: str
    ) -> type[OpportuneError] | None:
        if mode is not SHADOW and revision not in self.approved and revision not in self.full:
            return NotReadyError
        if expected != self.full[-1]:
            return ConflictError
        self._put(revision, mode)
        self.note(revision, "activated", by)
        return None

    def roll_back(self, revision: str, expected: str, by: str) -> type[OpportuneError] | None:
        if not revision:
            came = max((at for at, each in enumerate(self.full) if each == expected), default=-1)
            earlier = [each for each in self.full[: max(came, 0)] if each != expected]
            if not earlier:
                return NotReadyError if expected == self.full[-1] else ConflictError
            revision = earlier[-1]
        if revision not in self.full:
            return NotReadyError
        if expected != self.full[-1]:
            return ConflictError
        self._put(revision, FULL)
        self.note(revision, "rolled-back", by)
        return None

    def _put(self, revision: str, mode: ActivationMode) -> None:
        if mode is FULL:
            self.full.append(revision)
            self.beside = {}
        else:
            self.beside[mode] = revision

    @property
    def in_force(self) -> list[tuple[str, ActivationMode]]:
        beside = [(self.beside[mode], mode) for mode in (CANARY, SHADOW) if mode in self.beside]
        return [(self.full[-1], FULL), *beside]


async def live_a_while(seed: int, moves: int = 30) -> Model:
    """Some moves of some people; whatever the model says must come about."""
    rng = random.Random(seed)
    async with running(people=()) as app:
        app.promotions._gated = True
        first = (await app.rulebases.find("")).row.revision
        model = Model([first], author={first: "test"}, history={})
        model.history[first] = [("uploaded", "test"), ("activated", "test")]
        for _ in range(moves):
            await _move(app, model, rng)
            await _check(app, model)
        return model


async def _move(app: Application, model: Model, rng: random.Random) -> None:
    who = rng.choice(PEOPLE)
    known = sorted(model.author)
    revision = rng.choice(known)
    expected = model.full[-1] if rng.random() < 0.8 else rng.choice(known)
    match rng.choice(
        ["upload", "test", "approve", "approve", "activate", "activate", "roll back", "roll back"]
    ):
        case "upload":
            revision, files = rng.choice(sorted(REVISIONS.items()))
            with_tests = dict(files) | ({"tests/a_test.yaml": CASE} if rng.random() < 0.8 else {})
            model.upload(revision, who.name)
            await app.rulebases.upload(with_tests, who.name, "")
        case "test":
            report = await app.promotions.test(revision, who)
            if report.passed and revision not in model.tested:
                model.tested.add(revision)
                model.note(revision, "tested", who.name)
        case "approve":
            wanted = model.approve(revision, who.name)
            await _comes_to(wanted, lambda: app.promotions.approve(revision, who, ""))
        case "activate":
            mode = rng.choice([FULL, FULL, CANARY, SHADOW])
            asked = Asked(revision, expected, "", mode, 1_000 if mode is CANARY else 0)
            wanted = model.activate(revision, expected, mode, who.name)
            await _comes_to(wanted, lambda: app.promotions.activate(asked, who))
        case "roll back":
            target = rng.choice(["", revision])
            wanted = model.roll_back(target, expected, who.name)
            await _comes_to(wanted, lambda: app.promotions.roll_back(target, expected, who, "", ""))


async def _comes_to(wanted: type[OpportuneError] | None, call: Callable[[], Any]) -> None:
    if wanted is None:
        await call()
        return
    with pytest.raises(wanted):
        await call()


async def _check(app: Application, model: Model) -> None:
    in_force = await app.rulebases.in_force()
    assert [(each.revision, each.mode) for each in in_force] == model.in_force
    # What is live is what is on record.
    assert [each.id for each in app.live.current.side_by_side] == [each.revision for each in in_force]
    for revision, done in model.history.items():
        stored = await app.rulebases.find(revision)
        assert [(step.kind.value, step.by) for step in stored.steps] == done
        _nothing_decides_unapproved(stored.steps)


def _nothing_decides_unapproved(steps: Any) -> None:
    """Said by the history alone: before it first came into force for anybody, somebody else approved it."""
    author = steps[0].by
    if author == "test":  # the machine's own operator
        return
    for at, step in enumerate(steps):
        if step.kind in (StepKind.ACTIVATED, StepKind.ROLLED_BACK) and step.mode is not SHADOW:
            approvals = [each.by for each in steps[:at] if each.kind is StepKind.APPROVED]
            assert [by for by in approvals if by != author]


@pytest.mark.parametrize("seed", range(8))
def test_random_lives(seed: int) -> None:
    in_loop(lambda: live_a_while(seed))


def test_such_lives_get_everywhere() -> None:
    """What is random must not miss what matters."""
    actions: set[str] = set()
    for seed in range(3):
        model = asyncio.run(live_a_while(seed, 80))
        actions |= {action for done in model.history.values() for action, _ in done}
    assert actions == {"uploaded", "tested", "approved", "activated", "rolled-back"}


@pytest.mark.parametrize("gate", ["check_approval", "check_activation", "check_rollback"])
def test_without_a_gate_they_would_fail(gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    assert callable(getattr(lifecycle, gate))
    monkeypatch.setattr(f"opportune_service.app.promotions.{gate}", lambda *_args, **_more: None)

    def live() -> None:
        for seed in range(60):
            asyncio.run(live_a_while(seed))

    with pytest.raises((AssertionError, pytest.fail.Exception, OpportuneError)):
        live()
