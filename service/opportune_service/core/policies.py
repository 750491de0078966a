"""Policies that look at the customer and the offer alone, whatever the channel: each a pure function.

Each gives None for "passes" or a sentence for the trace that says what stood in the way.
"""

from __future__ import annotations

from collections.abc import Sequence

from opportune_rulebase.model import Campaign, Product, Rulebase
from opportune_rulebase.policies import CoolDown, CoolDownScope, OutcomeKind, Policies

from opportune_service.core.verdict import Candidate, History, Outcome, Profile

CLOSING = frozenset(
    {
        OutcomeKind.ACCEPTED,
        OutcomeKind.REFUSED,
        OutcomeKind.ORDERED,
        OutcomeKind.COMPLAINED,
        OutcomeKind.NOT_OFFERED,
    }
)
"""After one of these an offer does not stand open any more."""


def consent_refusal(policies: Policies, profile: Profile, purpose: str) -> str | None:
    """`purpose` is ``channel/NAME`` or ``category/NAME``. The subscriber's word, else the default."""
    word = profile.consents.get(purpose)
    if word is True or (word is None and purpose not in policies.opt_in):
        return None
    return f"{purpose}: " + ("the customer opted out" if word is False else "opt-in is required and absent")


def holding_refusal(product: Product, held: Sequence[str]) -> str | None:
    """Whether the customer has the product already, lacks a prerequisite or has what excludes it."""
    if product.name in held:
        return f"{product.name} is held already"
    missing = [name for name in product.requires if name not in held]
    if missing:
        return f"{product.name} requires {', '.join(missing)}"
    clash = [name for name in product.excludes if name in held]
    if clash:
        return f"{product.name} excludes {', '.join(clash)}, which is held"
    return None


def cooling(
    cool_downs: Sequence[CoolDown], campaign: Campaign, outcomes: Sequence[Outcome], now_us: int
) -> tuple[str, int] | None:
    """Whether an earlier answer of the customer asks to be left alone with this, or with everything: why,
    and until when."""
    found = [
        (outcome.at_us + cool_down.for_us, f"{cool_down.name}: {outcome.kind.value} {outcome.campaign}")
        for cool_down in cool_downs
        for outcome in outcomes
        if outcome.kind in cool_down.outcomes
        and outcome.at_us + cool_down.for_us > now_us
        and _alike(cool_down.scope, outcome, campaign)
    ]
    if not found:
        return None
    until_us, why = max(found)  # of equals the same one, in whatever order they come
    return why, until_us


def _alike(scope: CoolDownScope, outcome: Outcome, campaign: Campaign) -> bool:
    match scope:
        case CoolDownScope.ANY:
            return True
        case CoolDownScope.CAMPAIGN:
            return outcome.campaign == campaign.name
        case CoolDownScope.PRODUCT:
            return outcome.product == campaign.product
        case CoolDownScope.CATEGORY:
            return outcome.category == campaign.category


def story_refusal(rulebase: Rulebase, campaign: Campaign, history: History, now_us: int) -> str | None:
    """One story on all channels: while an offer is open with the customer, no other campaign speaks of its
    product, and nobody of a product that excludes it or that it excludes. Would-be offers count too."""
    open_contacts = [each for each in history.contacts if each.open_until_us > now_us]
    if not open_contacts:
        return None
    # In the same order whether they were made in this very commit or read from the ledger.
    open_contacts.sort(key=lambda each: (each.at_us, each.origin, each.decision_id))
    products = rulebase.vocabulary.products
    here = products.get(campaign.product)  # gone, perhaps, if it was decided by an earlier rulebase
    answered = {outcome.decision_id for outcome in history.outcomes if outcome.kind in CLOSING}
    for contact in open_contacts:
        if contact.decision_id in answered:
            continue
        if contact.product == campaign.product:
            if contact.campaign != campaign.name:
                return f"{contact.campaign} has an open offer of {contact.product}"
            continue
        there = products.get(contact.product)  # other systems may speak of what we do not know
        if (here is not None and contact.product in here.excludes) or (
            there is not None and campaign.product in there.excludes
        ):
            return f"{contact.campaign} has an open offer of {contact.product}, and one excludes the other"
    return None


def open_copy_refusal(candidate: Candidate, history: History, now_us: int) -> str | None:
    """A campaign has one open prompt of a subscriber, which is shown once, and one deferral, which is
    decided again once."""
    if candidate.deferred_of and candidate.deferred_of not in {d.decision_id for d in history.deferrals}:
        return "the deferral was decided meanwhile, or replaced"
    prompts = [
        prompt.decision_id
        for prompt in history.prompts
        if prompt.campaign == candidate.campaign and prompt.expires_at_us > now_us
    ]
    if candidate.prompt_of:
        gone = candidate.prompt_of not in prompts
        return "the prompt was shown or answered meanwhile, or is over" if gone else None
    return "a prompt of this campaign is already open with the subscriber" if prompts else None
