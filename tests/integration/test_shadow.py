"""A shadow decides for everybody, in a ledger of its own, and nobody notices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.shadow import shadow_url
from opportune_service.app.errors import NotReadyError, StoreUnavailableError
from opportune_service.app.insight import Insight
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DecisionRow
from opportune_service.app.report import Period, report
from opportune_service.app.retention import Keep
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.calendars import DAY_US
from opportune_service.core.verdict import EventKey, Reason
from support.applications import in_loop, running
from support.in_force import ANY, CANARY, PEOPLE, SHADOW, THIRD, let, publish, senders, small
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase
from support.timed_rulebase import MINUTE_US

LONG_AGO_US = NOON_US + 1000 * DAY_US


async def shadowed(app: Application) -> list[DecisionRow]:
    await app.shadow.settled()
    insight = Insight(await app.shadow.ledger(), app.shadow.thread)
    return list(await insight.decisions(ANY, 0, 1000, newest_first=False))


def reasons(rows: list[DecisionRow]) -> dict[Reason, int]:
    found: dict[Reason, int] = {}
    for row in rows:
        found[row.reason] = found.get(row.reason, 0) + 1
    return found


def nothing_of(ledger: Ledger, who: str) -> None:
    """In the ledger's thread."""
    assert ledger.contacts_of(who, 0, LONG_AGO_US, 10) == []
    assert ledger.contact_changes(0, 10, ()) == []
    with ledger.transaction() as tx:
        assert tx.histories([who], 0, NOON_US)[who].contacts == []
    assert ledger.verdict(EventKey(who, "source", "e1")) is None


def test_it_decides_for_everybody_and_contacts_nobody() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            shadow = await let(app, small(2), SHADOW)
            verdicts = await publish(app, senders(PEOPLE, 2))
            assert verdicts == []
            rows = await shadowed(app)
            assert {row.key.subscriber_id for row in rows} == set(PEOPLE)
            assert {(row.revision, row.reason) for row in rows} == {(shadow, Reason.DECIDED)}
            # Nothing of it is anywhere else.
            assert await app.insight.decisions(ANY, 0, 100, False) == []
            assert await app.deliveries.lease("sms", 100) == []
            who = PEOPLE[0]
            await app.thread.run(nothing_of, app.ledger, who)
            made = await report(
                app.live, app.ledger, app.thread, (), NOON_US - 1, NOON_US + 10, Period.WHOLE
            )
            assert {effect.figures.decided for effect in made.campaigns} == {0}
            of_shadow = await report(
                *(app.live, await app.shadow.ledger(), app.shadow.thread, (), NOON_US - 1),
                *(NOON_US + 10, Period.WHOLE),
                of_shadow=True,
            )
            assert {e.figures.campaign: e.figures.decided for e in of_shadow.campaigns} == {
                "mms-bundle": len(PEOPLE),
                "care-plan": 0,
            }
            assert {e.figures.sent for e in of_shadow.campaigns} == {0}

    in_loop(body)


def test_what_is_decided_is_as_without_it() -> None:
    async def body() -> None:
        found = []
        for beside in (False, True):
            async with running(files=small_rulebase(threshold=2), people=PEOPLE) as app:
                if beside:
                    await let(app, small_rulebase(threshold=1), SHADOW)
                found.append(await publish(app, senders(PEOPLE, 5)))
        assert found[0] == found[1]
        assert found[0]

    in_loop(body)


def test_its_own_caps_hold() -> None:
    """Two a week, as the shadow counts them: what is contacted in force does not count, nor vice versa."""

    async def body() -> None:
        async with running(files=small(1), people=PEOPLE[:1]) as app:
            await let(app, small_rulebase(threshold=1, weekly_limit=2), SHADOW)
            verdicts = await publish(app, senders(PEOPLE[:1], 4))
            assert [each.decisions[0].reason for each in verdicts].count(Reason.DECIDED) >= 1
            rows = await shadowed(app)
            assert reasons(rows)[Reason.DECIDED] <= 2
            assert len(rows) == 4

    in_loop(body)


def test_it_runs_beside_a_canary() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            canary = await let(app, small(2), CANARY, THIRD)
            shadow = await let(app, small(1), SHADOW)
            assert [each.id for each in app.live.current.side_by_side] == [app.live.id, canary, shadow]
            inside = {each for each in PEOPLE if app.live.of(each).id == canary}
            verdicts = await publish(app, senders(PEOPLE, 2))
            assert {each.key.subscriber_id for each in verdicts} == inside
            assert len(await shadowed(app)) == 2 * len(PEOPLE)
            # Another canary leaves the shadow be, with what it has decided.
            await let(app, small(4), CANARY, THIRD)
            assert len(await shadowed(app)) == 2 * len(PEOPLE)
            full = app.live.id
            await app.activations.activate(full, full, "test", "")
            assert app.live.current.beside == ()
            await publish(app, senders(PEOPLE, 2, NOON_US + 10, "f"))
            assert len(await shadowed(app)) == 2 * len(PEOPLE)  # still to be read, and no more

    in_loop(body)


def test_another_one_begins_anew() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            await let(app, small(2), SHADOW)
            await publish(app, senders(PEOPLE, 2))
            assert await shadowed(app)
            await let(app, small(1), SHADOW)
            assert await shadowed(app) == []

    in_loop(body)


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    async def body() -> None:
        database = tmp_path / "ledger.db"
        async with running(database, small(3), people=PEOPLE) as app:
            shadow = await let(app, small(2), SHADOW)
            await publish(app, senders(PEOPLE, 2))
        async with running(database, small(3), people=()) as app:
            assert app.live.current.shadow is not None
            assert app.live.current.shadow.id == shadow
            assert len(await shadowed(app)) == len(PEOPLE)
            await publish(app, senders(PEOPLE, 1, NOON_US + 10, "f"))
            assert len(await shadowed(app)) == 2 * len(PEOPLE)

    in_loop(body)


def test_without_one_there_is_nothing_to_read() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            with pytest.raises(NotReadyError):
                await app.shadow.ledger()

    in_loop(body)


def broken(error: Exception) -> Callable[[bool], SqlLedger | None]:
    def open_(_: bool) -> SqlLedger | None:
        raise error

    return open_


@pytest.mark.parametrize("error", [StoreUnavailableError("the disk is full"), RuntimeError("a fault")])
def test_its_faults_harm_nothing(error: Exception) -> None:
    async def body() -> None:
        async with running(files=small(1), people=PEOPLE) as app:
            await let(app, small(1), SHADOW)
            app.shadow._ledger.close()  # type: ignore[union-attr]
            app.shadow._ledger = None
            app.shadow._open = broken(error)  # type: ignore[assignment]
            verdicts = await publish(app, senders(PEOPLE, 1))
            assert {each.decisions[0].reason for each in verdicts} == {Reason.DECIDED}
            await app.shadow.settled()
            assert app.ingest.healthy.is_set()
            assert (app.shadow.decided, app.shadow.lost) == (0, len(PEOPLE))

    in_loop(body)


def test_a_file_that_cannot_be_written_harms_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        database = tmp_path / "ledger.db"
        async with running(database, small(1), people=PEOPLE) as app:
            (tmp_path / "ledger.db.shadow").mkdir()
            with pytest.raises(StoreUnavailableError):
                await let(app, small(2), SHADOW)
            assert app.live.current.beside == ()
            assert len(await app.thread.run(app.ledger.in_force)) == 1
            assert await publish(app, senders(PEOPLE, 1))

    in_loop(body)


def test_one_that_does_not_keep_up_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opportune_service.app.shadow.MOST_WAITING", 50)

    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            await let(app, small(1), SHADOW)
            await publish(app, senders(PEOPLE, 2))
            await app.shadow.settled()
            assert app.shadow.lost == 2 * len(PEOPLE)
            await publish(app, senders(PEOPLE, 1, NOON_US + 10, "f"))
            assert len(await shadowed(app)) == len(PEOPLE)
            assert app.shadow.decided == len(PEOPLE)

    in_loop(body)


def test_what_it_defers_is_decided_when_due() -> None:
    async def body() -> None:
        files = small(1)
        files["policies.yaml"] += b"""
quiet_hours:
  noon: {from: "11:00", to: "14:00", otherwise: defer}
"""
        files["campaigns/mms-bundle.yaml"] += b"expires_after: 12h\n"
        async with running(files=small(3), people=PEOPLE) as app:
            clock = app.clock
            assert isinstance(clock, ManualClock)
            await let(app, files, SHADOW)
            await publish(app, senders(PEOPLE, 1))
            assert reasons(await shadowed(app)) == {Reason.QUIET_HOURS: len(PEOPLE)}
            await app.shadow.settle_due()
            assert len(await shadowed(app)) == len(PEOPLE)
            clock.value_us += 300 * MINUTE_US
            await app.shadow.settle_due()
            assert reasons(await shadowed(app)) == {
                Reason.QUIET_HOURS: len(PEOPLE),
                Reason.DECIDED: len(PEOPLE),
            }
            await app.shadow.settle_due()
            assert len(await shadowed(app)) == 2 * len(PEOPLE)

    in_loop(body)


async def erased(app: Application, number: str) -> None:
    await app.erasures.erase(number, "test", "asked for")


async def pruned(app: Application, _: str) -> None:
    await app.shadow.prune(Keep(1, 1, 1), NOON_US + 100 * DAY_US)


@pytest.mark.parametrize("remove", [erased, pruned])
def test_what_is_erased_or_old_goes(
    remove: Callable[[Application, str], Awaitable[None]], tmp_path: Path
) -> None:
    async def body() -> None:
        database, who = tmp_path / "ledger.db", PEOPLE[7]
        async with running(database, small(3), people=PEOPLE) as app:
            await let(app, small(1), SHADOW)
            await publish(app, senders(PEOPLE, 2))
            await shadowed(app)
            await remove(app, who)
            rows = await shadowed(app)
            assert who not in {row.key.subscriber_id for row in rows}
            assert len(rows) == (2 * (len(PEOPLE) - 1) if remove is erased else 0)

    in_loop(body)
    if remove is erased:
        for path in tmp_path.iterdir():
            assert PEOPLE[7].encode() not in path.read_bytes(), path


def test_an_erasure_that_it_cannot_be_told_of_fails() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            await let(app, small(1), SHADOW)
            ledger, open_ = app.shadow._ledger, app.shadow._open
            app.shadow._ledger, app.shadow._open = None, broken(StoreUnavailableError("gone"))  # type: ignore[assignment]
            await publish(app, [mms(PEOPLE[0], "e")])
            with pytest.raises(StoreUnavailableError):
                await app.erasures.erase(PEOPLE[0], "test", "asked for")
            app.shadow._ledger, app.shadow._open = ledger, open_
            assert (await app.erasures.erase(PEOPLE[0], "test", "asked for")).existed

    in_loop(body)


def test_its_ledger_has_a_place_of_its_own(tmp_path: Path) -> None:
    assert shadow_url(f"sqlite:///{tmp_path}/a.db") == f"sqlite:///{tmp_path}/a.db.shadow"
    assert shadow_url("sqlite://") == "sqlite://"
    place = shadow_url("postgresql://u:p@h/n?options=-c%20work_mem%3D1MB")
    assert "u:p@h/n" in place
    assert "search_path%3Dopportune_shadow" in place
    assert "work_mem" in place
