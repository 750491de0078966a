"""Who is known by what, who may make which call, and how often."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune.v1 import options_pb2
from opportune_service.app.access import (
    Access,
    Bucket,
    KnownCaller,
    Proof,
    Register,
    Token,
    new_token,
    proof,
    token_hash,
)
from opportune_service.app.callers import ROLES, Caller
from opportune_service.app.errors import ForbiddenError, RateLimitedError, UnauthenticatedError

SECOND_US = 1_000_000
NOW_US = 1_000 * SECOND_US
COLLECTOR = frozenset({"ROLE_COLLECTOR"})


def known(name: str, *tokens: str, certificates: tuple[str, ...] = (), **more: int) -> KnownCaller:
    listed = tuple(Token(token_hash(each), NOW_US + SECOND_US) for each in tokens)
    return KnownCaller(Caller(name, COLLECTOR), certificates, listed, **more)


def test_the_roles_are_those_of_the_contract() -> None:
    named = [name for name, number in options_pb2.Role.items() if number]
    assert [f"ROLE_{role.upper()}" for role in ROLES] == named


def test_tokens_are_random_and_their_hash_is_plain_sha_256() -> None:
    made = {new_token() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(re.fullmatch(r"opp_[\w-]{43}", each) for each in made)  # 43 digits to base 64: 256 bits
    token = made.pop()
    assert token_hash(token) == sha256(token.encode()).hexdigest()


def test_a_caller_is_known_by_any_of_its_tokens_until_they_expire() -> None:
    old, new = new_token(), new_token()
    register = Register([known("crm", old, new), known("sms", new_token())])
    for token in (old, new):
        for form in (f"Bearer {token}", f"bearer  {token}"):
            shown = proof(form, ("ignored",))
            assert register.find(shown, NOW_US).caller.name == "crm"
            with pytest.raises(UnauthenticatedError, match="expired"):
                register.find(shown, NOW_US + SECOND_US)


@pytest.mark.parametrize("said", ["", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "opp_" + "a" * 43])
def test_what_is_no_bearer_token_is_told(said: str) -> None:
    with pytest.raises(UnauthenticatedError, match="Bearer TOKEN"):
        proof(said, ("crm",))


@pytest.mark.parametrize("token", ["secret", "opp_short", "opp_" + "a" * 44, "opp_" + "é" * 43])
def test_a_token_that_people_thought_of_is_never_taken(token: str) -> None:
    register = Register([known("crm", token)])
    with pytest.raises(UnauthenticatedError, match="opportune token"):
        register.find(proof(f"Bearer {token}", ()), NOW_US)


def test_an_error_quotes_no_token() -> None:
    token = new_token()
    with pytest.raises(UnauthenticatedError) as caught:
        Register([known("crm", new_token())]).find(proof(f"Bearer {token}", ()), NOW_US)
    assert token not in str(caught.value)
    assert token not in repr(proof(f"Bearer {token}", ()))


def test_a_certificate_is_known_by_any_of_its_names() -> None:
    register = Register(
        [known("crm", certificates=("crm.example", "spiffe://op/crm")), known("sms", certificates=("sms",))]
    )
    for names in (("crm.example",), ("other", "spiffe://op/crm"), ("crm.example", "spiffe://op/crm")):
        assert register.find(Proof(names=names), NOW_US).caller.name == "crm"
    for names, why in (((), "say who calls"), (("other",), "nobody"), (("crm.example", "sms"), "several")):
        with pytest.raises(UnauthenticatedError, match=why):
            register.find(Proof(names=names), NOW_US)


def test_a_call_is_for_those_with_one_of_its_roles() -> None:
    access = Access(Register([known("a", certificates=("a",))]))
    shown = Proof(names=("a",))
    assert access.admit(shown, COLLECTOR | {"ROLE_OPERATOR"}, NOW_US).caller.name == "a"
    with pytest.raises(ForbiddenError, match=r"a has no role .* one of: operator, viewer"):
        access.admit(shown, frozenset({"ROLE_OPERATOR", "ROLE_VIEWER"}), NOW_US)
    with pytest.raises(ForbiddenError):
        access.admit(shown, frozenset(), NOW_US)


def test_calls_beyond_the_rate_are_refused_with_the_time_to_wait() -> None:
    access = Access(Register([known("a", certificates=("a",), calls_per_second=4)]))
    shown = Proof(names=("a",))
    for _ in range(4):
        access.admit(shown, COLLECTOR, NOW_US)
    with pytest.raises(RateLimitedError, match="a may make 4 calls a second") as caught:
        access.admit(shown, COLLECTOR, NOW_US)
    assert caught.value.wait_us == SECOND_US // 4
    access.admit(shown, COLLECTOR, NOW_US + SECOND_US // 4)
    with pytest.raises(RateLimitedError):
        access.admit(shown, COLLECTOR, NOW_US + SECOND_US // 4)


def test_refused_calls_cost_nothing_and_others_are_not_held_up() -> None:
    access = Access(
        Register([known("a", certificates=("a",), calls_per_second=1), known("b", certificates=("b",))])
    )
    access.admit(Proof(names=("a",)), COLLECTOR, NOW_US)
    for _ in range(100):
        with pytest.raises(RateLimitedError):
            access.admit(Proof(names=("a",)), COLLECTOR, NOW_US)
        access.admit(Proof(names=("b",)), COLLECTOR, NOW_US)
    access.admit(Proof(names=("a",)), COLLECTOR, NOW_US + SECOND_US)


def test_a_new_list_is_no_way_around_the_rate() -> None:
    def listed(rate: int) -> Register:
        return Register([known("a", certificates=("a",), calls_per_second=rate, events_per_second=rate)])

    access = Access(listed(1))
    access.admit(Proof(names=("a",)), COLLECTOR, NOW_US).take_events(1, NOW_US)
    access.replace(listed(1))
    with pytest.raises(RateLimitedError):
        access.admit(Proof(names=("a",)), COLLECTOR, NOW_US)
    admitted = access.admit(Proof(names=("a",)), COLLECTOR, NOW_US + SECOND_US)
    admitted.take_events(1, NOW_US + SECOND_US)
    with pytest.raises(RateLimitedError, match="a may send 1 events"):
        admitted.take_events(1, NOW_US + SECOND_US)
    access.replace(listed(5))
    for _ in range(5):
        access.admit(Proof(names=("a",)), COLLECTOR, NOW_US + SECOND_US).take_events(1, NOW_US + SECOND_US)


def test_whoever_leaves_the_list_is_not_known_any_more() -> None:
    token = new_token()
    access = Access(Register([known("a", token), known("b", new_token())]))
    shown = proof(f"Bearer {token}", ())
    access.admit(shown, COLLECTOR, NOW_US)
    access.refused = "a fault"
    access.replace(Register([known("b", new_token())]))
    assert access.refused == ""
    with pytest.raises(UnauthenticatedError, match="not known"):
        access.admit(shown, COLLECTOR, NOW_US)


def test_a_large_batch_passes_and_the_next_one_waits_for_it() -> None:
    access = Access(Register([known("a", certificates=("a",), events_per_second=100)]))
    admitted = access.admit(Proof(names=("a",)), COLLECTOR, NOW_US)
    admitted.take_events(1_000, NOW_US)
    with pytest.raises(RateLimitedError) as caught:
        admitted.take_events(1, NOW_US)
    assert caught.value.wait_us == 9_010_000  # 900 too many, and one for the next
    assert admitted.hold_back_us(100, NOW_US) == 10_010_000
    unbound = Access(Register([known("b", certificates=("b",))])).admit(
        Proof(names=("b",)), COLLECTOR, NOW_US
    )
    unbound.take_events(10**9, NOW_US)
    assert unbound.hold_back_us(10**9, NOW_US) == 0


@given(
    per_second=st.integers(1, 1_000),
    steps=st.lists(st.tuples(st.integers(-3 * SECOND_US, 3 * SECOND_US), st.integers(1, 50)), max_size=60),
)
def test_no_more_passes_than_the_rate_allows_whatever_the_clock_does(
    per_second: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now_us, forward_us, passed, last = Bucket(per_second), NOW_US, 0, 0, 0
    for step_us, amount in steps:
        now_us += step_us
        forward_us += max(0, step_us)
        wait_us = bucket.wait_us(now_us)
        if wait_us == 0:
            bucket.take(amount)
            passed, last = passed + amount, amount
        else:
            assert bucket.wait_us(now_us) == wait_us
    # What was there at first, what came in since, and the last one, which may have gone beyond.
    assert passed - last <= per_second * (1 + forward_us / SECOND_US) + 1e-6


@given(per_second=st.integers(1, 1_000), amount=st.integers(1, 5_000))
def test_after_the_wait_it_passes(per_second: int, amount: int) -> None:
    bucket = Bucket(per_second)
    bucket.take(amount)
    wait_us = bucket.wait_us(NOW_US)
    assert bucket.wait_us(NOW_US + wait_us) <= 1, "but for rounding"
    assert bucket.wait_us(NOW_US + wait_us + 1) == 0


@pytest.mark.parametrize(
    ("branches", "serves", "may"),
    [
        (None, (), True),
        (None, ("a",), True),
        ({"a", "b"}, ("a",), True),
        ({"a", "b"}, ("b", "a"), True),
        ({"a"}, ("a", "b"), False),
        ({"a"}, (), False),
        (set(), (), False),
        (set(), ("a",), False),
    ],
)
def test_branches(branches: set[str] | None, serves: tuple[str, ...], may: bool) -> None:
    caller = Caller("li", branches=None if branches is None else frozenset(branches))
    assert caller.may_touch(serves) is may
    if may:
        caller.check_branches("gift", serves)
    else:
        with pytest.raises(ForbiddenError, match="gift"):
            caller.check_branches("gift", serves)
