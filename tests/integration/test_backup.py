"""A backup has all that was acknowledged before it, also one that a working service makes of itself, and
what is restored of it is a service that goes on from there."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from opportune_service.adapters.sql import SqlLedger, backup
from opportune_service.adapters.sql.backup import put_in_place, restored_copy
from opportune_service.app.backups import Backups, note_restored
from opportune_service.app.context import show_subscriber
from opportune_service.app.errors import InvalidRequestError, StoreUnavailableError
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.state import encode_state
from opportune_service.core.verdict import Verdict
from support.applications import in_loop, running
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import subscribers, traffic
from support.verdicts import shown, verdict

PEOPLE = subscribers(5)
EVENTS = list(traffic(seed=3, count=900))
BATCH = 10


def restore(file: Path, database: Path, *, complete: bool = True, now_us: int = NOON_US) -> Path:
    """As `opportune restore` does it."""
    part = restored_copy(file, database)
    with closing(SqlLedger.open(f"sqlite:///{part}")) as ledger:
        if not complete:
            note_restored(ledger, now_us)
    put_in_place(part, database, database.with_name("old.db"))
    return database


async def publish(app: Application, events: Sequence[Event]) -> tuple[int, list[Verdict]]:
    """How many were new, and all verdicts."""
    assert isinstance(app.clock, ManualClock)
    accepted, verdicts = 0, []
    for begin in range(0, len(events), BATCH):
        batch = events[begin : begin + BATCH]
        app.clock.value_us = max(app.clock.value_us, *(event.occurred_at_us for event in batch))
        receipt = await app.ingest.publish("gn", batch)
        accepted += receipt.accepted
        verdicts += receipt.verdicts
    return accepted, verdicts


async def counted(app: Application) -> dict[str, object]:
    """MMS of each subscriber within thirty days."""
    found = {}
    for who in PEOPLE:
        view = await show_subscriber(app.live, app.states, who, app.clock.now_us())
        found[who] = next(reading.value for reading in view.metrics if reading.name == "mms_30d")
    return found


async def states_of(app: Application) -> dict[str, bytes]:
    live, rebuilt = await live_and_rebuilt(app, PEOPLE)
    assert rebuilt == live
    return {who: encode_state(state) for who, state in live.items()}


def test_what_was_acknowledged_before_the_backup_of_a_working_service_is_in_it(tmp_path: Path) -> None:
    """The service goes on while the copy is made, and after it; then its disk is lost."""
    early, late = EVENTS[:600], EVENTS[600:]

    async def before() -> list[Verdict]:
        async with running(tmp_path / "a.db") as app:
            _, verdicts = await publish(app, early)
            copying = asyncio.create_task(Backups(app.ledger, app.clock, tmp_path / "b", 1).make())
            await publish(app, late)
            await copying
            return verdicts

    verdicts = in_loop(before)
    assert len(verdicts) > 100
    database = restore(tmp_path / "b", tmp_path / "c.db", complete=False)

    async def after() -> dict[str, object]:
        async with running(database) as app:
            again, told = await publish(app, early)
            assert again == 0, "acknowledged, and not there"
            assert not told
            for each in verdicts:
                assert await app.thread.run(app.ledger.verdict, each.key) == each
            await publish(app, late)
            return await counted(app)

    async def clean() -> dict[str, object]:
        async with running() as app:
            await publish(app, EVENTS)
            return await counted(app)

    assert in_loop(after) == in_loop(clean)


def test_what_is_restored_of_a_complete_backup_is_the_same_service(tmp_path: Path) -> None:
    async def body(database: Path, events: Sequence[Event]) -> tuple[list[Verdict], dict[str, bytes]]:
        async with running(database) as app:
            _, verdicts = await publish(app, events)
            return verdicts, await states_of(app)

    first, then = EVENTS[:450], EVENTS[450:]
    in_loop(body, tmp_path / "a.db", first)
    with closing(SqlLedger.open(f"sqlite:///{tmp_path}/a.db")) as ledger:
        ledger.back_up(tmp_path / "b", lambda: False)
    went_on = in_loop(body, tmp_path / "a.db", then)
    assert in_loop(body, restore(tmp_path / "b", tmp_path / "c.db"), then) == went_on
    assert len(went_on[0]) > 50


def test_control_a_plain_copy_of_the_file_lacks_what_was_acknowledged(tmp_path: Path) -> None:
    async def before() -> None:
        async with running(tmp_path / "a.db") as app:
            await publish(app, EVENTS)
            shutil.copy(tmp_path / "a.db", tmp_path / "c.db")

    async def after() -> int:
        async with running(tmp_path / "c.db") as app:
            return (await publish(app, EVENTS))[0]

    in_loop(before)
    assert in_loop(after) > 0


def test_a_backup_is_one_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "a.db") as app:
            await Backups(app.ledger, app.clock, tmp_path / "out" / "b", 1).make()

    (tmp_path / "out").mkdir()
    in_loop(body)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]
    assert (tmp_path / "out" / "b").stat().st_mode & 0o077 == 0


def test_a_backup_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("it is damaged")

    async def body() -> None:
        async with running(tmp_path / "a.db") as app:
            await Backups(app.ledger, app.clock, tmp_path / "b", 1).make()
            whole = (tmp_path / "b").read_bytes()
            with monkeypatch.context() as patch:
                patch.setattr(backup, "_check", damaged)
                with pytest.raises(StoreUnavailableError, match="was not written"):
                    await Backups(app.ledger, app.clock, tmp_path / "b", 1).make()
            assert (tmp_path / "b").read_bytes() == whole
            with pytest.raises(StoreUnavailableError, match="its directory exists"):
                await Backups(app.ledger, app.clock, tmp_path / "none" / "b", 1).make()
            assert (await publish(app, EVENTS[:BATCH]))[0] > 0, "the service goes on"

    in_loop(body)
    assert not list(tmp_path.glob(".*part*"))


def test_a_service_that_ends_gives_its_backup_up(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "a.db") as app:
            await publish(app, EVENTS[:100])
            making = asyncio.create_task(Backups(app.ledger, app.clock, tmp_path / "b", 1).make())
            await asyncio.sleep(0)
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making

    in_loop(body)
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".*part*"))


def test_backups_are_made_when_the_last_is_old_or_when_one_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "b"

    async def body() -> None:
        async with running(tmp_path / "a.db") as app:
            backups = Backups(app.ledger, app.clock, path, 3600)
            assert backups._due_in_seconds() == 0, "there is none"
            making = asyncio.create_task(backups.run())
            await until(path.exists)
            made = path.stat().st_ino
            os.utime(path, times=(NOON_US / 1e6, NOON_US / 1e6))
            assert backups._due_in_seconds() == 3600
            backups.ask()
            await until(lambda: path.stat().st_ino != made)
            os.utime(path, times=(NOON_US / 1e6 - 4000, NOON_US / 1e6 - 4000))
            assert backups._due_in_seconds() == 0, "it is old"
            os.utime(path, times=(NOON_US / 1e6 + 10, NOON_US / 1e6 + 10))
            assert backups._due_in_seconds() == 0, "it is from the future"
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    in_loop(body)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - turns of the loop
            await asyncio.sleep(0)


# -- restoring ----------------------------------------------------------------------------------------


def ledger_of(path: Path, event_id: str = "e1") -> SqlLedger:
    ledger = SqlLedger.open(f"sqlite:///{path}")
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(PEOPLE[0], event_id, shown(f"d-{event_id}"))])
    return ledger


def backed_up(directory: Path) -> Path:
    with closing(ledger_of(directory / "a.db")) as ledger:
        ledger.back_up(directory / "b", lambda: False)
    return directory / "b"


def test_a_ledger_that_is_open_is_not_replaced(tmp_path: Path) -> None:
    file = backed_up(tmp_path)
    with (
        closing(ledger_of(tmp_path / "c.db", "e2")),
        pytest.raises(StoreUnavailableError, match="stop the"),
    ):
        restored_copy(file, tmp_path / "c.db")


def test_what_was_there_is_kept_with_all_that_is_beside_it(tmp_path: Path) -> None:
    """A write-ahead log that was left behind must not get into what is restored."""
    file = backed_up(tmp_path)
    with closing(ledger_of(tmp_path / "c.db", "e2")):
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"c.db{suffix}", tmp_path / f"crashed.db{suffix}")
    restore(file, tmp_path / "crashed.db")
    for name, event_id in (("crashed.db", "e1"), ("old.db", "e2")):
        with closing(SqlLedger.open(f"sqlite:///{tmp_path / name}")) as ledger:
            assert ledger.verdict_of(f"d-{event_id}") is not None


def test_what_is_no_whole_backup_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file = backed_up(tmp_path)
    whole = file.read_bytes()
    database = tmp_path / "c.db"
    database.write_bytes(b"damaged: that is why")
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (a)")
    (tmp_path / "torn").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no database at all" * 100)
    flipped = bytearray(whole)
    flipped[4096:20480] = bytes(16384)
    (tmp_path / "flipped").write_bytes(flipped)
    for name in ("other", "torn", "text", "flipped", "missing"):
        with pytest.raises(InvalidRequestError):
            restored_copy(tmp_path / name, database)
        assert database.read_bytes() == b"damaged: that is why"
        assert not list(tmp_path.glob(".*restored*"))
    restore(file, database)
    with closing(SqlLedger.open(f"sqlite:///{database}")) as ledger:
        assert ledger.verdict_of("d-e1") is not None


def test_cursors_that_readers_hold_are_never_given_again(tmp_path: Path) -> None:
    file = backed_up(tmp_path)
    with closing(ledger_of(tmp_path / "a.db", "e2")) as ledger:
        held = ledger.contact_changes(0, 10, ())[-1].cursor
    with closing(ledger_of(restore(file, tmp_path / "c.db"), "e3")) as ledger:
        (new,) = ledger.contact_changes(held, 10, ())
        assert new.contact.decision_id == "d-e3"


@pytest.mark.parametrize("complete", [False, True])
def test_nothing_is_covered_from_before_unless_nothing_was_lost(tmp_path: Path, complete: bool) -> None:
    async def coverage(database: Path, now_us: int) -> set[int]:
        async with running(database, now_us=now_us) as app:
            return set(app.live.current.coverage.values())

    minute_us = 60_000_000
    (before_us,) = in_loop(coverage, tmp_path / "a.db", NOON_US)
    with closing(SqlLedger.open(f"sqlite:///{tmp_path}/a.db")) as ledger:
        ledger.back_up(tmp_path / "b", lambda: False)
    now_us = NOON_US + 10 * minute_us
    database = restore(tmp_path / "b", tmp_path / "c.db", complete=complete, now_us=now_us)
    (after_us,) = in_loop(coverage, database, now_us + minute_us)
    assert after_us == before_us if complete else after_us > now_us
