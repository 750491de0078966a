"""What would come of an event that did not happen, from present state. Changes nothing that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opportune_service.core.admit import Attributes
from opportune_service.core.chain import Peers
from opportune_service.core.events import Event
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState, decode_state, encode_state
from opportune_service.core.verdict import Moment

SUPPOSED = "supposed"
"""The source of events that did not happen."""


@dataclass(frozen=True, slots=True)
class Supposed:
    """The moment that would be: all candidates, the campaign asked for among them in any case. `matched`:
    whether it would be one by itself, that is, whether it is triggered and its `when` holds."""

    moment: Moment
    matched: bool


def suppose(
    revision: Revision,
    state: SubscriberState,
    campaign: str,
    event: Event,
    attributes: Attributes,
    now_us: int,
    peers: Peers,
) -> Supposed:
    """Take the event into a copy of the state, and see what would have to be decided at `now_us`.
    `revision`: the one in full force, with those beside it."""
    data = encode_state(state)
    freely = _moment(revision, data, event, attributes, now_us, peers, {})
    if freely is not None and any(each.campaign == campaign for each in freely.candidates):
        return Supposed(freely, matched=True)
    forced = _moment(revision, data, event, attributes, now_us, peers, {campaign: ""})
    if forced is None:
        raise AssertionError("a campaign that is asked for by name is always a candidate")
    return Supposed(forced, matched=False)


def _moment(
    revision: Revision,
    data: bytes,
    event: Event,
    attributes: Attributes,
    now_us: int,
    peers: Peers,
    prompts: Mapping[str, str],
) -> Moment | None:
    copy = decode_state(data)
    copy.seen = {}  # whatever its id, it is not one that happened
    observed = observe(
        revision,
        SUPPOSED,
        [(event, attributes)],
        {event.subscriber_id: copy},
        copy.position,
        now_us,
        prompts=prompts,
        peers=peers,
    )
    return observed.moments[0] if observed.moments else None
