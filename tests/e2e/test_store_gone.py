"""The store goes away and comes back: meanwhile nothing is acknowledged, callers are told to try again and
health says so; afterwards all goes on by itself. How long it takes is measured by `make torture`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from opportune_service.core.events import Event
from support.collecting import know, outcome
from support.installations import NAMES, installation
from support.outages import go_through, struck
from support.processes import serving_with, write_rulebase
from support.small_rulebase import mms, small_rulebase, subscribers

WHO = subscribers(1)[0]

STRIKES = {
    "embedded": ["disk full"],
    "shared": ["ledger refused", "live state refused", "ledger frozen", "live state frozen"],
}


def happening(sent: list[Event]) -> Iterator[Event]:
    """One MMS after the other, each noted in `sent`."""
    while True:
        sent.append(mms(WHO, f"e{len(sent)}", time.time_ns() // 1_000))
        yield sent[-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_is_gone_is_said_and_recovered_from(name: str, tmp_path: Path) -> None:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase())
    sent: list[Event] = []
    with (
        installation(name, tmp_path) as place,
        serving_with(place.environment, "--rulebase", str(rulebase)) as service,
    ):
        know(service.target, [WHO])
        for strike in STRIKES[name]:
            gone = struck(place, service, strike)
            end = partial(gone.__exit__, None, None, None)
            go_through(service, "mmsc", happening(sent), gone.__enter__, end)
        found = outcome(service.target, [WHO], {WHO: len(sent)})
        assert found.counted == {WHO: len(sent)}
        assert max(found.verdicts.values()) == 1
        assert len(found.decided) == min(2, len(sent) - 2), "the cap of two a week, from the third on"
        assert service.stop() == 0


def test_control_a_store_that_is_there_is_noticed(tmp_path: Path) -> None:
    """What is acknowledged during the outage fails the check above."""
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase())
    with (
        installation("embedded", tmp_path) as place,
        serving_with(place.environment, "--rulebase", str(rulebase)) as service,
    ):
        know(service.target, [WHO])
        nothing = nullcontext()
        with pytest.raises(AssertionError, match="acknowledged though the store was gone"):
            go_through(service, "mmsc", happening([]), nothing.__enter__, lambda: None)
