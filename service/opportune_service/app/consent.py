"""Take in what a subscriber said about being contacted.

It goes through the pipeline like any other context: durable and in the log when the call returns, and seen
by every decision and every lease after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opportune_rulebase.model import Rulebase

from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ports import LiveState
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.context import CONSENTS, DO_NOT_CONTACT, consent_key
from opportune_service.core.events import ContextRecord, ImportMode
from opportune_service.core.state import SubscriberState

ALL = "all"
"""The scope of the do-not-contact list; the others are ``channel/NAME`` and ``category/NAME``."""


@dataclass(frozen=True, slots=True)
class Consent:
    """What was said about one scope, and when. `allowed` None: nothing, so the rulebase's default holds."""

    scope: str
    allowed: bool | None
    as_of_us: int


async def set_consent(
    live: LiveRevision, states: LiveState, ingest: Ingest, subscriber_id: str, said: Consent, origin: str
) -> tuple[Consent, bool]:
    """Take in one consent and wait until it is durable: what is in force for its scope then, and whether
    that is what was said. The newest wins; a refusal wins a tie. `origin` is kept in the log.

    Raises `InvalidRequestError` for a scope that the rulebase does not declare, `NoRulebaseError`,
    `StoreUnavailableError`.
    """
    fault = unknown_scope(live.current.rulebase, said.scope)
    if fault:
        raise InvalidRequestError("consent.scope", f"consent.{fault}")
    await ingest.import_context(origin, [consent_record(subscriber_id, said)])
    state = await states.view(subscriber_id)
    in_force = consent_of(state, said.scope)
    return in_force, in_force == said


def consents_in(context: Mapping[str, object], as_of_us: Mapping[str, int]) -> list[Consent]:
    """Everything on record, by scope. Pure."""
    consents = context.get(CONSENTS)
    said: dict[str, bool] = dict(consents) if isinstance(consents, dict) else {}
    found = [Consent(scope, word, as_of_us.get(consent_key(scope), 0)) for scope, word in said.items()]
    listed = context.get(DO_NOT_CONTACT)
    if isinstance(listed, bool):
        found.append(Consent(ALL, not listed, as_of_us.get(DO_NOT_CONTACT, 0)))
    return sorted(found, key=lambda each: each.scope)


def consent_of(state: SubscriberState, scope: str) -> Consent:
    """What is in force for a scope. Pure."""
    for consent in consents_in(state.context, state.as_of_us):
        if consent.scope == scope:
            return consent
    # Nothing: since it was taken back, or an import said all there is.
    keys = (DO_NOT_CONTACT,) if scope == ALL else (consent_key(scope), CONSENTS)
    return Consent(scope, None, max(state.replaced_us, *(state.as_of_us.get(key, 0) for key in keys)))


def consent_record(subscriber_id: str, said: Consent) -> ContextRecord:
    """A consent as the pipeline takes it in. Pure."""
    attributes: dict[str, object] = (
        # On the list is who refuses.
        {DO_NOT_CONTACT: None if said.allowed is None else not said.allowed}
        if said.scope == ALL
        else {CONSENTS: {said.scope: said.allowed}}
    )
    return ContextRecord(subscriber_id, said.as_of_us, ImportMode.PATCH, attributes)


def unknown_scope(rulebase: Rulebase, scope: str) -> str:
    """What is wrong with a scope that the rulebase does not declare; "" for one that it does. Pure."""
    channels = rulebase.vocabulary.channels
    categories = {product.category for product in rulebase.vocabulary.products.values()}
    known = {ALL, *(f"channel/{name}" for name in channels), *(f"category/{name}" for name in categories)}
    return "" if scope in known else f"scope must be one of: {', '.join(sorted(known))}"
