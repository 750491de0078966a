"""What it means when a key of an element grows or shrinks, for whom the rulebase reaches.

Each entry: the kind of element and the key; what more of it does, what less of it does. Keys that are not
here have no direction that can be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple


class Effect(NamedTuple):
    """`more`: of a number that is higher, names that are added, a condition that lets in more.

    `absent`: the number that stands where nothing is said; of names 0 if that is none, infinity if that is
    any. NaN: it cannot be compared.
    """

    more: str
    less: str
    absent: float = math.nan

    def but(self, absent: float) -> Effect:
        """The same where nothing said stands for a number."""
        return self._replace(absent=absent)

    def reversed(self) -> Effect:
        """The contrary."""
        return Effect(self.less, self.more, self.absent)


_REACHES = Effect("reaches more", "reaches fewer")
_ALLOWS = Effect("allows more contacts", "allows fewer contacts")
_TAKES = Effect("takes in more events", "takes in fewer events")
_OFTEN = Effect("happens more often", "happens less often")
_BACK = Effect("looks back further", "looks back less far")
_NONE, _ANY = 0.0, math.inf

NUMBERS: Final[Mapping[tuple[str, str], Effect]] = {
    ("campaign", "priority"): Effect("goes before more others", "gives way to more others"),
    ("campaign", "value"): Effect("ranks higher among its equals", "ranks lower among its equals"),
    ("campaign", "fresh_for"): _REACHES,
    ("campaign", "allow_unknown"): _REACHES.but(_NONE),
    ("campaign", "expires_after"): Effect("may wait longer", "may wait less long"),
    ("campaign", "open_for"): Effect("its offer stands longer", "its offer stands less long"),
    ("campaign", "control_group"): Effect(
        "holds more back to compare", "holds fewer back to compare", _NONE
    ),
    ("campaign", "valid.from"): Effect("begins later", "begins earlier", -math.inf),
    ("campaign", "valid.to"): Effect("ends later", "ends earlier", _ANY),
    ("campaign", "quota.per_day"): _ALLOWS.but(_ANY),
    ("campaign", "quota.total"): _ALLOWS.but(_ANY),
    ("campaign", "quota.budget"): _ALLOWS.but(_ANY),
    ("campaign", "conversion.within"): Effect("counts more as success", "counts less as success"),
    ("metric", "days"): _BACK,
    ("metric", "last"): _BACK,
    ("pattern", "at_least"): _OFTEN.reversed(),
    ("pattern", "within"): _OFTEN,
    ("pattern", "for"): _OFTEN.reversed(),
    ("pattern", "rises_to"): _OFTEN.reversed(),
    ("pattern", "falls_to"): _OFTEN,
    ("fact", "for"): Effect("is remembered longer", "is remembered less long"),
    ("behaviour", "imported.valid_for"): Effect("is known longer", "is known less long"),
    ("cap", "limit"): _ALLOWS,
    ("cap", "period.rolling"): _ALLOWS.reversed(),
    ("cap", "headroom.last"): Effect("keeps more for the important", "keeps less for the important", _NONE),
    ("cap", "headroom.priority"): Effect("keeps it for fewer campaigns", "keeps it for more campaigns"),
    ("cool-down", "for"): Effect("stays away longer", "stays away less long"),
    ("channel", "max_segments"): Effect("takes longer texts", "takes shorter texts", _ANY),
    ("channel", "per_second"): Effect("sends faster", "sends more slowly", _ANY),
    ("channel", "per_day"): Effect("carries more", "carries less", _ANY),
    ("channel", "cost"): Effect("costs more", "costs less", _NONE),
    ("source", "max_lateness"): Effect("takes in later events", "takes in no events so late"),
    ("policy", "max_automatic"): Effect("decides more for an event", "decides less for an event"),
    ("policy", "max_prompts"): Effect("prompts more at a visit", "prompts less at a visit"),
    ("policy", "settle"): Effect("waits longer for better ones", "waits less long for better ones", _NONE),
    ("policy", "jitter"): Effect("spreads over a longer time", "spreads over a shorter time"),
    ("policy", "share"): Effect("holds more back to compare", "holds fewer back to compare", _NONE),
    ("policy", "complaint_rate"): Effect("pauses campaigns later", "pauses campaigns sooner", _ANY),
    ("policy", "per_hour"): Effect("pauses campaigns later", "pauses campaigns sooner", _ANY),
}

CONDITIONS: Final[Mapping[tuple[str, str], Effect]] = {
    ("campaign", "when"): _REACHES,
    ("campaign", "target"): _REACHES,
    ("campaign", "conversion.when"): Effect("counts more as success", "counts less as success"),
    ("behaviour", "when"): Effect("holds for more", "holds for fewer"),
    ("scene", "when"): Effect("holds for more", "holds for fewer"),
    ("fact", "when"): Effect("is remembered of more", "is remembered of fewer"),
    ("suppression", "when"): Effect("leaves more alone", "leaves fewer alone"),
    ("metric", "where"): _TAKES,
    ("pattern", "where"): _TAKES,
    ("channel", "needs"): Effect("suits more handsets", "suits fewer handsets"),
    ("product", "needs"): Effect("suits more handsets", "suits fewer handsets"),
}

NAMES: Final[Mapping[tuple[str, str], Effect]] = {
    ("campaign", "on"): _REACHES.but(_NONE),
    ("campaign", "channels"): _REACHES.but(_NONE),
    ("campaign", "branches"): _REACHES.but(_ANY),
    ("campaign", "exempt"): _REACHES.but(_NONE),
    ("metric", "count"): _TAKES,
    ("metric", "of"): _TAKES,
    ("pattern", "count"): _TAKES,
    ("pattern", "of"): _TAKES,
    ("fact", "on"): Effect("is remembered of more", "is remembered of fewer"),
    ("product", "requires"): _REACHES.reversed().but(_NONE),
    ("product", "excludes"): _REACHES.reversed().but(_NONE),
    ("quiet hours", "days"): Effect("forbids more", "forbids less", _ANY),
    ("cool-down", "after"): Effect("stays away more often", "stays away less often"),
    ("policy", "normal_status"): _REACHES,
    ("policy", "accepted"): Effect("takes more for a yes", "takes less for a yes", _NONE),
    ("policy", "refused"): Effect("takes more for a no", "takes less for a no", _NONE),
    ("policy", "opt_out"): Effect("takes more for an opt-out", "takes less for an opt-out", _NONE),
    **{
        (kind, f"applies_to.{key}"): Effect(f"{verb} more contacts", f"{verb} fewer contacts", _ANY)
        for kind, verb in (("cap", "binds"), ("quiet hours", "binds"), ("suppression", "binds"))
        for key in ("campaigns", "products", "categories", "channels", "modes")
    },
    **{
        ("cap", f"counts.{key}"): Effect("counts more contacts", "counts fewer contacts")
        for key in ("campaigns", "products", "categories", "channels", "modes")
    },
}

PRESENCE: Final[Mapping[str, Effect]] = {
    # Of an element as a whole: what it does that it is there, and that it is not there any more.
    "cap": _ALLOWS.reversed(),
    "quiet hours": Effect("forbids more of the day", "forbids less of the day"),
    "cool-down": Effect("stays away more often", "stays away less often"),
    "suppression": Effect("leaves more alone", "leaves fewer alone"),
    "consent": _REACHES.reversed(),
}
