"""Builders of verdicts and decisions: say what matters to the test, the rest is filled in."""

from __future__ import annotations

from typing import Any

import msgspec
from opportune_rulebase.policies import Mode
from opportune_service.core.verdict import Check, Decision, EventKey, Reason, Verdict

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
NOON_US = 1_700_000_000 * SECOND_US
"""Some instant, the decision time of all verdicts built here unless a test says otherwise."""

_DECISION = Decision(
    id="decision",
    campaign="night-data",
    product="night-pack",
    category="data",
    mode=Mode.AUTOMATIC,
    reason=Reason.DECIDED,
    fate=None,
    channel="sms",
    content="Night data at half price. 夜间流量半价。",
    expires_at_us=NOON_US + HOUR_US,
    priority=10,
    score=0.5,
    shown=False,
    prompt_of="",
    held={"behaviour.night_owl": True, "sub.arpu": 4200, "scene.places": ["home", "campus"]},
    checks=(Check(policy="fresh_for", passed=True, detail="3 s old, 300 s allowed"),),
)


def decision(id_: str, **changes: Any) -> Decision:
    """An automatic SMS that was decided, with `changes`."""
    return msgspec.structs.replace(_DECISION, id=id_, **changes)


def waiting(id_: str, **changes: Any) -> Decision:
    """A manual prompt that waits at the counter, with `changes`."""
    return decision(id_, **{"mode": Mode.MANUAL, "channel": "counter", **changes})


def shown(id_: str, **changes: Any) -> Decision:
    """A manual prompt that is shown at once, with `changes`."""
    return waiting(id_, **{"shown": True, **changes})


def verdict(
    subscriber_id: str,
    event_id: str,
    *decisions: Decision,
    source: str = "gn",
    at_us: int = NOON_US,
    revision: str = "r1",
) -> Verdict:
    """A verdict on an event that occurred a second before `at_us`."""
    return Verdict(
        key=EventKey(subscriber_id, source, event_id),
        event_type="data_session",
        occurred_at_us=at_us - SECOND_US,
        decided_at_us=at_us,
        revision=revision,
        decisions=decisions,
    )
