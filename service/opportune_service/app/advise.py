"""Answer a touch point that asks: what may be offered to this customer, here and now?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Mode

from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import is_subscriber_id
from opportune_service.core.events import Encoding, Event, RejectionReason
from opportune_service.core.verdict import Decision, EventKey, Reason, Verdict

ADVICE_SOURCE = "advise"
"""The source under which visits are folded; their event id is the request id."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One offer that the person at the touch point may make now."""

    decision_id: str
    campaign: str
    label: str
    product: str
    product_label: str
    say: str
    reasons: tuple[str, ...]
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class Advised:
    """The answer to a visit, best first, and the revision that decided."""

    advices: list[Advice]
    revision: str


@dataclass(frozen=True, slots=True)
class Visit:
    """A customer at a touch point. `event_type` is folded as the visit, e.g. ``counter_visit``."""

    subscriber_id: str
    touch_point: str
    request_id: str
    event_type: str
    attributes: bytes = b""
    encoding: Encoding = Encoding.JSON
    cell_id: str = ""
    imei: str = ""


async def advise(
    live: LiveRevision, ingest: Ingest, ledger: Ledger, thread: LedgerThread, clock: Clock, visit: Visit
) -> Advised:
    """Fold the visit, re-decide the customer's open prompts and match what the visit triggers.

    The advices are shown from now on: each has its reservation. The same `request_id` again folds
    nothing and gives the same answer. Raises `InvalidRequestError`, `NoRulebaseError`,
    `StoreUnavailableError`.
    """
    _check(live, visit)
    now_us = clock.now_us()
    key = EventKey(visit.subscriber_id, ADVICE_SOURCE, visit.request_id)
    prompts = await thread.run(ledger.prompts, visit.subscriber_id, now_us)
    event = Event(
        id=visit.request_id,
        subscriber_id=visit.subscriber_id,
        type=visit.event_type,
        occurred_at_us=now_us,
        attributes=visit.attributes,
        cell_id=visit.cell_id,
        imei=visit.imei,
        encoding=visit.encoding,
    )
    receipt = await ingest.publish(
        ADVICE_SOURCE,
        [event],
        touch_point=visit.touch_point,
        prompts={prompt.campaign: prompt.decision_id for prompt in prompts},
    )
    for rejection in receipt.rejections:
        if rejection.reason is RejectionReason.INTERNAL:
            raise RuntimeError(rejection.message)
        raise InvalidRequestError("attributes", rejection.message)
    verdict: Verdict | None = receipt.verdicts[0] if receipt.verdicts else None
    if verdict is None and receipt.duplicates:
        verdict = await thread.run(ledger.verdict, key)
    if verdict is None:
        return Advised([], receipt.revision)
    return Advised(_advices(live.of(visit.subscriber_id).rulebase, verdict), verdict.revision)


def _check(live: LiveRevision, visit: Visit) -> None:
    if not is_subscriber_id(visit.subscriber_id):
        raise InvalidRequestError(
            "subscriber_id", "subscriber_id must be 5 to 15 digits without a plus sign"
        )
    if not visit.request_id:
        raise InvalidRequestError(
            "request_id", "request_id is needed: a retry with the same one changes nothing"
        )
    # A bulk channel asks nobody: its offers are handed over as deliveries, and would be made twice.
    channels = live.current.channels.values()
    asking = sorted(each.name for each in channels if each.mode is Mode.MANUAL and not each.bulk)
    if visit.touch_point not in asking:
        raise InvalidRequestError(
            "touch_point", f"touch_point must be one of: {', '.join(asking) or 'none declared'}"
        )
    if visit.event_type not in live.current.rulebase.vocabulary.events:
        raise InvalidRequestError("event_type", "the visit's event type is not declared in the vocabulary")


def _advices(rulebase: Rulebase, verdict: Verdict) -> list[Advice]:
    shown = [d for d in verdict.decisions if d.reason is Reason.DECIDED and d.shown]
    shown.sort(key=lambda d: d.rank)
    return [_advice(rulebase, decision) for decision in shown]


def _advice(rulebase: Rulebase, decision: Decision) -> Advice:
    campaign = rulebase.campaigns.get(decision.campaign)
    product = rulebase.vocabulary.products.get(decision.product)
    return Advice(
        decision_id=decision.id,
        campaign=decision.campaign,
        label=campaign.label if campaign else decision.campaign,
        product=decision.product,
        product_label=product.label if product else decision.product,
        say=decision.content,
        reasons=_reasons(rulebase, decision.held),
        expires_at_us=decision.expires_at_us,
    )


def _reasons(rulebase: Rulebase, held: Mapping[str, object]) -> tuple[str, ...]:
    """Why this customer, in words a clerk can use: the labels of the definitions that hold."""
    labels = [
        rulebase.definitions[name].label or name
        for name, value in held.items()
        if value is True and name in rulebase.definitions
    ]
    figures = [f"{name} = {value}" for name, value in held.items() if name.startswith("metric.")]
    return tuple(labels + figures)
