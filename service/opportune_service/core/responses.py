"""What events tell besides what rules make of them: orders and replies that answer contacts, and services,
inquiries and complaints for the contact view.

All of it is found on the fast path, by the type of the event; what was answered is looked up in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opportune_rulebase.model import TOUCH_ATTRIBUTES, Campaign, Rulebase, TouchKind
from opportune_rulebase.policies import OPT_OUT_WORDS, Mode, OutcomeKind, Replies, reply_word

from opportune_service.core.admit import Attributes
from opportune_service.core.events import Event
from opportune_service.core.verdict import Touch


@dataclass(frozen=True, slots=True)
class Words:
    """A rulebase's `Replies`, all words that opt out among them. `channels` are all that there are,
    `automatic` those that need nobody to speak."""

    text: str
    channel: str | None
    on_channel: str
    accepted: frozenset[str]
    refused: frozenset[str]
    opt_out: frozenset[str]
    channels: frozenset[str]
    automatic: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What events of one type tell. `orders`: campaigns for which they may be a conversion. `words`: what
    replies mean, if these are replies. `touch`: what they are in the contact view."""

    orders: tuple[Campaign, ...] = ()
    words: Words | None = None
    touch: TouchKind | None = None

    def __bool__(self) -> bool:
        return bool(self.orders or self.words or self.touch)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a customer answered: the newest offer on `channel` is accepted or refused (None: neither), and
    nothing more is wanted on the channels `opted_out`."""

    channel: str
    kind: OutcomeKind | None
    opted_out: tuple[str, ...]


def told_by(rulebase: Rulebase, *, orders_alone: bool = False) -> dict[str, Told]:
    """What events tell, by type; without the types that tell nothing. `orders_alone`: of which campaigns
    they may be conversions, and no more."""
    replies = rulebase.policies.replies
    found = {
        name: Told(
            tuple(c for c in rulebase.campaigns.values() if c.conversion and c.conversion.event == name),
            _words(rulebase, replies) if replies and replies.event == name and not orders_alone else None,
            None if orders_alone else event_type.touch,
        )
        for name, event_type in rulebase.vocabulary.events.items()
    }
    return {name: told for name, told in found.items() if told}


def _words(rulebase: Rulebase, replies: Replies) -> Words:
    channels = rulebase.vocabulary.channels
    return Words(
        text=replies.text,
        channel=replies.channel,
        on_channel=replies.on_channel,
        accepted=replies.accepted,
        refused=replies.refused,
        opt_out=OPT_OUT_WORDS | replies.opt_out,
        channels=frozenset(channels),
        automatic=tuple(name for name, channel in channels.items() if channel.mode is Mode.AUTOMATIC),
    )


def reply_in(words: Words, attributes: Mapping[str, object]) -> Reply:
    """What a reply says. An opt-out that does not tell on which channel it came closes all automatic ones:
    it has to work, and closing one too many can be mended by asking."""
    text = attributes.get(words.text)
    said = reply_word(text) if isinstance(text, str) else ""
    where = attributes.get(words.channel) if words.channel else words.on_channel
    channel = where if isinstance(where, str) and where in words.channels else ""
    if said in words.opt_out:
        kind = OutcomeKind.REFUSED if said in words.refused and channel else None
        return Reply(channel, kind, (channel,) if channel else words.automatic)
    if channel and said in words.accepted:
        return Reply(channel, OutcomeKind.ACCEPTED, ())
    if channel and said in words.refused:
        return Reply(channel, OutcomeKind.REFUSED, ())
    return Reply(channel, None, ())


def touches_of(told: Told, source: str, event: Event, attributes: Attributes) -> tuple[Touch, ...]:
    """What the contact view keeps of an event."""
    if told.touch is None:
        return ()
    said = {name: attributes[name] for name in TOUCH_ATTRIBUTES if name in attributes}
    return (Touch(event.subscriber_id, source, event.id, event.occurred_at_us, told.touch, said),)
