"""What only looking into the database shows: erasure leaves no trace, audit lines, statements a call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import Fate, Mode, OutcomeKind
from opportune_service.adapters.sql import SqlLedger, erase, statements
from opportune_service.adapters.sql.engine import connect_to
from opportune_service.adapters.sql.migrate import open_engine
from opportune_service.app.ports import LedgerTransaction
from opportune_service.app.records import (
    DeliveryState,
    ForeignContact,
    LogKind,
    LogRow,
    Pause,
    Quarantined,
)
from opportune_service.core.erase import Erasing
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.verdict import (
    Contact,
    Reason,
    Response,
    Touch,
    Trigger,
    UsageKey,
    UsageKind,
)
from sqlalchemy.pool.base import _ConnectionFairy as PoolProxied
from support.verdicts import HOUR_US, NOON_US, decision, shown, verdict, waiting

NUMBER = "8613800138000"
OTHER = "8613900139000"
STAND_IN = "012345678901234"
NEIGHBOUR = f"{NUMBER}7"
"""A longer number that begins alike."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a ledger with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_ledger_url"))


def opened(url: str) -> AbstractContextManager[SqlLedger]:
    return closing(SqlLedger.open(url))


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    engine, _ = connect_to(url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


# -- erasure ----------------------------------------------------------------------------------------


def naming(url: str, number: str = NUMBER) -> set[str]:
    """The columns, as table.column, in which the number stands alone, as text or as a whole number."""
    alone = re.compile(rb"(?<!\d)" + number.encode() + rb"(?!\d)")
    whole = msgspec.msgpack.encode(int(number))
    found: set[str] = set()
    with connected(url) as connection:
        for table in sa.inspect(connection).get_table_names():
            found_rows = connection.exec_driver_sql(f'SELECT * FROM "{table}"')  # noqa: S608 - its own names
            columns = list(found_rows.keys())
            for row in found_rows:
                for column, value in zip(columns, row, strict=True):
                    data = value if isinstance(value, bytes) else str(value).encode()
                    if alone.search(data) or whole in data:
                        found.add(f"{table}.{column}")
    return found


def fill(tx: LedgerTransaction, who: str, about: str) -> None:
    """Something in every table that can name a subscriber; `about`: whom it speaks of."""
    trigger = Trigger("call_missed", NOON_US, {"from": about, "as_number": int(about), "seconds": 3})
    talk = f"You missed a call from {about}."
    deferred = decision(
        f"w-{who}", campaign="later", reason=Reason.CAPPED, fate=Fate.DEFER, trigger=trigger, due_us=NOON_US
    )
    would_be = decision(f"c-{who}", campaign="control", reason=Reason.CONTROL)
    tx.record_verdicts(
        [
            verdict(
                who, f"of-{about}-{who}", decision(f"d-{who}", content=talk), waiting(f"p-{who}"), deferred
            ),
            verdict(who, f"f-{who}", shown(f"s-{who}", held={about: [about]}), would_be),
            verdict(who, f"g-{who}"),
        ]
    )
    tx.record_outcome(f"s-{who}", OutcomeKind.COMPLAINED, NOON_US, f"says {about} called")
    id_ = f"of-{about}"
    foreign = Contact(id_, "call", "fibre", "broadband", "outbound", Mode.MANUAL, NOON_US, origin="crm")
    tx.record_contacts([ForeignContact(who, foreign, f"about {about}")])
    tx.record_touches([Touch(who, "crm", id_, NOON_US, TouchKind.COMPLAINT, {"content": f"from {about}"})])
    event = Event("q1", who, "call_missed", NOON_US, msgspec.json.encode({"from": about}))
    tx.quarantine([Quarantined("gn", event, RejectionReason.UNKNOWN_TYPE, "no such type", NOON_US)], 100)


def filled(url: str) -> None:
    with opened(url) as ledger, ledger.transaction() as tx:
        fill(tx, NUMBER, OTHER)
        fill(tx, OTHER, NUMBER)
        tx.save_states([(NUMBER, 1, NUMBER.encode()), (OTHER, 1, b"state")])
        tx.append_log([LogRow(1, LogKind.EVENTS, "gn", NOON_US, "r1", NUMBER.encode())])
        tx.pause(Pause("later", NOON_US, "wang", f"{NUMBER} complained"))


def erased(url: str, number: str = NUMBER) -> bool:
    erasing = Erasing(number, STAND_IN)
    with opened(url) as ledger, ledger.transaction() as tx:
        tx.blot_out(erasing, [OTHER, NEIGHBOUR])
        return tx.erase(erasing, NOON_US + 1, "li", f"asked for by {number}")


def test_erased_number_is_nowhere_but_in_the_log(url: str) -> None:
    filled(url)
    before = naming(url)
    named = {column.split(".")[0] for column in before}
    assert named == {
        *("log", "verdicts", "decisions", "contacts", "deferrals", "touches", "contact_changes"),
        *("pauses", "audit", "outcomes", "prompts", "deliveries", "quarantine", "states"),
    }, "the test must put the number wherever it can be"
    assert erased(url)
    assert naming(url) == {"log.payload"}


def test_nothing_of_the_number_is_left_in_the_file(tmp_path: Path) -> None:
    """Freed pages are overwritten, so that what was deleted cannot be read from the disk either. In a file
    of SQLite, that is: PostgreSQL keeps what was deleted until it cleans up."""
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    filled(url)
    with opened(url) as ledger, ledger.transaction() as tx:
        tx.replace_log([LogRow(1, LogKind.EVENTS, "gn", NOON_US, "r1", b"without")])
    assert NUMBER.encode() in path.read_bytes()
    erased(url)
    assert NUMBER.encode() not in path.read_bytes()


def test_erasure_leaves_others_as_they_are_but_for_the_number(url: str) -> None:
    with opened(url) as ledger, ledger.transaction() as tx:
        fill(tx, NUMBER, NEIGHBOUR)
        fill(tx, NEIGHBOUR, OTHER)
        fill(tx, OTHER, NUMBER)
        before = tx.histories([OTHER, NEIGHBOUR], 0, NOON_US)
        neighbour = ledger.contacts_of(NEIGHBOUR, 0, NOON_US + 1, 10)
    erased(url)
    with opened(url) as ledger, ledger.transaction() as tx:
        after = tx.histories([OTHER, NEIGHBOUR], 0, NOON_US)
        assert ledger.contacts_of(NEIGHBOUR, 0, NOON_US + 1, 10) == neighbour
        found = ledger.verdict_of(f"d-{OTHER}")
    assert found is not None
    assert found.decisions[0].content == f"You missed a call from {STAND_IN}."
    assert after[NEIGHBOUR] == before[NEIGHBOUR]
    renamed = [
        msgspec.structs.replace(each, decision_id=each.decision_id.replace(NUMBER, STAND_IN))
        for each in before[OTHER].contacts
    ]
    assert sorted(after[OTHER].contacts, key=repr) == sorted(renamed, key=repr)
    assert after[OTHER].deferrals[0].trigger.attributes == {
        "from": STAND_IN,
        "as_number": int(STAND_IN),
        "seconds": 3,
    }


def test_erasure_gives_back_what_was_not_sent_and_keeps_what_was_spent(url: str) -> None:
    total = UsageKey(UsageKind.CAMPAIGN_TOTAL, decision("d").campaign)
    with opened(url) as ledger:
        with ledger.transaction() as tx:
            tx.record_verdicts(
                [verdict(NUMBER, "e1", decision("waits")), verdict(NUMBER, "e2", shown("told"))]
            )
            assert tx.usage([total]) == {total: 2}
        with ledger.transaction() as tx:
            tx.erase(Erasing(NUMBER, STAND_IN), NOON_US, "li", "asked for")
            assert tx.usage([total]) == {total: 1}
            assert tx.waiting("sms", 10, NOON_US) == []


def test_erasure_is_audited_also_of_a_stranger(url: str) -> None:
    assert not erased(url)
    filled(url)
    assert erased(url)
    assert not erased(url, "8613811111111")
    audited = rows(url, "SELECT at_us, by, action, about, reason FROM audit WHERE action = 'erase'")
    blotted = f"asked for by {STAND_IN}"
    assert audited == [(NOON_US + 1, "li", "erase", "", blotted)] * 3


def test_the_scan_finds_what_is_left_over(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "_LOGGED", ())
    filled(url)
    erased(url)
    assert "verdicts.body" in naming(url)


# -- audit and what reports count -------------------------------------------------------------------


def test_pausing_and_resuming_are_audited_when_they_change_something(url: str) -> None:
    with opened(url) as ledger, ledger.transaction() as tx:
        tx.pause(Pause("night", NOON_US, "alarm", "complaints"))
        tx.pause(Pause("night", NOON_US + 1, "li", "again"))
        tx.resume("roaming", NOON_US + 2, "li", "was not paused")
        tx.resume("night", NOON_US + 3, "li", "solved")
    assert rows(url, "SELECT at_us, by, action, about, reason FROM audit ORDER BY seq") == [
        (NOON_US, "alarm", "pause", "night", "complaints"),
        (NOON_US + 3, "li", "resume", "night", "solved"),
    ]


def test_what_was_decided_again_counts_by_its_last_word(url: str) -> None:
    deferred = {"reason": Reason.CAPPED, "fate": Fate.DEFER, "trigger": Trigger("sms", NOON_US)}
    with opened(url) as ledger, ledger.transaction() as tx:
        tx.record_verdicts(
            [
                verdict(NUMBER, "e1", decision("first", **deferred), waiting("prompt", campaign="talk")),
                verdict(NUMBER, "e2", decision("second", deferred_of="first", attempt=2, **deferred)),
                verdict(NUMBER, "e3", decision("third", deferred_of="second", attempt=3)),
                verdict(NUMBER, "e4", waiting("vain", prompt_of="prompt", reason=Reason.CAPPED)),
                verdict(NUMBER, "e5", shown("shown", prompt_of="prompt")),
            ]
        )
    last = rows(url, "SELECT decision_id, attempt, shown, fate FROM decisions WHERE NOT superseded")
    assert sorted(last) == [("shown", 1, 1, ""), ("third", 3, 0, "")]


# -- statements -------------------------------------------------------------------------------------

MANY = 300


def _verdicts(tx: LedgerTransaction, ids: list[str]) -> None:
    trigger = Trigger("sms", NOON_US)
    tx.record_verdicts(
        [
            verdict(
                id_,
                f"new-{id_}",
                decision(f"new-{id_}"),
                waiting(f"new-p-{id_}"),
                decision(
                    f"new-w-{id_}", campaign="w", reason=Reason.CAPPED, fate=Fate.DEFER, trigger=trigger
                ),
            )
            for id_ in ids
        ]
    )


def _respond(tx: LedgerTransaction, ids: list[str]) -> None:
    campaigns = {decision("d").campaign: HOUR_US}
    orders = [Response(id_, NOON_US + 1, OutcomeKind.ORDERED, campaigns=campaigns) for id_ in ids]
    replies = [Response(id_, NOON_US + 1, OutcomeKind.ACCEPTED, channel="sms") for id_ in ids]
    assert len(tx.respond([*orders, *replies])) == 2 * len(ids)


def _import(tx: LedgerTransaction, ids: list[str]) -> None:
    foreign = Contact("1", "call", "fibre", "broadband", "outbound", Mode.MANUAL, NOON_US, origin="crm")
    tx.record_contacts([ForeignContact(id_, foreign, "") for id_ in ids])


@pytest.mark.parametrize(
    "call",
    [
        _verdicts,
        _respond,
        _import,
        lambda tx, ids: tx.histories(ids, 0, NOON_US),
        lambda tx, ids: tx.usage([UsageKey(UsageKind.CAMPAIGN_DAY, id_, 1) for id_ in ids]),
        lambda tx, ids: tx.count_events({(id_, 1): 1 for id_ in ids}),
        lambda tx, ids: tx.record_touches([Touch(id_, "crm", "t", 0, TouchKind.QUERY, {}) for id_ in ids]),
        lambda tx, ids: tx.end_deliveries({f"d-{id_}": DeliveryState.EXPIRED for id_ in ids}, NOON_US),
        lambda tx, ids: tx.replace_log(
            [LogRow(n, LogKind.EVENTS, "", 0, "", b"") for n, _ in enumerate(ids)]
        ),
    ],
)
def test_a_call_makes_as_many_statements_however_much_it_is_given(
    url: str, call: Callable[[LedgerTransaction, list[str]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [str(86_138_000 + n) for n in range(MANY + 1)]
    engine = open_engine(url)
    ledger = SqlLedger(engine)
    made: list[object] = []
    cursor = PoolProxied.cursor

    def counted(self: PoolProxied, *args: object, **kwargs: object) -> object:
        """Each statement has a cursor of its own, whoever gives it to the driver."""
        made.append(self)
        return cursor(self, *args, **kwargs)

    monkeypatch.setattr(PoolProxied, "cursor", counted)
    try:
        with ledger.transaction() as tx:
            open_until_us = NOON_US + HOUR_US
            tx.record_verdicts(
                [
                    verdict(
                        id_,
                        id_,
                        decision(f"d-{id_}", open_until_us=open_until_us, day=1),
                        decision(f"x-{id_}", campaign="x", open_until_us=open_until_us),
                        at_us=NOON_US - 1,
                    )
                    for id_ in ids
                ]
            )
            counts = []
            for some in (ids[:1], ids[1:]):
                made.clear()
                call(tx, some)
                counts.append(len(made))
    finally:
        ledger.close()
    assert 0 < counts[0] == counts[1] < 25


def test_there_are_few_statements_whatever_the_number_of_keys(url: str) -> None:
    """A new one for each number would cost more than the look-up itself. And all keys are found."""
    statements._by_key.cache_clear()
    with opened(url) as ledger, ledger.transaction() as tx:
        tx.record_verdicts([verdict(OTHER, f"e{n}", decision(f"d{n}")) for n in range(70)])
        keys = [verdict(OTHER, f"e{n}").key for n in range(70)]
        for count in range(71):
            assert tx.verdicts(keys[:count]).keys() == set(keys[:count])
    assert statements._by_key.cache_info().misses <= 8 + 8  # of the verdicts, and of the counters
