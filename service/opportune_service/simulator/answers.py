"""How simulated customers answer an offer."""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

_PER = 10_000


class Answer(StrEnum):
    """What a simulated customer does with an offer."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    IGNORED = "ignored"
    COMPLAINED = "complained"


def answer(seed: int, decision_id: str, campaign: str) -> Answer:
    """The answer of the customer who was contacted by this decision.

    Stable: depends on the arguments alone. Each campaign has a taste of its own: 4 to 18 in 100 accept.
    For every campaign 8 in 100 refuse, 4 in 1,000 complain, and the others say nothing.
    """
    accepts = 400 + _draw(f"{seed}/taste/{campaign}") % 1_401
    draw = _draw(f"{seed}/answer/{campaign}/{decision_id}") % _PER
    if draw < accepts:
        return Answer.ACCEPTED
    if draw < accepts + 800:
        return Answer.REFUSED
    if draw < accepts + 840:
        return Answer.COMPLAINED
    return Answer.IGNORED


def _draw(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
