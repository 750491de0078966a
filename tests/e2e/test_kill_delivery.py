"""An ack that was answered is for good: kill -9 in mid-delivery, restart, go on. No message is lost, and
none that was acknowledged is handed out again."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gateways import SENT, Gateway, offer, states
from support.installations import NAMES, installation
from support.processes import serving_with, write_rulebase
from support.small_rulebase import small_rulebase, subscribers

PEOPLE = subscribers(120)
ACKS_BEFORE_EACH_KILL = (15, 40, 7)


@pytest.mark.parametrize("name", NAMES)
def test_kill_9_loses_no_message_and_forgets_no_ack(name: str, tmp_path: Path) -> None:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase(threshold=1))
    gateway = Gateway()
    with installation(name, tmp_path) as place:
        # What was leased when it crashed is handed out again after this long.
        environment = place.environment | {"OPPORTUNE_LEASE_SECONDS": "2"}
        with serving_with(environment, "--rulebase", str(rulebase)) as service:
            offer(service.target, PEOPLE)
            for kill_after in ACKS_BEFORE_EACH_KILL:
                gateway.work(service, len(PEOPLE), kill_after)
                service.start()
            gateway.work(service, len(PEOPLE))
            ended = states(service.target)
            assert service.stop() == 0
    assert len(gateway.handed) > len(PEOPLE), "nothing was under way at a crash: the test shows nothing"
    assert gateway.handed_again == []
    # An ack may have been recorded and its answer lost: then the message is not handed out again.
    assert set(gateway.handed) == set(ended)
    assert len(ended) == len(PEOPLE)
    assert set(ended.values()) == {SENT}
