"""What callers see of what was pruned."""

from __future__ import annotations

import grpc
import pytest
from opportune.v1 import subscriber_service_pb2 as subscribers_pb
from opportune_service.app.housekeeping import Housekeeping
from opportune_service.app.retention import Keep
from opportune_service.core.verdict import Verdict
from support.server import in_loop, read_to_end, refusal, running_service
from support.verdicts import HOUR_US, shown, verdict

WHO = "8613800000001"


def decided(number: int, at_us: int) -> Verdict:
    return verdict(WHO, f"e{number}", shown(f"d{number}"), at_us=at_us)


@in_loop
async def test_an_export_that_would_miss_pruned_changes_is_out_of_range() -> None:
    async with running_service() as service:
        app = service.app

        def record() -> None:
            with app.ledger.transaction() as tx:
                long_ago_us = app.clock.now_us() - 200 * 24 * HOUR_US
                tx.record_verdicts([decided(n, long_ago_us) for n in range(2)])
                tx.record_verdicts([decided(n, app.clock.now_us()) for n in range(2, 4)])

        await app.thread.run(record)
        export = service.subscribers.ExportContacts(subscribers_pb.ExportContactsRequest())
        pieces = [piece async for piece in export]
        ids = [each.decision_id for piece in pieces for each in piece.contacts]
        assert ids == ["d0", "d1", "d2", "d3"]
        await Housekeeping(app.live, app.ledger, app.thread, app.clock, Keep(1, 1, 1)).turn(
            app.clock.now_us()
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_to_end(
                service.subscribers.ExportContacts(subscribers_pb.ExportContactsRequest(cursor="1"))
            )
        assert refusal(refused.value).code is grpc.StatusCode.OUT_OF_RANGE
        assert refusal(refused.value).reason == "PRUNED"
        assert "archive" in refusal(refused.value).message
        again = service.subscribers.ExportContacts(subscribers_pb.ExportContactsRequest())
        assert [each.decision_id async for piece in again for each in piece.contacts] == ["d2", "d3"]
        last = service.subscribers.ExportContacts(
            subscribers_pb.ExportContactsRequest(cursor=pieces[-1].cursor)
        )
        assert [piece async for piece in last] == []
