"""What a watcher is told of two sights."""

from __future__ import annotations

import random

from opportune_service.app.activation import Attempt
from opportune_service.app.records import ActivationMode, InForce, Pause
from opportune_service.app.watching import Seen, Sight, Told, differences
from support.rulebases import NOON_US


def force(revision: str, mode: ActivationMode = ActivationMode.FULL, at_us: int = NOON_US) -> InForce:
    return InForce(revision, mode, 0, at_us, "li", "")


def paused(*names: str, by: str = "li") -> dict[str, Pause]:
    return {name: Pause(name, NOON_US, by, "why") for name in names}


def told(before: Sight, now: Sight) -> list[tuple[Seen, str]]:
    return [(each.kind, each.campaign) for each in differences(before, now)]


def test_nothing_is_told_of_nothing() -> None:
    sight = Sight((force("r1"),), paused("a"), Attempt("r1", NOON_US))
    assert told(sight, Sight((force("r1"),), paused("a"), sight.attempt)) == []


def test_every_kind_of_change_is_told() -> None:
    before = Sight((force("r1"),), paused("a", "b"))
    now = Sight((force("r1"), force("r2", ActivationMode.SHADOW)), paused("b", "c"))
    assert told(before, now) == [(Seen.ACTIVATED, ""), (Seen.RESUMED, "a"), (Seen.PAUSED, "c")]
    assert all(each.now is now for each in differences(before, now))
    again = Sight(now.in_force, paused("b", "c", by="alarm"))
    assert told(now, again) == [(Seen.PAUSED, "b"), (Seen.PAUSED, "c")]


def test_an_attempt_is_told_once_and_with_what_it_is_about() -> None:
    before = Sight((force("r1"),))
    failed = Attempt("r2", NOON_US, "refused")
    after_failure = Sight((force("r1"),), {}, failed)
    assert list(differences(before, after_failure)) == [Told(Seen.ACTIVATION_FAILED, after_failure, failed)]
    assert told(after_failure, after_failure) == []
    same_again = Sight((force("r1"),), {}, Attempt("r2", NOON_US, "refused"))
    assert told(after_failure, same_again) == [(Seen.ACTIVATION_FAILED, "")], "it is another attempt"
    worked = Attempt("r2", NOON_US)
    after = Sight((force("r2"),), {}, worked)
    assert list(differences(after_failure, after)) == [Told(Seen.ACTIVATED, after, worked)]


def test_whoever_applies_what_it_is_told_knows_what_is_so() -> None:
    """Of any two sights, however far apart."""
    rng = random.Random(7)
    names = [f"c{n}" for n in range(6)]

    def sight() -> Sight:
        return Sight((force(rng.choice("xy"), at_us=rng.randrange(3)),), paused(*rng.sample(names, 3)))

    for _ in range(300):
        before, now = sight(), sight()
        known, in_force = set(before.paused), before.in_force
        for each in differences(before, now):
            if each.kind is Seen.ACTIVATED:
                in_force = each.now.in_force
            elif each.kind is Seen.PAUSED:
                known.add(each.campaign)
            else:
                known.remove(each.campaign)
        assert (known, in_force) == (set(now.paused), now.in_force)
