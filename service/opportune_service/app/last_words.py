"""What became of each candidate in the end: one that was deferred is decided again, perhaps several times,
and its last word counts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from opportune_service.core.decide import deferral_of
from opportune_service.core.observe import DEFERRAL
from opportune_service.core.verdict import Decision, Verdict


class CandidateKey(msgspec.Struct, frozen=True, order=True):
    """What made a campaign a candidate: the event, or the trigger, that it was first decided on. The same
    in every run over the same events. Of what was deferred before the run: the decision that did so."""

    subscriber_id: str
    source: str
    event_id: str
    campaign: str


class Word(msgspec.Struct, frozen=True):
    """A decision on a candidate with the verdict it is part of."""

    key: CandidateKey
    verdict: Verdict
    decision: Decision

    def alone(self) -> Verdict:
        """The verdict with this decision only."""
        return msgspec.structs.replace(self.verdict, decisions=(self.decision,))


class LastWords:
    """Follows the candidates of one run. What it holds are the candidates that wait to be decided again."""

    def __init__(self) -> None:
        # By who waits for what: at most one of a subscriber and campaign, as in the ledger.
        self._waiting: dict[tuple[str, str], Word] = {}
        self._keys: dict[CandidateKey, str] = {}

    def waits(self, key: CandidateKey) -> bool:
        """Whether this candidate is to be decided again."""
        return key in self._keys

    def take(self, verdict: Verdict) -> Iterator[Word]:
        """The candidates that a verdict has the last word on; and those whose place in the queue another of
        the same campaign took, with the word that had deferred them."""
        subscriber_id = verdict.key.subscriber_id
        for decision in verdict.decisions:
            place = (subscriber_id, decision.campaign)
            earlier = self._waiting.get(place)
            key = CandidateKey(subscriber_id, verdict.key.source, verdict.key.event_id, decision.campaign)
            if decision.deferred_of:
                if earlier is not None and earlier.decision.id == decision.deferred_of:
                    key, earlier = earlier.key, None
                    del self._waiting[place], self._keys[key]
                else:
                    key = CandidateKey(subscriber_id, DEFERRAL, decision.deferred_of, decision.campaign)
            word = Word(key, verdict, decision)
            if deferral_of(subscriber_id, decision) is None:
                yield word
                continue
            if earlier is not None:
                del self._keys[earlier.key]
                yield earlier
            self._waiting[place] = word
            self._keys[key] = decision.id

    def rest(self) -> list[Word]:
        """Those that still wait when time is over."""
        return list(self._waiting.values())
