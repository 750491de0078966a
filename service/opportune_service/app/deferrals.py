"""What was deferred, when it falls due: whom the pipeline decides again, and when.

What is deferred is in the ledger, and ends there in the transaction of the verdict that decides it again.
Here is only what of it is due soon, so that all of a subscriber comes into one moment: with whatever else
is due, or with the candidates of an event that comes just then. After a restart it is read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from opportune_rulebase.policies import Fate

from opportune_service.app.timers import Timers
from opportune_service.core.decide import deferral_of
from opportune_service.core.verdict import Decision, Deferral, Verdict

MOST = 2_000
"""Deferrals that are read at a time: some 10 ms, in which nothing is committed."""


class Deferrals:
    """What is due soon, by subscriber: all that is due before `until_us`; and of a subscriber of whom any
    of that was read, all that is due before `read_us`."""

    def __init__(self) -> None:
        self.until_us = 0
        self.read_us = 0
        self._of: dict[str, dict[str, Deferral]] = {}
        self._read: frozenset[str] = frozenset()
        self._at = Timers()

    def forget(self) -> None:
        """Know of none: they are to be read again."""
        self.until_us = self.read_us = 0
        self._of.clear()
        self._read = frozenset()
        self._at = Timers()

    def read(self, found: Sequence[Deferral], until_us: int) -> None:
        """Know these, and no others: all that the ledger has that is due before `until_us`, or, if they are
        MOST, the first of them."""
        self.forget()
        self.read_us = until_us
        by_subscriber: defaultdict[str, dict[str, Deferral]] = defaultdict(dict)
        for deferral in found:
            by_subscriber[deferral.subscriber_id][deferral.campaign] = deferral
        firsts = [min(each.due_us for each in own.values()) for own in by_subscriber.values()]
        # Others of the last instant may have been left out.
        self.until_us = max(firsts) if len(found) >= MOST else until_us
        self._of, self._read = dict(by_subscriber), frozenset(by_subscriber)
        for subscriber_id, first_us in zip(by_subscriber, firsts, strict=True):
            self._at.set(subscriber_id, first_us)

    def note(self, verdicts: Iterable[Verdict]) -> None:
        """What these, now durable, have deferred or ended."""
        for verdict in verdicts:
            for decision in verdict.decisions:
                if decision.fate is Fate.DEFER or decision.deferred_of:
                    self._note(verdict.key.subscriber_id, decision)

    def _note(self, subscriber_id: str, decision: Decision) -> None:
        own = self._of.setdefault(subscriber_id, {})
        known = own.get(decision.campaign)
        if known is not None and (decision.fate is Fate.DEFER or known.decision_id == decision.deferred_of):
            del own[decision.campaign]
        deferral = deferral_of(subscriber_id, decision)
        known_us = self.read_us if subscriber_id in self._read else self.until_us
        if deferral is not None and deferral.due_us < known_us:
            own[decision.campaign] = deferral
        self._look_at(subscriber_id)

    def take(self, subscriber_id: str, now_us: int) -> list[Deferral]:
        """Those of the subscriber that are due by now, for the caller to have decided; they are not given
        again."""
        own = self._of.get(subscriber_id)
        if own is None:
            return []
        due = [each for each in own.values() if each.due_us <= now_us]
        for each in due:
            del own[each.campaign]
        self._look_at(subscriber_id)
        return sorted(due, key=lambda each: each.campaign)

    def put_off(self, subscriber_id: str, due: Iterable[Deferral], until_us: int) -> None:
        """Those that were taken of the subscriber could not be decided: they are due again from then on."""
        own = self._of.setdefault(subscriber_id, {})
        for each in due:
            own.setdefault(each.campaign, each)
        self._look_at(subscriber_id)
        if own:
            self._at.set(subscriber_id, until_us)

    def _look_at(self, subscriber_id: str) -> None:
        own = self._of.get(subscriber_id)
        if own:
            self._at.set(subscriber_id, min(each.due_us for each in own.values()))
        else:
            self._of.pop(subscriber_id, None)
            self._at.set(subscriber_id, 0)

    def first(self, until_us: int) -> str | None:
        """Who is next, of those with something due up to then."""
        return self._at.first(until_us + 1)

    def next_us(self) -> int:
        """When the next is due; `NEVER_US` if none is known."""
        return self._at.next_us()
