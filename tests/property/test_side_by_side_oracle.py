"""Revisions side by side against each of them running alone: the same states, the same moments."""

from __future__ import annotations

import random

import pytest
from opportune_service.bootstrap import engine_factory
from opportune_service.core.lanes import disagreements
from opportune_service.core.revision import PARTS
from opportune_service.settings import EngineName
from support.side_by_side import PEOPLE, Make, Run, alone, close, files, happenings, together

HALF = PARTS // 2


@pytest.fixture(params=list(EngineName))
def make(request: pytest.FixtureRequest) -> Make:
    return engine_factory(request.param)


def differences(seed: int, make: Make, *, twice: bool = False) -> list[str]:
    """Where a run of three side by side is not what the three come to alone."""
    rng = random.Random(seed)
    full, canary, shadow = (files(rng) for _ in range(3))
    events = happenings(rng, 80)
    joined = Run(together([full, canary, shadow], [HALF, None], make, twice=twice)).live(events)
    each_alone = [Run(alone(content, make)).live(events) for content in (full, canary, shadow)]
    assert not disagreements(joined.revision.rulebase, each_alone[1].revision.rulebase)
    found = []
    for who in PEOPLE:
        for name, run in zip(("full", "canary", "shadow"), each_alone, strict=True):
            if joined.kept(who, run.revision.keys) != run.kept(who, run.revision.keys):
                found.append(f"{who}: state of {name}")
        decides = 0 if joined.revision.of(who) is joined.revision else 1
        if joined.of(who) != each_alone[decides].of(who):
            found.append(f"{who}: moments, decided by {'canary' if decides else 'full'}")
        if joined.of(who, shadow=True) != each_alone[2].of(who):
            found.append(f"{who}: moments of the shadow")
    close(joined.revision, *(run.revision for run in each_alone))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_side_by_side_comes_to_what_each_comes_to_alone(seed: int) -> None:
    assert differences(seed, engine_factory(EngineName.NETWORK)) == []


def test_so_with_either_engine(make: Make) -> None:
    for seed in range(1_000, 1_003):
        assert differences(seed, make) == []


def test_what_is_folded_twice_is_found() -> None:
    make = engine_factory(EngineName.NETWORK)
    assert any(differences(seed, make, twice=True) for seed in range(3))


def test_there_is_something_to_compare() -> None:
    """Some of it is shared, some is not; both decide for somebody, and there are moments of each."""
    make = engine_factory(EngineName.NETWORK)
    shared = own = decided = 0
    for seed in range(10):
        rng = random.Random(seed)
        full, canary, shadow = (files(rng) for _ in range(3))
        joined = Run(together([full, canary, shadow], [HALF, None], make)).live(happenings(rng, 80))
        first, second, third = joined.revision.side_by_side
        theirs = frozenset(each.key for each in second.rulebase.patterns.values())
        shared += len(theirs & first.own_keys)
        own += len(theirs & second.own_keys)
        decided += len({each.id for each in map(joined.revision.of, PEOPLE)})
        assert joined.moments
        assert joined.shadowed
        assert third is joined.revision.shadow
        close(joined.revision)
    assert shared > 10
    assert own > 10
    assert decided == 20


@pytest.mark.parametrize("seed", range(5))
def test_how_events_are_cut_into_batches_does_not_matter(seed: int) -> None:
    make = engine_factory(EngineName.NETWORK)
    rng = random.Random(seed)
    contents = [files(rng) for _ in range(3)]
    events = happenings(rng, 100)
    one, other = (Run(together(contents, [HALF, None], make)) for _ in range(2))
    for event in events:
        one.take([event])
    rest = events
    while rest:
        size = rng.randrange(1, 30)
        other.take(rest[:size])
        rest = rest[size:]
    assert one.encoded() == other.encoded()
    assert (one.moments, one.shadowed) == (other.moments, other.shadowed)
    close(one.revision, other.revision)


def test_a_growing_share_keeps_those_who_are_in() -> None:
    make = engine_factory(EngineName.NETWORK)
    rng = random.Random(1)
    contents = [files(rng), files(rng), files(rng)]
    people = [f"8613{n:07d}" for n in range(20_000)]
    inside: set[str] = set()
    for canary, share in ((1, 10_000), (1, 300_000), (2, 300_000), (2, 700_000), (2, PARTS)):
        joined = together([contents[0], contents[canary]], [share], make)
        now = {each for each in people if joined.of(each) is not joined}
        assert now >= inside
        assert len(now) == pytest.approx(len(people) * share / PARTS, rel=0.1)
        inside = now
        close(joined)
