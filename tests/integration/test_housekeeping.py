"""Housekeeping of a whole service: what is archived is what is deleted, whatever happens in between."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opportune_rulebase.policies import OutcomeKind
from opportune_service.adapters.files.archive import FORMAT, FileArchive, archived
from opportune_service.adapters.files.event_files import read_events
from opportune_service.adapters.files.faults import Faults
from opportune_service.app import housekeeping as housekeeping_module
from opportune_service.app.contacts import export_contacts
from opportune_service.app.errors import NoRulebaseError, PrunedError, StoreUnavailableError
from opportune_service.app.housekeeping import Housekeeping, step_of
from opportune_service.app.log import events_of
from opportune_service.app.ports import Archive
from opportune_service.app.records import Aged, Kept, LogKind, Place
from opportune_service.app.retention import Keep, horizons
from opportune_service.app.revisions import LiveRevision
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.verdict import EventKey, Reason, Verdict
from support.applications import in_loop, running
from support.flaky import Flaky
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import mms, subscribers
from support.snapshots import snapshot

DAY_US = 86_400_000_000
PEOPLE = subscribers(5)
KEEP = Keep(log_days=1, history_days=1, audit_days=1)
NEEDED_DAYS = 93
"""Of the small rulebase: a refusal keeps a product away for 90 days. And some for clocks and zones."""
DAYS = 5
LATER_US = NOON_US + 200 * DAY_US
"""By then all is old."""


def keeper(app: Application, archive: Archive | None = None, keep: Keep = KEEP) -> Housekeeping:
    return Housekeeping(app.live, app.ledger, app.thread, app.clock, keep, archive)


def refuse(app: Application, decision_id: str) -> None:
    """In the ledger's thread."""
    with app.ledger.transaction() as tx:
        tx.record_outcome(decision_id, OutcomeKind.REFUSED, app.clock.now_us())


async def lived(app: Application) -> None:
    """Some days of traffic with decisions, answers, prompts and rejected events, ended and snapshotted."""
    assert isinstance(app.clock, ManualClock)
    numbers = count()
    for _ in range(DAYS):
        for who in PEOPLE:
            now_us = app.clock.now_us()
            events = [mms(who, f"e{next(numbers)}", now_us - n, size_kb=200) for n in range(4)]
            bad = msgspec.structs.replace(events[0], id=f"e{next(numbers)}", type="no_such_type")
            receipt = await app.ingest.publish("gn", [*events, bad])
            for verdict in receipt.verdicts:
                for decision in verdict.decisions:
                    if decision.reason is Reason.DECIDED:
                        await app.thread.run(refuse, app, decision.id)
        app.clock.value_us += DAY_US
    await app.deliveries.expire()
    await snapshot(app)


async def aged(app: Application, kind: Kept, before_us: int = LATER_US) -> list[Aged]:
    found: dict[tuple[object, ...], Aged] = {}
    place: Place | None = ()
    while place is not None:
        page, place = await app.thread.run(app.ledger.aged, kind, before_us, place, step_of(kind))
        found |= {each.key: each for each in page}
    return list(found.values())


async def everything(app: Application) -> dict[Kept, list[Aged]]:
    return {kind: await aged(app, kind) for kind in Kept}


def plain(rows: Sequence[Aged]) -> list[Any]:
    """As JSON has them."""
    return msgspec.json.decode(msgspec.json.encode([archived(each) for each in rows]))  # type: ignore[no-any-return]


def in_archive(directory: Path) -> dict[str, list[Any]]:
    """What a reader finds, who checks every file against its manifest: kind -> lines, by time."""
    found: dict[str, list[Any]] = {}
    for path in sorted(directory.glob("*.json")):
        manifest = json.loads(path.read_text())
        data = (directory / manifest["file"]).read_bytes()
        lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        assert manifest["format"] == FORMAT
        assert manifest["bytes"] == len(data)
        assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
        assert manifest["lines"] == len(lines)
        assert {line["at_us"] // DAY_US for line in lines} == {_day(manifest["day"])}
        assert manifest["rows"] == {
            table: sum(len(line["rows"].get(table, ())) for line in lines) for table in manifest["rows"]
        }
        found.setdefault(manifest["kind"], []).extend(lines)
    return found


def _day(text: str) -> int:
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """In whatever order."""
    return sorted(map(msgspec.json.encode, one)) == sorted(map(msgspec.json.encode, other))


# -- what goes, and when ------------------------------------------------------------------------------


def test_all_that_is_old_goes_and_the_service_goes_on() -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = {kind: len(rows) for kind, rows in (await everything(app)).items()}
            pruned = await keeper(app).turn(LATER_US)
            assert pruned == {kind: number for kind, number in before.items() if number}
            assert pruned.keys() == set(Kept) - {Kept.CONTACTS, Kept.TOUCHES, Kept.AUDIT}
            assert not any((await everything(app)).values())
            assert await app.thread.run(lambda: list(app.ledger.read_log(0))) == []
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert rebuilt == live
            again = await app.ingest.publish("gn", [mms(PEOPLE[0], "e0", app.clock.now_us())])
            assert again.accepted == 1

    in_loop(body)


def test_what_the_rulebase_needs_is_kept_whatever_the_settings(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            housekeeping = keeper(app)
            first_day = NOON_US // DAY_US * DAY_US
            for days in (NEEDED_DAYS, NEEDED_DAYS + 1, NEEDED_DAYS + 2):
                pruned = await housekeeping.turn(first_day + days * DAY_US)
                decided = {row.at_us // DAY_US for row in await aged(app, Kept.HISTORY)}
                gone = max(0, days - NEEDED_DAYS)
                assert len(decided) == DAYS - gone
                assert (Kept.HISTORY in pruned) == (gone > 0)

    with caplog.at_level(logging.WARNING):
        in_loop(body)
    said = [record.getMessage() for record in caplog.records if "looks back further" in record.message]
    assert said == [
        "keep_log_days is 1, but the rulebase looks back further: 33 days are kept",
        "keep_history_days is 1, but the rulebase looks back further: 93 days are kept",
    ]


def test_settings_that_ask_for_more_are_heeded() -> None:
    async def body() -> None:
        async with running() as app:
            until = horizons(app.live.current, Keep(50, 300, 1000), NOON_US)
            today = NOON_US // DAY_US
            days = {kind: today - horizon.before_us // DAY_US for kind, horizon in until.items()}
            assert days[Kept.LOG] == days[Kept.QUARANTINE] == days[Kept.USAGE] == 50
            assert days[Kept.HISTORY] == days[Kept.CONTACTS] == days[Kept.TOUCHES] == 300
            assert days[Kept.AUDIT] == 1000

    in_loop(body)


def test_without_a_rulebase_nothing_goes() -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = await everything(app)
            housekeeping = Housekeeping(LiveRevision(), app.ledger, app.thread, app.clock, KEEP)
            with pytest.raises(NoRulebaseError):
                await housekeeping.turn(LATER_US)
            assert await everything(app) == before

    in_loop(body)


def test_a_clock_that_jumps_ahead_and_back_makes_nothing_old() -> None:
    """The time of the look before counts: an hour ago, the clock must have said so as well."""

    async def body() -> None:
        async with running() as app:
            assert isinstance(app.clock, ManualClock)
            await lived(app)
            told: list[int] = []
            housekeeping = keeper(app)

            async def turn(now_us: int) -> dict[Kept, int]:
                told.append(now_us)
                return {}

            housekeeping.turn = turn  # type: ignore[method-assign]
            looking = asyncio.create_task(housekeeping.run(0))
            now_us = app.clock.value_us
            await until(lambda: len(told) > 2)
            app.clock.value_us = LATER_US
            seen = len(told)
            await until(lambda: len(told) > seen + 1)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            assert told[seen] == now_us
            assert told[seen + 1] == LATER_US

    in_loop(body)


def test_what_is_old_goes_many_at_a_time(tmp_path: Path) -> None:
    class Counting:
        def __init__(self, ledger: Any) -> None:
            self._ledger, self.transactions = ledger, 0

        def __getattr__(self, name: str) -> Any:
            self.transactions += name == "transaction"
            return getattr(self._ledger, name)

    async def body(archive: Archive | None) -> None:
        async with running() as app:
            await lived(app)
            rows = await everything(app)
            # With an archive a piece is of one day.
            most = sum(-(-len(found) // step_of(kind)) + DAYS + 1 for kind, found in rows.items())
            ledger = Counting(app.ledger)
            await Housekeeping(app.live, ledger, app.thread, app.clock, KEEP, archive).turn(LATER_US)
            assert 0 < ledger.transactions <= most < sum(map(len, rows.values()))

    in_loop(body, None)
    in_loop(body, FileArchive(tmp_path))


def test_of_several_processes_only_one_does_it() -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us = LATER_US
            asked: list[bool] = []

            def mine() -> bool:
                asked.append(len(asked) > 5)
                return asked[-1]

            housekeeping = Housekeeping(app.live, app.ledger, app.thread, app.clock, KEEP, mine=mine)
            looking = asyncio.create_task(housekeeping.run(0))
            await until(lambda: len(asked) > 4)
            assert await aged(app, Kept.HISTORY)
            await until(lambda: len(asked) > 7)
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            assert not await aged(app, Kept.HISTORY)

    in_loop(body)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - turns of the loop
            await asyncio.sleep(0)


# -- the archive --------------------------------------------------------------------------------------


def test_the_archive_has_all_that_was_pruned_and_nothing_else(tmp_path: Path) -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = {kind.value: plain(rows) for kind, rows in (await everything(app)).items() if rows}
            await keeper(app, FileArchive(tmp_path)).turn(LATER_US)
            found = in_archive(tmp_path)
            assert found.keys() == before.keys()
            for kind, rows in before.items():
                assert same(found[kind], rows), kind
            assert not any((await everything(app)).values())

    in_loop(body)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}, "numbers for all to read"


def test_archived_verdicts_are_whole(tmp_path: Path) -> None:
    async def body() -> list[Verdict]:
        async with running() as app:
            await lived(app)
            rows = await aged(app, Kept.HISTORY)
            keys = [EventKey(each.key[2], each.key[1], each.key[0]) for each in rows]
            verdicts = [await app.thread.run(app.ledger.verdict, key) for key in keys]
            await keeper(app, FileArchive(tmp_path)).turn(LATER_US)
            return [verdict for verdict in verdicts if verdict is not None]

    verdicts = {verdict.key: verdict for verdict in in_loop(body)}
    lines = [row["body"] for line in in_archive(tmp_path)["history"] for row in line["rows"]["verdicts"]]
    read = [msgspec.convert(each, Verdict) for each in lines]
    assert {each.key: each for each in read} == verdicts
    assert len(verdicts) > 10


def test_pieces_of_a_day_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping_module, "PIECE_BYTES", 4_000)

    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = plain(await aged(app, Kept.HISTORY))
            await keeper(app, FileArchive(tmp_path)).turn(LATER_US)
            assert same(in_archive(tmp_path)["history"], before)

    in_loop(body)
    assert len(list(tmp_path.glob("history-*.json"))) > 2 * DAYS


def test_archived_events_can_be_replayed(tmp_path: Path) -> None:
    """By the line that the guide gives for jq, in Python here."""

    async def body() -> int:
        async with running() as app:
            await lived(app)
            rows = await app.thread.run(lambda: list(app.ledger.read_log(0)))
            accepted = sum(len(events_of(row)) for row in rows if row.kind is LogKind.EVENTS)
            await keeper(app, FileArchive(tmp_path / "archive")).turn(LATER_US)
            return accepted

    accepted = in_loop(body)
    lines = [
        json.dumps(
            {name: item[name] for name in ("id", "subscriber_id", "type", "cell_id", "imei")}
            | {"occurred_at": item["occurred_at_us"] / 1_000_000}
            | item["attributes"]
        )
        for line in in_archive(tmp_path / "archive")["log"]
        for row in line["rows"]["log"]
        if row["kind"] == "events"
        for item in row["items"]
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines))
    faults = Faults()
    events = list(read_events(path, faults))
    assert len(events) == accepted > 50
    assert {event.id for event in events} >= {"e0", "e1", "e2", "e3"}
    assert msgspec.json.decode(events[0].attributes) == {"size_kb": 200}


class CrashError(BaseException):
    """The process ends here."""


class Crashing:
    """An archive that the process does not outlive: before or after the piece is written, the n-th time."""

    def __init__(self, archive: Archive, at: int, *, after: bool) -> None:
        self._archive, self._at, self._after = archive, at, after

    def put(self, kind: Kept, day: int, aged: Sequence[Aged]) -> None:
        self._at -= 1
        if self._at == 0 and not self._after:
            raise CrashError
        self._archive.put(kind, day, aged)
        if self._at == 0:
            raise CrashError


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_between_writing_and_deleting_loses_nothing(tmp_path: Path, after: bool) -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = await everything(app)
            archive = FileArchive(tmp_path)
            for at in range(1, 6):
                with pytest.raises(CrashError):
                    await keeper(app, Crashing(archive, at, after=after)).turn(LATER_US)
                found = in_archive(tmp_path)
                for kind, rows in before.items():
                    left = plain(await aged(app, kind))
                    lines = [*found.get(kind.value, ()), *left]
                    encoded = set(map(msgspec.json.encode, lines))
                    assert encoded == set(map(msgspec.json.encode, plain(rows))), "lost, or made up"
            await keeper(app, archive).turn(LATER_US)
            for kind, rows in before.items():
                assert same(in_archive(tmp_path).get(kind.value, ()), plain(rows)), "recognised, not twice"

    in_loop(body)


def test_control_deleting_before_writing_loses_what_a_crash_cuts_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Housekeeping._let_go

    async def hasty(self: Housekeeping, piece: Any) -> int:
        archive, self._archive = self._archive, None
        gone = await honest(self, piece)
        self._archive = archive
        if archive is not None and piece.rows:
            rows = list(piece.rows.values())
            archive.put(rows[0].kind, piece.day, rows)
        return gone

    monkeypatch.setattr(Housekeeping, "_let_go", hasty)

    async def body() -> bool:
        async with running() as app:
            await lived(app)
            before = plain(await aged(app, Kept.LOG))
            with pytest.raises(CrashError):
                await keeper(app, Crashing(FileArchive(tmp_path), 2, after=False)).turn(LATER_US)
            left = [*in_archive(tmp_path).get("log", ()), *plain(await aged(app, Kept.LOG))]
            return same(left, before)

    assert not in_loop(body)


def test_what_changes_between_writing_and_deleting_is_written_again(tmp_path: Path) -> None:
    class Meddling:
        """Somebody answers an old offer just when it has been written."""

        def __init__(self, app: Application) -> None:
            self.app, self.answered = app, ""

        def put(self, kind: Kept, day: int, rows: Sequence[Aged]) -> None:
            FileArchive(tmp_path).put(kind, day, rows)
            if kind is Kept.HISTORY and not self.answered:
                decisions = [row for table, row in rows[0].rows if table == "contacts"]
                self.answered = str(decisions[0]["decision_id"])
                self.app.thread._executor.submit(self.answer).result()

        def answer(self) -> None:
            with self.app.ledger.transaction() as tx:
                tx.record_outcome(self.answered, OutcomeKind.ORDERED, self.app.clock.now_us())

    async def body() -> None:
        async with running() as app:
            await lived(app)
            first = plain(await aged(app, Kept.HISTORY))
            meddling = Meddling(app)
            await keeper(app, meddling).turn(LATER_US)
            (left,) = await aged(app, Kept.HISTORY)
            kinds = [row["kind"] for table, row in left.rows if table == "outcomes"]
            assert "ordered" in kinds
            await keeper(app, FileArchive(tmp_path)).turn(LATER_US)
            assert await aged(app, Kept.HISTORY) == []
            assert same(in_archive(tmp_path)["history"], [*first, *plain([left])])

    in_loop(body)


@pytest.mark.parametrize("after", [False, True])
def test_a_store_that_fails_on_the_way_is_gone_on_with(tmp_path: Path, after: bool) -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = plain(await aged(app, Kept.HISTORY))
            flaky = Flaky(app.ledger, after=after)
            flaky.failing = True
            archive = FileArchive(tmp_path)
            housekeeping = Housekeeping(app.live, flaky, app.thread, app.clock, KEEP, archive)
            with pytest.raises(StoreUnavailableError):
                await housekeeping.turn(LATER_US)
            assert same(plain(await aged(app, Kept.HISTORY)), before)
            flaky.failing = False
            await housekeeping.turn(LATER_US)
            assert same(in_archive(tmp_path)["history"], before)

    in_loop(body)


def test_an_archive_that_cannot_be_written_keeps_everything_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")

    async def body() -> None:
        async with running() as app:
            await lived(app)
            before = await everything(app)
            with pytest.raises(OSError, match="file"):
                await keeper(app, FileArchive(tmp_path / "file")).turn(LATER_US)
            assert await everything(app) == before

    in_loop(body)


# -- what others see ----------------------------------------------------------------------------------


def test_an_export_that_would_miss_something_says_so() -> None:
    async def body() -> None:
        async with running() as app:
            await lived(app)
            changes = await app.thread.run(app.ledger.contact_changes, 0, 10_000, ())
            cursors = [each.cursor for each in changes]
            await keeper(app).turn(LATER_US)
            assert [piece async for piece in export_contacts(app.ledger, app.thread, cursors[-1], ())] == []
            assert [piece async for piece in export_contacts(app.ledger, app.thread, 0, ())] == []
            with pytest.raises(PrunedError):
                [piece async for piece in export_contacts(app.ledger, app.thread, cursors[-2], ())]

    in_loop(body)


def test_commits_have_their_turn_between_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever publishes while much is pruned waits for a step at most, not for the whole."""
    monkeypatch.setattr(housekeeping_module, "_STEP", dict.fromkeys(Kept, 1))

    async def body() -> None:
        async with running() as app:
            await lived(app)
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us = LATER_US
            pruning = asyncio.create_task(keeper(app).turn(LATER_US))
            published = 0
            while not pruning.done():
                await app.ingest.publish("gn", [mms(PEOPLE[0], f"p{published}", app.clock.now_us())])
                published += 1
            assert sum((await pruning).values()) > 50
            assert published > 20

    in_loop(body)
