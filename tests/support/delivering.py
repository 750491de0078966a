"""A service whose SMS are leased, sent and given up: what its tests do with it."""

from __future__ import annotations

from collections.abc import Sequence

from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.deliver import Settled
from opportune_service.app.records import DeliveryState, Lease, Settlement
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, ImportMode
from opportune_service.core.verdict import ContactState
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
WHO = subscribers(1)[0]
NIGHT = b"""
quiet_hours:
  night: {from: "22:00", to: "08:00", otherwise: drop}
"""
REFUSAL = b'{"consents": {"channel/sms": false}}'


def rulebase(*, sms: str = "", policies: bytes = b"", **changes: int) -> dict[str, bytes]:
    """Whoever sends an MMS is sent an SMS, as often as the cap lets them."""
    files = small_rulebase(threshold=1, **{"weekly_limit": 1_000, **changes})
    vocabulary = files["vocabulary.yaml"]
    files["vocabulary.yaml"] = vocabulary.replace(
        b"{mode: automatic}", b"{mode: automatic%s}" % sms.encode()
    )
    files["policies.yaml"] += policies
    campaign = files["campaigns/mms-bundle.yaml"].replace(
        b"fresh_for: 1h", b"fresh_for: 1h\nexpires_after: 24h"
    )
    files["campaigns/mms-bundle.yaml"] = campaign
    return files


def with_consents() -> dict[str, bytes]:
    files = rulebase()
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"subscriber: {age: int}",
        b"subscriber: {age: int, consents: 'map<string, bool>', do_not_contact: bool}",
    )
    return files


def move(app: Application, by_us: int) -> int:
    """Let time pass; the time it is."""
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us += by_us
    return app.clock.value_us


async def offer(app: Application, people: Sequence[str], tag: str = "") -> list[str]:
    """Have each of them decided an SMS; the decisions."""
    receipt = await app.ingest.publish(
        "mmsc", [mms(who, f"{tag}{n}-{who}", app.clock.now_us()) for n, who in enumerate(people)]
    )
    return [
        decision.id for verdict in receipt.verdicts for decision in verdict.decisions if decision.reserves
    ]


async def tell(app: Application, who: str, attributes: bytes) -> None:
    items = [ImportItem(who, attributes)]
    await import_context(app.live, app.ingest, items, app.clock.now_us(), ImportMode.PATCH, Encoding.JSON)


async def settle(app: Application, lease: Lease, settlement: Settlement, detail: str = "") -> bool:
    said = Settled(lease.decision_id, lease.token, lease.attempt, settlement, detail)
    (answer,) = await app.deliveries.settle([said])
    return answer


async def state(app: Application, decision_id: str) -> DeliveryState:
    found = await app.thread.run(app.ledger.delivery_of, decision_id)
    assert found is not None
    return found[0]


async def contacts(app: Application, who: str = WHO) -> list[ContactState]:
    """Those that count."""

    def read() -> list[ContactState]:
        with app.ledger.transaction() as tx:
            return [each.state for each in tx.histories([who], 0, NOON_US)[who].contacts]

    return await app.thread.run(read)
