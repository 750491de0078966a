"""Deferral: when what is stopped now is decided again, and how long candidates wait for better ones."""

from __future__ import annotations

from collections.abc import Sequence

from opportune_rulebase.policies import Fate, Mode, Policies

from opportune_service.core.situation import Contender, Ruling, Situation
from opportune_service.core.stable import number_below

MINUTE_US = 60_000_000
"""What is deferred waits for the next minute at least, so that a replay may decide the events of a minute
in one go."""


def fate_of(situation: Situation, contender: Contender, refusals: Sequence[Ruling]) -> tuple[Fate, int]:
    """The fate of a winner that every channel refused, which is that of the last refusal; and when it is
    decided again, if that is DEFER: when the first of the refusals with that fate is over.

    It ends here instead if the last refusal never is over, or none of them before the offer lapses. So does
    what decides a prompt again: the prompt itself waits on.
    """
    if not refusals:
        return situation.rulebase.policies.no_channel, 0
    if refusals[-1].fate is not Fate.DEFER:
        return refusals[-1].fate, 0
    if not refusals[-1].check.clear_us or contender.candidate.prompt_of:
        return Fate.DROP, 0
    policies, subscriber_id = situation.rulebase.policies, situation.moment.key.subscriber_id
    due_us = min(
        _due_us(policies, subscriber_id, refusal)
        for refusal in refusals
        if refusal.fate is Fate.DEFER and refusal.check.clear_us
    )
    return (Fate.DEFER, due_us) if due_us < contender.lapses_us else (Fate.DROP, 0)


def settles_us(situation: Situation, contender: Contender) -> int:
    """Until when the contender waits for better ones; 0 if it is arbitrated at once.

    All that wait of one subscriber wait for the same instant. What was deferred is arbitrated when it is
    due, with whatever else there is at that moment.
    """
    moment, settle_us = situation.moment, situation.rulebase.policies.settle_us
    fresh = not contender.candidate.prompt_of and not any(c.deferred_of for c in moment.candidates)
    if not settle_us or not fresh or contender.campaign.mode is not Mode.AUTOMATIC:
        return 0
    waiting = [deferral.due_us for deferral in situation.history.deferrals if deferral.settling]
    due_us = min([moment.now_us + settle_us, *waiting])
    return due_us if due_us < contender.lapses_us else 0


def _due_us(policies: Policies, subscriber_id: str, refusal: Ruling) -> int:
    """When the minute has begun; the same for all campaigns of a subscriber, so that they are decided
    together; for many subscribers that wait for the same instant, spread."""
    clear_us = -(-refusal.check.clear_us // MINUTE_US) * MINUTE_US
    if not refusal.spread or not policies.jitter_us:
        return clear_us
    return clear_us + number_below(policies.jitter_us, b"opp-jitter", subscriber_id, str(clear_us))
