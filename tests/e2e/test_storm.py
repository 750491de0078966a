"""Several collectors publish about the same people while everything around them breaks, one after another:
nothing is lost, nothing counted or decided twice, and caps and quotas are reached and never exceeded. It is
counted in the ledger by other code than the service's; `make torture` does it at random, and for long."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.collecting import counts, truth
from support.installations import NAMES, installation
from support.storm import PEOPLE, Storm, storm

TROUBLES = {
    "embedded": ["reload", "member killed", "disk full", "member stopped", "reload"],
    "shared": [
        "reload",
        "member killed",
        "live state killed",
        "ledger refused",
        "member stopped",
        "reload",
    ],
}
MEMBERS = {"embedded": 1, "shared": 2}
SECONDS = 0.5
"""How long a trouble lasts that is not over at once."""


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_and_no_bound_is_exceeded(name: str, tmp_path: Path) -> None:
    troubles = iter(TROUBLES[name])

    def disturb(blowing: Storm) -> None:
        blowing.make(next(troubles), SECONDS)

    with installation(name, tmp_path) as place:
        with storm(place, seed=3, members=MEMBERS[name]) as blowing:
            blowing.blow("storm", 4, 30, disturb, len(TROUBLES[name]))
            blowing.check_counts()
            for member in blowing.members:
                assert member.stop() == 0
        blowing.check_ledger()
        assert len(blowing.revisions) == 3


@pytest.mark.parametrize("without", ["caps", "log"])
def test_control_without_a_safety_it_is_noticed(without: str, tmp_path: Path) -> None:
    with (
        installation("embedded", tmp_path) as place,
        # Snapshots would make up for the log.
        storm(place, seed=3, without=without, checkpoint_seconds=600) as blowing,
    ):
        blowing.blow("storm", 4, 15, lambda storm: storm.make("member killed", SECONDS), 1)
        if without == "log":
            assert counts(blowing.members[0].target, PEOPLE) != truth(blowing.delivered)
        else:
            assert blowing.members[0].stop() == 0
            with pytest.raises(AssertionError, match=r"found, true"):
                blowing.check_ledger()
