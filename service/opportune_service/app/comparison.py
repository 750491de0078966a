"""Compare what two runs over the same events decided, as they go on: nothing is held but what waits.

Both runs are fed the same events up to the same instant, then `settle` says what differs. A candidate that
one run has decided for good and the other has deferred is held until the other has decided it too.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable

from opportune_service.app.last_words import CandidateKey, LastWords, Word
from opportune_service.app.rehearsal import Difference, Kind, Sample
from opportune_service.core.stable import digest
from opportune_service.core.verdict import Reason

MOST_SAMPLES = 1_000
"""In one report, whatever is asked for: with two decisions each about 1 MB. They are shared out evenly."""


class Comparison:
    """What the candidate decided (`after`) against the baseline (`before`)."""

    def __init__(self, before: LastWords, after: LastWords, sample_size: int) -> None:
        self._runs = (before, after)
        self._words: tuple[dict[CandidateKey, Word], dict[CandidateKey, Word]] = ({}, {})
        # Those that something was said of since the last look: of the others nothing can have changed.
        self._new: dict[CandidateKey, None] = {}
        self._sample_size = sample_size
        self._counts: defaultdict[str, Counter[Kind]] = defaultdict(Counter)
        self._samples: defaultdict[tuple[str, Kind], list[tuple[bytes, Sample]]] = defaultdict(list)

    def take(self, before: Iterable[Word], after: Iterable[Word]) -> None:
        """Last words of each run, up to the same instant."""
        for words, said in zip(self._words, (before, after), strict=True):
            for word in said:
                words[word.key] = word
                self._new[word.key] = None

    def settle(self) -> None:
        """Both runs have been fed all events up to an instant: what one has and the other does not even
        wait for is a difference."""
        before, after = self._words
        new, self._new = self._new, {}
        for key in new:
            one, other = before.get(key), after.get(key)
            if (one is None and self._runs[0].waits(key)) or (other is None and self._runs[1].waits(key)):
                continue
            before.pop(key, None)
            after.pop(key, None)
            self._compare(key, one, other)

    def _compare(self, key: CandidateKey, before: Word | None, after: Word | None) -> None:
        kind = _kind(before, after)
        if kind is None:
            return
        self._counts[key.campaign][kind] += 1
        samples = self._samples[key.campaign, kind]
        # Those with the lowest hashes: the same ones whatever the order, and not just the first.
        place = digest(b"opp-rehearsal", kind, key.subscriber_id, key.source, key.event_id, key.campaign)
        if len(samples) == self._sample_size and (not samples or place >= samples[-1][0]):
            return
        sample = Sample(kind, before.alone() if before else None, after.alone() if after else None)
        insort(samples, (place, sample), key=lambda each: each[0])
        del samples[self._sample_size :]

    def differences(self) -> tuple[tuple[Difference, ...], int]:
        """By campaign, without those that do not differ; and how many samples of each kind of one campaign
        there was room for."""
        sizes = [len(samples) for samples in self._samples.values()]
        room = self._sample_size
        while room > 1 and sum(min(size, room) for size in sizes) > MOST_SAMPLES:
            room -= 1
        found = [
            Difference(
                campaign,
                counts[Kind.WON],
                counts[Kind.LOST],
                counts[Kind.CHANGED],
                tuple(sample for kind in Kind for _, sample in self._samples[campaign, kind][:room]),
            )
            for campaign, counts in sorted(self._counts.items())
        ]
        return tuple(found), room


def _kind(before: Word | None, after: Word | None) -> Kind | None:
    one, other = (word.decision if word else None for word in (before, after))
    was = one is not None and one.reason is Reason.DECIDED
    is_ = other is not None and other.reason is Reason.DECIDED
    if is_ and not was:
        return Kind.WON
    if was and not is_:
        return Kind.LOST
    if was and one and other and (one.channel, one.content) != (other.channel, other.content):
        return Kind.CHANGED
    return None
