"""The strict path: how many moments with candidates are decided and made durable a second.

Groups of 100 moments of 20,000 subscribers, five candidates each, as the pipeline commits them: one
transaction with an fsync, in which histories and counters are read, everything is decided under caps, quiet
hours, cool-downs, quota, capacity, control groups and one story, and log rows, verdicts, contacts,
deliveries and counters are written. Moments are made beforehand. A day passes between rounds, so that
customers have histories, and most moments end in a contact.

`decide/plain_inserts` is the floor: rows equal to those that the same groups have left, put into empty
tables of the same schema, with the same settings of SQLite, one transaction a group; nothing is read, no
counter is kept. Checked in the same run: there is one verdict a moment, and nobody has more than the cap.

`decide/strict_postgres` is the same on PostgreSQL over the loopback, with its fsync, as a member among
others does it: guarded, and holding its subscribers and the campaigns' counters. `of two` are two members
at once, each with half of the groups: first where all of them count against the same quotas, then where no
campaign has one, so that each holds but its subscribers.
"""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
from harness import Row, console
from opportune_rulebase import load
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app import commit
from opportune_service.app.commit import alone, commit_group
from opportune_service.app.records import LogKind
from opportune_service.app.works import Batch, Group
from opportune_service.core.events import Event
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from rich.table import Table
from support.rulebases import DAY_US, NOON_US
from support.servers import postgres

__all__ = ["rows"]

PEOPLE = 20_000
MOMENTS, GROUPS, ROUNDS = 100, 60, 5
"""Moments of a group, groups of a round."""
CAMPAIGNS = 5

_POLICIES = """\
caps:
  daily: {limit: 1, period: day}
  weekly: {limit: 4, period: {rolling: 7d}, otherwise: defer}
  same_offer: {limit: 2, period: month, per: [campaign], otherwise: next}
quiet_hours: {night: {from: "21:00", to: "08:00", otherwise: defer}}
cool_downs: {refused: {after: [refused], for: 30d}}
control: {share: 2%}
"""


def _revision(quotas: bool = True) -> Revision:
    files = {
        "rulebase.yaml": "rulebase: bench\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": "events: {ping: {}}\nsubscriber: {age: int}\n"
        "channels: {sms: {mode: automatic, cost: 5"
        f"{', per_day: 1000000' if quotas else ''}}}, push: {{mode: automatic}}}}\n"
        "products:\n" + "".join(f"  p{n}: {{label: P{n}, category: c{n % 2}}}\n" for n in range(CAMPAIGNS)),
        "policies.yaml": _POLICIES,
    }
    for n in range(CAMPAIGNS):
        files[f"campaigns/c{n}.yaml"] = (
            f"campaign: c{n}\nproduct: p{n}\non: [ping]\nmode: automatic\nchannels: [sms, push]\n"
            f"value: {1 + n % 3}\ncontent: {{default: 'Offer {n} of today.'}}\n"
        ) + ("quota: {total: 1000000}\n" if quotas else "")
    loaded = load({name: text.encode() for name, text in files.items()})
    return Revision(loaded, NetworkEngine(loaded), {})


def _groups(revision: Revision) -> list[list[Group]]:
    """For each round, what the pipeline would hand over."""
    rng = random.Random(20261120)
    people = [f"8613{n:09d}" for n in range(PEOPLE)]
    states = {who: SubscriberState(known=True, context={"age": 40}) for who in people}
    made, position = [], 0
    for day in range(ROUNDS):
        now_us, round_ = NOON_US + day * DAY_US, []
        for _ in range(GROUPS):
            position += 1
            events = [
                (Event(f"e{position}-{n}", rng.choice(people), "ping", now_us + position), {})
                for n in range(MOMENTS)
            ]
            observed = observe(revision, "bench", events, states, position, now_us + position)
            batch = Batch(position, LogKind.EVENTS, "bench", now_us + position, revision, [])
            batch.items.extend(observed.events)
            batch.steps.extend(observed.steps)
            round_.append(Group(batches=[batch]))
        made.append(round_)
    return made


def _commit(ledger: SqlLedger, groups: Sequence[Group], guard: Any = alone) -> float:
    """Moments decided a second."""
    began = time.perf_counter()
    for group in groups:
        assert len(commit_group(ledger, group, guard)) == MOMENTS
    return MOMENTS * len(groups) / (time.perf_counter() - began)


def _insert(database: Path, source: Path) -> list[float]:
    """The floor, for each round: the rows of all groups, in their order."""
    ledger = SqlLedger.open(f"sqlite:///{database}")
    rounds = []
    pending = list(_left_by(source))
    for start in range(0, len(pending), GROUPS):
        began = time.perf_counter()
        for group in pending[start : start + GROUPS]:
            with ledger.transaction() as tx:
                for table, found in group.items():
                    insert_many(tx._connection, table, found)
        rounds.append(MOMENTS * GROUPS / (time.perf_counter() - began))
    ledger.close()
    return rounds


def _left_by(source: Path) -> Iterator[dict[Any, list[dict[str, object]]]]:
    """What each group has left in the ledger."""
    connection = sqlite3.connect(source)
    connection.row_factory = sqlite3.Row
    tables = (schema.verdicts, schema.decisions, schema.contacts, schema.deliveries, schema.contact_changes)
    logged = connection.execute("SELECT * FROM log ORDER BY position").fetchall()
    groups = {row["position"]: number for number, row in enumerate(logged)}
    found: list[dict[Any, list[dict[str, object]]]] = [
        {schema.log: [dict(row)], **{table: [] for table in tables}} for row in logged
    ]
    of_decision: dict[str, int] = {}
    for table in tables:
        for row in connection.execute(f"SELECT * FROM {table.name}"):
            said = dict(row)
            if "event_id" in said:
                number = groups[int(said["event_id"].partition("-")[0][1:])]
            else:
                number = of_decision[said["decision_id"]]
            if table is schema.decisions:
                of_decision[said["decision_id"]] = number
            found[number][table].append(
                {name: value for name, value in said.items() if name not in ("cursor", "seq")}
            )
    connection.close()
    return iter(found)


def _check(database: Path) -> bool:
    """Whether there is one verdict a moment, and nobody has more contacts a day than the cap allows."""
    with closing(sqlite3.connect(database)) as connection:
        return _is_right(lambda query: connection.execute(query).fetchall())


def _is_right(ask: Callable[[str], Sequence[Any]]) -> bool:
    ((verdicts,),) = ask("SELECT count(*) FROM verdicts")
    contacts = Counter(ask("SELECT subscriber_id, at_us / 86400000000 FROM contacts"))
    ((decided,),) = ask("SELECT count(*) FROM decisions WHERE reason IN ('decided', 'control')")
    ((used,),) = ask("SELECT sum(value) FROM usage WHERE kind = 'campaign_total'")
    ((counted,),) = ask("SELECT count(*) FROM contacts WHERE NOT control")
    if used != counted:
        return False
    return verdicts == MOMENTS * GROUPS * ROUNDS and max(contacts.values()) == 1 and decided > verdicts / 2


# -- PostgreSQL -----------------------------------------------------------------------------------------


def _on_postgres(members: int, quotas: bool) -> tuple[list[float], float, bool]:
    """Moments a second in each round, all members together; processor seconds of all of them, without the
    server's, a thousand moments; and whether all is right."""
    with postgres() as server, server.database() as url:
        SqlLedger.open(url).close()
        spawn = multiprocessing.get_context("spawn")
        together = spawn.Barrier(members)
        with ProcessPoolExecutor(
            members, spawn, initializer=_meet_at, initargs=(together,)
        ) as pool:  # one call each: nobody begins before all are there
            calls = [pool.submit(_be_a_member, url, each, members, quotas) for each in range(members)]
            done = [call.result() for call in calls]
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            right = _is_right(lambda query: connection.execute(query.encode()).fetchall())
    began, ended = (
        [edge(found[which][day] for found, _ in done) for day in range(ROUNDS)]
        for which, edge in ((0, min), (1, max))
    )
    rates = [MOMENTS * GROUPS / (end - begin) for begin, end in zip(began, ended, strict=True)]
    return rates, sum(cpu for _, cpu in done) / (MOMENTS * GROUPS * ROUNDS) * 1000, right


_together: Any = None


def _meet_at(barrier: Any) -> None:
    global _together  # noqa: PLW0603 - the process's own, set once
    _together = barrier


def _be_a_member(
    url: str, which: int, members: int, quotas: bool
) -> tuple[tuple[list[float], list[float]], float]:
    """Commit every so-manieth group; when each round began and ended, and the processor time spent."""
    rounds = _groups(_revision(quotas))
    began, ended, cpu = [], [], 0.0
    with closing(SqlLedger.open(url)) as ledger:
        with ledger.transaction() as tx:
            number = tx.join(0)
        for groups in rounds:
            _together.wait()
            began.append(time.time())
            cpu -= time.process_time()
            _commit(ledger, groups[which::members], lambda tx: tx.guard(number, 0))
            cpu += time.process_time()
            ended.append(time.time())
    return (began, ended), cpu


def rows(only: str = "") -> Iterator[Row]:
    del only  # all belong together
    with tempfile.TemporaryDirectory(dir=_place()) as directory:
        strict, plain = Path(directory) / "strict.db", Path(directory) / "plain.db"
        revision = _revision()
        rounds = _groups(revision)
        ledger = SqlLedger.open(f"sqlite:///{strict}")
        rates = [_commit(ledger, groups) for groups in rounds]
        ledger.close()
        right = _check(strict)
        floor = _insert(plain, strict)
    rate, most = statistics.median(rates), statistics.median(floor)
    one, cpu, right_too = _on_postgres(1, quotas=True)
    two, cpu_of_two, also_right = _on_postgres(2, quotas=True)
    free, cpu_of_free, right_as_well = _on_postgres(2, quotas=False)
    right_too = right_too and also_right and right_as_well
    table = Table(title=f"decide: groups of {MOMENTS} moments, {CAMPAIGNS} candidates each, fsync on")
    for heading in ("path", "moments/s", "lowest", "highest", "of plain inserts"):
        table.add_column(heading, justify="right")
    on_postgres = {
        f"on PostgreSQL, {cpu:.2f} ms CPU": one,
        f"of two, {cpu_of_two:.2f} ms CPU": two,
        f"no quotas, {cpu_of_free:.2f} ms CPU": free,
    }
    for name, found in {"strict": rates, "plain inserts of its rows": floor, **on_postgres}.items():
        middle = statistics.median(found)
        table.add_row(
            name, f"{middle:,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}", f"{middle / most:.2f}"
        )
    console.print(table)
    _profile()
    against = "decide/plain_inserts"
    yield Row(
        "decide/strict_sqlite",
        rate if right else None,
        "decisions/s",
        against,
        rate / most if right else None,
    )
    yield Row(against, most, "decisions/s")
    yield Row(
        "decide/strict_postgres",
        statistics.median(one) if right_too else None,
        "decisions/s",
        "decide/strict_sqlite",
        statistics.median(one) / rate if right_too else None,
    )


def _place() -> Path:
    """Beside the other results: a disk, where /tmp may be memory."""
    build = Path(__file__).parents[2] / "build"
    build.mkdir(exist_ok=True)
    return build


def _profile() -> None:
    """Where the time of the strict path goes."""
    spent: Counter[str] = Counter()

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **named)
            finally:
                spent[name] += time.perf_counter() - began

        return run

    parts = ("append_log", "verdicts", "histories", "usage", "paused", "record_verdicts", "count_events")
    with tempfile.TemporaryDirectory(dir=_place()) as directory:
        ledger = SqlLedger.open(f"sqlite:///{directory}/profile.db")
        rounds = _groups(_revision())
        _commit(ledger, rounds[0])  # so that there are histories
        dialect = ledger._engine.dialect
        with (
            mock.patch.multiple(
                SqlTransaction, **{name: timed(name, getattr(SqlTransaction, name)) for name in parts}
            ),
            mock.patch.object(commit, "decide", timed("decide", commit.decide)),
            mock.patch.object(dialect, "do_commit", timed("commit, with its fsync", dialect.do_commit)),
        ):
            began = time.perf_counter()
            for groups in rounds[1:]:
                _commit(ledger, groups)
            whole = time.perf_counter() - began
        ledger.close()
    moments = MOMENTS * GROUPS * (ROUNDS - 1)
    spent["all else"] = whole - sum(spent.values())
    table = Table(title="decide: where the time goes")
    for heading in ("part", "us a moment", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, seconds in spent.most_common():
        table.add_row(name, f"{seconds / moments * 1e6:,.1f}", f"{seconds / whole:.0%}")
    console.print(table)
