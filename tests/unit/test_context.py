"""Imports and changes of consent: the newest wins, in whatever order they come."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.network import NetworkEngine
from opportune_service.core.context import apply_context, consent_key
from opportune_service.core.events import ContextRecord, ImportMode
from opportune_service.core.fold import read_metric
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState, decode_state, encode_state
from support.rulebases import DAY_US, NOON_US, SHANGHAI, make_rulebase

WHO = "8613800000001"
UPSERT, PATCH = ImportMode.UPSERT, ImportMode.PATCH
NOW_US = NOON_US
RULEBASE = make_rulebase(
    events={"sms_sent": {}},
    metrics={"sms_5d": {"of": ("sms_sent",), "days": 5}},
    imported={"behaviour.owl": 3 * DAY_US},
)
KEY = RULEBASE.metrics["sms_5d"].key


@pytest.fixture
def revision() -> Revision:
    return Revision(RULEBASE, NetworkEngine(RULEBASE), {KEY: NOW_US})


def told(
    *records: tuple[int, ImportMode, dict[str, Any]], revision: Revision | None = None
) -> SubscriberState:
    state = SubscriberState()
    for as_of_us, mode, attributes in records:
        apply_context(ContextRecord(WHO, as_of_us, mode, attributes), state, 1, revision=revision)
        state = decode_state(encode_state(state))
    return state


def sms(*words: bool | None) -> dict[str, Any]:
    scopes = ("channel/sms", "channel/mms")
    return {
        "consents": {scope: word for scope, word in zip(scopes, words, strict=False) if word is not None}
    }


def test_a_nightly_import_does_not_undo_this_afternoons_refusal() -> None:
    """The data were drawn at noon; they know of an older leave for SMS, and of one for MMS."""
    state = told((1, UPSERT, sms(True)), (5, PATCH, sms(False)), (3, UPSERT, sms(True, True)))
    assert state.context == sms(False, True)
    assert state.as_of_us[consent_key("channel/sms")] == 5
    assert state.as_of_us[consent_key("channel/mms")] == 3
    assert told((5, PATCH, sms(False)), (6, UPSERT, sms(True))).context == sms(True), "a newer one does"


def test_an_import_that_does_not_speak_of_consents_leaves_them() -> None:
    """Whoever brings tariffs and scores every night knows nothing of what customers said at the counter."""
    for mode in ImportMode:
        state = told((3, PATCH, sms(True)), (5, PATCH, sms(None, False)), (6, mode, {"age": 30}))
        assert state.context == {"age": 30, **sms(True, False)}
        state = told((5, PATCH, {"do_not_contact": True}), (6, mode, {"age": 30}))
        assert state.context == {"age": 30, "do_not_contact": True}
    late = told((6, UPSERT, {"age": 30}), (5, PATCH, {"do_not_contact": True, **sms(False)}))
    assert late.context == {"age": 30, "do_not_contact": True, **sms(False)}, (
        "an UPSERT does not outrun them"
    )
    assert told((5, PATCH, sms(None, False)), (6, UPSERT, sms(True))).context == sms(True, False)


def test_a_null_takes_consents_back() -> None:
    assert told((5, PATCH, sms(False)), (6, PATCH, {"consents": None})).context == {}
    assert told((6, PATCH, {"consents": None}), (5, PATCH, sms(False))).context == {}
    assert told((6, PATCH, {"consents": None}), (7, PATCH, sms(True))).context == sms(True)
    one = {"consents": {"channel/sms": None}}
    assert told((5, PATCH, sms(False, False)), (6, PATCH, one)).context == sms(None, False)
    assert told((6, PATCH, one), (5, PATCH, sms(False, False))).context == sms(None, False)


def test_at_a_tie_a_refusal_wins_in_whatever_order() -> None:
    for mode in ImportMode:
        assert told((5, mode, sms(False)), (5, mode, sms(True))).context == sms(False)
        assert told((5, mode, sms(True)), (5, mode, sms(False))).context == sms(False)
    assert told((5, PATCH, {"do_not_contact": True}), (5, UPSERT, {"age": 1})).context["do_not_contact"]


def test_older_records_say_that_they_changed_nothing() -> None:
    state = told((5, PATCH, {"age": 30, **sms(False)}))
    for attributes in ({"age": 29}, sms(True), {"age": 29, **sms(True)}):
        assert not apply_context(ContextRecord(WHO, 4, PATCH, attributes), state, 2)
    assert apply_context(ContextRecord(WHO, 4, PATCH, {"age": 29, **sms(True, True)}), state, 2)
    assert state.context == {"age": 30, **sms(False, True)}


def days(first: int, *figures: int) -> dict[str, Any]:
    return {"metric.sms_5d": {f"2026-11-{first + n:02}": figure for n, figure in enumerate(figures)}}


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(ImportMode),
        st.fixed_dictionaries(
            {},
            optional={
                "age": st.none() | st.integers(0, 9),
                "consents": st.none()
                | st.dictionaries(
                    st.sampled_from(("channel/sms", "channel/mms", "category/money")),
                    st.booleans(),
                    max_size=3,
                ),
                "do_not_contact": st.booleans(),
                "behaviour.owl": st.none() | st.booleans(),
                "metric.sms_5d": st.none()
                | st.integers(0, 9).map(lambda n: days(14, n, n)["metric.sms_5d"]),
            },
        ),
    ),
    max_size=8,
)


def visible(state: SubscriberState) -> Any:
    return state.context, state.seeds


@given(RECORDS, st.randoms(use_true_random=False))
def test_imports_converge_in_any_order(
    said: list[tuple[ImportMode, dict[str, Any]]], rng: random.Random
) -> None:
    records = [(as_of_us, *record) for as_of_us, record in enumerate(said, start=1)]
    revision = Revision(RULEBASE, NetworkEngine(RULEBASE), {KEY: NOW_US})
    shuffled = rng.sample(records, len(records))
    assert visible(told(*shuffled, revision=revision)) == visible(told(*records, revision=revision))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.sampled_from(ImportMode),
            st.dictionaries(st.sampled_from(("channel/sms", "channel/mms")), st.booleans(), max_size=2),
        ),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_consents_converge_also_at_ties(
    said: list[tuple[int, ImportMode, dict[str, bool]]], rng: random.Random
) -> None:
    records = [(as_of_us, mode, {"consents": consents}) for as_of_us, mode, consents in said]
    assert told(*rng.sample(records, len(records))).context == told(*records).context


def test_an_imported_behaviour_expires_and_outlives_imports_of_other_things(revision: Revision) -> None:
    state = told((NOW_US, PATCH, {"behaviour.owl": True}), (NOW_US + 1, UPSERT, {"brand": "x"}))
    assert revision.valid_context(state, NOW_US) == {"behaviour.owl": True, "brand": "x"}
    assert revision.valid_context(state, NOW_US + 3 * DAY_US - 1) == {"behaviour.owl": True, "brand": "x"}
    assert revision.valid_context(state, NOW_US + 3 * DAY_US) == {"brand": "x"}
    assert told((2, PATCH, {"behaviour.owl": True}), (3, PATCH, {"behaviour.owl": None})).context == {}


def test_a_seed_is_read_with_what_was_folded(revision: Revision) -> None:
    """Folding began on 20 November at noon; the data were drawn the day after."""
    metric = RULEBASE.metrics["sms_5d"]
    drawn_us = NOW_US + DAY_US
    state = told((drawn_us, UPSERT, days(16, 1, 2, 3, 4, 5)), revision=revision)
    assert state.context == {}, "seeds are no attributes"
    assert read_metric(metric, NOW_US, state, NOW_US + 1, SHANGHAI) == (15, True)
    assert read_metric(metric, NOW_US, state, drawn_us, SHANGHAI) == (14, True)
    again = told(
        (drawn_us, UPSERT, days(16, 1, 2, 3, 4, 5)),
        (drawn_us - 1, PATCH, days(16, 9, 9, 9, 9, 9)),
        (drawn_us + 1, UPSERT, {"age": 30}),
        revision=revision,
    )
    assert again.seeds == state.seeds, "an older seed undoes it, or an import that says nothing of it"
    taken_back = (drawn_us + 1, PATCH, {"metric.sms_5d": None})
    gone = told((drawn_us, PATCH, days(16, 1)), taken_back, revision=revision)
    assert read_metric(metric, NOW_US, gone, NOW_US + 1, SHANGHAI) == (0, False)


def test_a_seed_without_its_metric_is_passed_over() -> None:
    assert told((5, PATCH, days(16, 1))).seeds is None
