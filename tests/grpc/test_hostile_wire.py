"""A short run of what `make fuzz` does for as long as it is told: hostile bytes to every method, with
credentials and without. Only documented codes come back, and the service goes on serving."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from opportune.v1 import event_service_pb2 as events
from opportune_service.app.callers import ROLES
from support.callers import bearer, one_of_each_role, tokens
from support.hostile_wire import HostileWire, ViolationError
from support.server import in_loop, running_service
from support.wire import event, publish

AT_ONCE, EACH = 8, 20


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_bytes_get_documented_codes_and_the_service_lives(
    seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @in_loop
    async def body() -> None:
        made = tokens(*ROLES)
        async with running_service(
            callers=one_of_each_role(tmp_path / "callers.yaml", made), reflection=True
        ) as service:

            async def attack(number: int) -> dict[str, int]:
                wire = HostileWire(service.address, made, f"{seed}/{number}")
                try:
                    for _ in range(EACH):
                        await wire.once()
                finally:
                    await wire.close()
                return wire.seen

            with caplog.at_level(logging.WARNING):
                seen = await asyncio.gather(*map(attack, range(AT_ONCE)))
            codes = set().union(*seen)
            assert {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"} <= codes, "it came through"
            answer = await service.events.PublishEvents(
                publish(event("fine")), metadata=bearer(made["collector"])
            )
            assert answer == events.PublishEventsResponse(accepted_count=1, revision=service.app.live.id)
            for method, figures in service.server.calls.figures.items():
                assert not {"INTERNAL", "UNKNOWN", "DATA_LOSS"} & figures.ended.keys(), method
        assert "fault" not in caplog.text
        assert not [token for token in made.values() if token in caplog.text]

    body()


async def forever(wire: HostileWire) -> None:
    while True:
        await wire.once()


@in_loop
async def test_control_a_fault_of_the_service_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tokens(*ROLES)
    async with running_service(callers=one_of_each_role(tmp_path / "callers.yaml", made)) as service:

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(type(service.app.thread), "run", broken)
        wire = HostileWire(service.address, made, "control")
        try:
            with pytest.raises(ViolationError, match="INTERNAL"):
                await forever(wire)
        finally:
            await wire.close()
            monkeypatch.undo()
