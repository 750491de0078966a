"""The difference of two runs as they go on, against comparing all that both came to at the end."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.policies import Fate, Mode
from opportune_service.app.comparison import Comparison
from opportune_service.app.last_words import LastWords, Word
from opportune_service.app.rehearsal import Kind
from opportune_service.core.verdict import Decision, EventKey, Reason, Trigger, Verdict

CAMPAIGNS = ("a", "b")
TICKS = 6


def decision(id_: str, campaign: str, end: str, deferred_of: str = "") -> Decision:
    """`end`: the channel of what is decided, "no", or "later"."""
    decided, deferred = end not in ("no", "later"), end == "later"
    return Decision(
        id=id_,
        campaign=campaign,
        product="",
        category="",
        mode=Mode.AUTOMATIC,
        reason=Reason.DECIDED if decided else Reason.CAPPED,
        fate=Fate.DEFER if deferred else None if decided else Fate.DROP,
        channel=end if decided else "",
        content="",
        expires_at_us=0,
        priority=0,
        score=0.0,
        shown=False,
        prompt_of="",
        held={},
        checks=(),
        deferred_of=deferred_of,
        trigger=Trigger("e", 0) if deferred else None,
    )


ends = st.sampled_from(["sms", "push", "no", "later"])
# (event, tick) -> campaign -> how it ends at first, and at each time that it is decided again.
candidates = st.dictionaries(
    st.tuples(st.sampled_from(["p", "q"]), st.integers(0, 5)),
    st.dictionaries(st.sampled_from(CAMPAIGNS), st.lists(ends, min_size=1, max_size=3), max_size=2),
    max_size=8,
)


def run(
    made: dict[tuple[str, int], dict[str, list[str]]],
) -> tuple[list[list[Verdict]], dict[tuple[str, str, str], str]]:
    """The verdicts of each tick, and the naive answer: how each candidate ended. Of a subscriber and
    campaign one waits at most; a newer one takes its place, and it ends as it was."""
    ticks: list[list[Verdict]] = [[] for _ in range(TICKS + 4)]
    ended: dict[tuple[str, str, str], str] = {}
    waiting: dict[tuple[str, str], tuple[tuple[str, str, str], str, list[str]]] = {}
    for tick, verdicts in enumerate(ticks):
        for (who, at), own in sorted(made.items()):
            if at != tick or not own:
                continue
            event = f"{who}{at}"
            decisions = []
            for campaign, ends_ in sorted(own.items()):
                root = (who, event, campaign)
                ended[root] = ends_[0]
                decisions.append(decision(f"{event}{campaign}0", campaign, ends_[0]))
                if ends_[0] == "later":
                    waiting[who, campaign] = (root, f"{event}{campaign}0", ends_[1:])
            verdicts.append(_verdict(who, "s", event, decisions))
        for place, (root, id_, rest) in sorted(waiting.items()):
            who, campaign = place
            if not rest or tick % 2 == 0:
                continue
            ended[root] = rest[0]
            again = decision(f"{id_}+", campaign, rest[0], id_)
            verdicts.append(_verdict(who, "deferral", id_, [again]))
            if rest[0] == "later":
                waiting[place] = (root, again.id, rest[1:])
            else:
                del waiting[place]
    return ticks, ended


def _verdict(who: str, source: str, event: str, decisions: Sequence[Decision]) -> Verdict:
    return Verdict(EventKey(who, source, event), "e", 0, 0, "r", tuple(decisions))


@given(candidates, candidates, st.sets(st.integers(0, TICKS + 3)))
def test_what_streams_is_what_a_comparison_at_the_end_finds(
    before: dict[tuple[str, int], dict[str, list[str]]],
    after: dict[tuple[str, int], dict[str, list[str]]],
    cuts: set[int],
) -> None:
    """Wherever ticks are put together."""
    words = (LastWords(), LastWords())
    comparison = Comparison(*words, sample_size=1_000)
    runs = [run(before), run(after)]
    pending: list[list[Word]] = [[], []]
    for tick in range(TICKS + 4):
        for own, (ticks, _), last in zip(pending, runs, words, strict=True):
            own.extend(word for verdict in ticks[tick] for word in last.take(verdict))
        if tick not in cuts:
            comparison.take(*pending)
            comparison.settle()
            pending = [[], []]
    for own, last in zip(pending, words, strict=True):
        own.extend(last.rest())
    comparison.take(*pending)
    comparison.settle()
    found: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in Kind}
    for difference in comparison.differences()[0]:
        counts = {Kind.WON: difference.won, Kind.LOST: difference.lost, Kind.CHANGED: difference.changed}
        shown = [sample.kind for sample in difference.samples]
        assert counts == {kind: shown.count(kind) for kind in Kind}
        for sample in difference.samples:
            side = sample.after or sample.before
            assert side is not None
            found[sample.kind].add((side.key.subscriber_id, difference.campaign))
    expected: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in Kind}
    one, other = (ended for _, ended in runs)
    for root in one.keys() | other.keys():
        was, is_ = one.get(root, "no"), other.get(root, "no")
        place = (root[0], root[2])
        decided = [end in ("sms", "push") for end in (was, is_)]
        if decided == [False, True]:
            expected[Kind.WON].add(place)
        elif decided == [True, False]:
            expected[Kind.LOST].add(place)
        elif decided == [True, True] and was != is_:
            expected[Kind.CHANGED].add(place)
    assert found == expected
