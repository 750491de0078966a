"""What every `Ledger` must do for the processes that share it: members, generations, checkpoints."""

from __future__ import annotations

import pytest
from opportune_service.app.errors import ExpelledError, SupersededError
from opportune_service.app.ports import Ledger


def join(ledger: Ledger, position: int = 0) -> int:
    with ledger.transaction() as tx:
        return tx.join(position)


def leave(ledger: Ledger, member: int) -> None:
    with ledger.transaction() as tx:
        tx.leave(member)


def expel(ledger: Ledger, member: int) -> None:
    with ledger.transaction() as tx:
        tx.expel(member)


def guard(ledger: Ledger, member: int, generation: int = 0) -> None:
    with ledger.transaction() as tx:
        tx.guard(member, generation)


def save_checkpoint(ledger: Ledger, position: int, member: int = 0) -> None:
    with ledger.transaction() as tx:
        tx.save_checkpoint(position, member)


def test_members_are_there_until_they_leave(ledger: Ledger) -> None:
    assert list(ledger.members()) == []
    first, second = join(ledger, 7), join(ledger, 9)
    assert [(each.number, each.checkpoint, each.expelled) for each in ledger.members()] == [
        (first, 7, False),
        (second, 9, False),
    ]
    leave(ledger, first)
    assert [each.number for each in ledger.members()] == [second]


def test_a_number_is_never_given_again(ledger: Ledger) -> None:
    numbers = []
    for _ in range(3):
        numbers.append(join(ledger))
        leave(ledger, numbers[-1])
    assert numbers == sorted(set(numbers))


def test_whoever_says_that_it_lives_is_not_silent(ledger: Ledger) -> None:
    member = join(ledger)
    silent_us = [ledger.members()[0].silent_us]
    with ledger.transaction() as tx:
        tx.beat(member)
    silent_us.append(ledger.members()[0].silent_us)
    assert all(0 <= each < 60_000_000 for each in silent_us)


def test_whoever_is_expelled_commits_nothing_more_and_stays_until_taken_over(ledger: Ledger) -> None:
    member, other = join(ledger, 7), join(ledger, 9)
    guard(ledger, member)
    expel(ledger, member)
    with pytest.raises(ExpelledError):
        guard(ledger, member)
    guard(ledger, other)
    assert [(each.number, each.checkpoint, each.expelled) for each in ledger.members()] == [
        (member, 7, True),
        (other, 9, False),
    ]
    leave(ledger, member)
    with pytest.raises(ExpelledError):
        guard(ledger, member)


def test_what_a_guard_refuses_is_undone(ledger: Ledger) -> None:
    member = join(ledger)
    with pytest.raises(SupersededError), ledger.transaction() as tx:  # noqa: PT012 - all is to be undone
        tx.save_checkpoint(5, member)
        tx.guard(member, 3)
    assert ledger.checkpoint() == 0


def test_generations_follow_one_another(ledger: Ledger) -> None:
    member = join(ledger)
    assert ledger.generation() == 0
    guard(ledger, member, 0)
    with ledger.transaction() as tx:
        assert tx.advance() == 1
        tx.guard(member, 1)
    assert ledger.generation() == 1
    guard(ledger, member, 1)
    with pytest.raises(SupersededError):
        guard(ledger, member, 0)
    with pytest.raises(ZeroDivisionError), ledger.transaction() as tx:  # noqa: PT012 - is to be undone
        tx.advance()
        1 / 0  # noqa: B018
    assert ledger.generation() == 1


def test_replay_begins_where_the_member_that_is_furthest_behind_does(ledger: Ledger) -> None:
    save_checkpoint(ledger, 3)
    assert ledger.checkpoint() == 3
    first, second = join(ledger, 10), join(ledger, 20)
    assert ledger.checkpoint() == 10
    save_checkpoint(ledger, 30, first)
    assert ledger.checkpoint() == 20
    expel(ledger, second)
    assert ledger.checkpoint() == 20, "nobody has taken over what it left"
    leave(ledger, second)
    assert ledger.checkpoint() == 30
    leave(ledger, first)
    assert ledger.checkpoint() == 30, "that of the last one is the ledger's"


def test_the_store_of_live_state_is_kept(ledger: Ledger) -> None:
    assert ledger.live_state_id() == ""
    for id_ in ("first", "second"):
        with ledger.transaction() as tx:
            tx.save_live_state_id(id_)
        assert ledger.live_state_id() == id_


def test_snapshots_never_go_back(ledger: Ledger) -> None:
    for position, body in ((5, b"five"), (4, b"four"), (6, b"six"), (6, b"six again")):
        with ledger.transaction() as tx:
            tx.save_states([("8613800000001", position, body)])
    assert list(ledger.load_states()) == [("8613800000001", 6, b"six again")]
