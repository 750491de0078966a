"""`opportune doctor`: what it finds wrong, on real files, sockets and servers; and it changes nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from opportune_rulebase import load
from opportune_service.adapters.sql import SqlLedger
from opportune_service.cli import app, doctor_callers, doctor_host, doctor_stores
from opportune_service.cli.doctor_stores import ledger as look_at_ledger
from opportune_service.cli.doctor_stores import live_state as look_at_live_state
from opportune_service.cli.findings import Finding, Status
from opportune_service.settings import Settings
from support.applications import running
from support.callers import caller, token_line, write_callers
from support.server import in_loop, running_service
from support.servers import RedisServer
from support.small_rulebase import small_rulebase
from typer.testing import CliRunner, Result

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def doctor(**settings: Any) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and findings by subject."""
    given = {f"OPPORTUNE_{name.upper()}": str(value) for name, value in settings.items()}
    said: Result = CliRunner().invoke(app, ["doctor", "--json"], env=given)
    return said.exit_code, {each["subject"]: each for each in json.loads(said.output)}


def statuses(findings: Iterator[Finding]) -> dict[str, Status]:
    return {each.subject: each.status for each in findings}


def one(findings: Iterator[Finding]) -> Finding:
    [found] = findings
    return found


def ledger_at(path: Path, files: dict[str, bytes] | None = None) -> str:
    """The URL of a ledger with an active rulebase."""

    async def body() -> None:
        async with running(path, files):
            pass

    asyncio.run(body())
    return f"sqlite:///{path}"


# -- as a whole ---------------------------------------------------------------------------------------


def test_where_all_is_well_nothing_is_to_be_done(tmp_path: Path) -> None:
    url = ledger_at(tmp_path / "opportune.db")
    code, found = doctor(database=url, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    assert code == 0
    looked_at = (
        "settings, listen, metrics, tls, callers, disk, ledger, clock, rulebase, calendar, live state"
    )
    assert list(found) == looked_at.split(", ")
    assert {each["status"] for each in found.values()} == {"ok"}
    assert not any(each["advice"] for each in found.values())


def test_wrong_settings_are_a_fault_and_end_the_rest() -> None:
    code, found = doctor(drain_seconds="soon")
    assert (code, list(found)) == (1, ["settings"])
    assert "OPPORTUNE_DRAIN_SECONDS" in found["settings"]["text"]


def test_the_table_says_what_to_do() -> None:
    said = CliRunner().invoke(app, ["doctor"], env={"OPPORTUNE_LISTEN": "0.0.0.0:0"})
    assert said.exit_code == 1
    [line] = [line for line in said.output.splitlines() if line.startswith("fault")]
    assert "can be reached from other machines, in plaintext" in line
    assert "-> set tls_certificate and tls_key, or listen on 127.0.0.1" in said.output


def test_every_finding_that_is_not_well_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    for settings in (
        {"tls_certificate": "x.pem", "tls_key": "x.pem", "tls_client_ca": "x.pem"},
        {"database": "postgresql://u:secret@127.0.0.1:1/x", "live_state": "redis://:secret@127.0.0.1:1"},
        {"database": "nonsense", "listen": "nonsense", "metrics_listen": "nonsense"},
        {"live_state": "redis://127.0.0.1:1", "database": "sqlite:///none/x.db"},
    ):
        code, found = doctor(**settings)
        assert code == 1
        assert all(each["advice"] for each in found.values() if each["status"] != "ok"), found
        assert "secret" not in json.dumps(found)


# -- this machine -------------------------------------------------------------------------------------


def test_an_address_that_is_taken_may_be_the_services_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = list(doctor_host.ports(Settings(listen=f"127.0.0.1:{port}", metrics_listen="127.0.0.1:0")))
    assert [each.status for each in found] == [Status.WARNING, Status.OK]
    assert "taken" in found[0].text


@pytest.mark.parametrize("address", ["192.0.2.1:50051", "127.0.0.1:99999", "127.0.0.1:x", "nonsense"])
def test_an_address_that_will_not_do_is_a_fault(address: str) -> None:
    found = next(doctor_host.ports(Settings(listen=address)))
    assert (found.subject, found.status) == ("listen", Status.FAULT)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a certificate with its key, signed by an authority, for so many days; its path."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(line: str) -> None:
        subprocess.run(["openssl", *line.split()], cwd=directory, check=True, capture_output=True)

    request = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(f"{request} -x509 -days 400 -keyout ca.key -out ca.pem -subj /CN=authority")

    def made(name: str, days: int = 90) -> Path:
        openssl(f"{request} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signed = f"-CA ca.pem -CAkey ca.key -CAcreateserial -days {days}"
        openssl(f"x509 -req -in {name}.csr {signed} -out {name}.pem")
        return directory / f"{name}.pem"

    return made


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (90, Status.OK, "valid for 90 more days"),
        (5, Status.WARNING, "valid for 5 more days"),
        (-1, Status.FAULT, "certificate has expired"),
    ],
)
def test_how_long_a_certificate_is_good_for(make: Make, days: int, status: Status, words: str) -> None:
    path = make(f"days{days}".replace("-", "_"), days)
    found = one(doctor_host.tls(Settings(tls_certificate=path, tls_key=path.with_suffix(".key"))))
    assert found.status is status
    assert words in found.text


def test_a_key_of_another_certificate_is_a_fault(make: Make) -> None:
    first, second = make("first"), make("second")
    found = one(doctor_host.tls(Settings(tls_certificate=first, tls_key=second.with_suffix(".key"))))
    assert found.status is Status.FAULT
    assert "cannot be used together: KEY_VALUES_MISMATCH" in found.text


def test_what_is_no_authority_lets_nobody_in(make: Make) -> None:
    path = make("server")
    tls = {"tls_certificate": path, "tls_key": path.with_suffix(".key")}
    good = statuses(doctor_host.tls(Settings(**tls, tls_client_ca=path.with_name("ca.pem"))))
    assert good == {"tls": Status.OK, "client ca": Status.OK}
    bad = statuses(doctor_host.tls(Settings(**tls, tls_client_ca=path)))
    assert bad == {"tls": Status.OK, "client ca": Status.FAULT}


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, Status.OK),
        ({"listen": "0.0.0.0:1", "allow_plaintext": True}, Status.WARNING),
        ({"listen": "0.0.0.0:1"}, Status.FAULT),
        ({"tls_key": Path("k.pem")}, Status.FAULT),
    ],
)
def test_plaintext_is_for_this_machine_alone(settings: dict[str, Any], status: Status) -> None:
    assert one(doctor_host.tls(Settings(**settings))).status is status


def said_of_callers(**settings: Any) -> list[tuple[Status, str]]:
    return [(each.status, each.text) for each in doctor_callers.callers(Settings(**settings))]


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, Status.OK, "whoever is on this machine"),
        ({"listen": "0.0.0.0:1", "allow_plaintext": True}, Status.WARNING, "other machines"),
        ({"listen": "0.0.0.0:1", "tls_certificate": Path("c.pem")}, Status.FAULT, "other machines"),
        ({"callers": Path("/none.yaml")}, Status.FAULT, "cannot be read"),
    ],
)
def test_where_nobody_is_asked_who_calls(settings: dict[str, Any], status: Status, words: str) -> None:
    [(found, text)] = said_of_callers(**settings)
    assert found is status
    assert words in text


def test_callers_who_cannot_call_are_found(tmp_path: Path) -> None:
    def in_days(days: float) -> str:
        return (datetime.now(UTC) + timedelta(days=days)).isoformat()

    def listed(*callers: dict[str, Any]) -> Path:
        return write_callers(tmp_path / "callers.yaml", callers)

    fine = caller("a", "viewer", tokens=[token_line("t", in_days(90)), token_line("u", in_days(2))])
    path = listed(fine)
    well = [(Status.OK, f"{path} lists 1")]
    assert said_of_callers(callers=path) == well
    assert said_of_callers(callers=path, listen="0.0.0.0:1", tls_certificate=Path("c.pem")) == well
    [_, (status, text)] = said_of_callers(callers=path, listen="0.0.0.0:1", allow_plaintext=True)
    assert (status, "in plaintext" in text) == (Status.FAULT, True)
    soon = caller("b", "viewer", tokens=[token_line("v", in_days(2.1)), token_line("w", in_days(-1))])
    [_, (first, expired), (second, expires)] = said_of_callers(callers=listed(fine, soon))
    assert (first, second) == (Status.WARNING, Status.WARNING)
    assert "a token of b has expired" in expired
    assert "the last token of b expires in 2 days" in expires
    by_certificate = listed(caller("c", "viewer", certificates=["c"]))
    [_, (status, text)] = said_of_callers(callers=by_certificate)
    assert (status, "c is known by a certificate alone" in text) == (Status.FAULT, True)
    assert len(said_of_callers(callers=by_certificate, tls_client_ca=Path("ca.pem"))) == 1


def test_little_room_is_a_warning_and_none_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database=f"sqlite:///{tmp_path}/not/yet/there.db")
    usage = doctor_host.shutil._ntuple_diskusage  # type: ignore[attr-defined]
    for free, status in ((1 << 40, Status.OK), (1 << 30, Status.WARNING), (1 << 20, Status.FAULT)):
        asked: list[Path] = []

        def told(path: Path, free: int = free, asked: list[Path] = asked) -> Any:
            asked.append(path)
            return usage(2 << 40, (2 << 40) - free, free)

        monkeypatch.setattr(doctor_host.shutil, "disk_usage", told)
        assert one(doctor_host.disk(settings)).status is status
        assert asked == [tmp_path]


def test_the_archive_and_the_backup_need_a_place_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(
        database="postgresql://127.0.0.1/x", archive=tmp_path / "archive", backup=tmp_path / "file" / "x.db"
    )
    found = list(doctor_host.disk(settings))
    assert [(each.subject, each.status) for each in found] == [
        ("archive", Status.OK),
        ("backup", Status.FAULT),
    ]
    assert "nothing can be written to" in found[1].text


# -- the ledger ---------------------------------------------------------------------------------------


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = one(look_at_ledger(Settings(database=f"sqlite:///{tmp_path}/opportune.db")))
    assert found.status is Status.WARNING
    assert list(tmp_path.iterdir()) == []
    assert one(look_at_ledger(Settings(database="sqlite:///none/x.db"))).status is Status.FAULT
    assert one(look_at_ledger(Settings(database="sqlite://"))).status is Status.WARNING


@in_loop
async def test_beside_a_running_service_nothing_is_disturbed(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        url = service.app.settings.database
        found = await asyncio.to_thread(lambda: list(look_at_ledger(Settings(database=url))))
        assert [each.status for each in found] == [Status.WARNING]
        assert "in use by another process" in found[0].text
        assert service.app.ingest.healthy.is_set()


def test_a_file_that_is_no_ledger_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to have a header " * 20)
    assert one(look_at_ledger(Settings(database=f"sqlite:///{tmp_path}/text.db"))).status is Status.FAULT
    other = f"sqlite:///{tmp_path}/other.db"
    with sa.create_engine(other).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE something (x)")
    found = one(look_at_ledger(Settings(database=other)))
    assert (found.status, "tables of something else" in found.text) == (Status.FAULT, True)


def test_an_older_ledger_is_told_of_and_left_as_it_is(tmp_path: Path) -> None:
    url = ledger_at(tmp_path / "opportune.db")
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
    found = one(look_at_ledger(Settings(database=url)))
    assert found.status is Status.WARNING
    assert "has revision 0003" in found.text
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0003"


def test_an_older_ledger_on_a_server_is_to_be_migrated(postgres_ledger_url: str) -> None:
    plain = postgres_ledger_url.replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(plain, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        head = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0003'")
    try:
        found = one(look_at_ledger(Settings(database=postgres_ledger_url)))
        assert (found.status, found.advice) == (Status.FAULT, "run: opportune migrate")
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :head"), {"head": head})


def test_a_server_without_tables_will_have_them(postgres_url: str) -> None:
    found = one(look_at_ledger(Settings(database=postgres_url)))
    assert (found.status, "is empty" in found.text) == (Status.WARNING, True)
    plain = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    assert sa.inspect(sa.create_engine(plain, poolclass=sa.pool.NullPool)).get_table_names() == []


def test_a_ledger_on_a_server(postgres_ledger_url: str) -> None:
    found = list(look_at_ledger(Settings(database=postgres_ledger_url)))
    assert [(each.subject, each.status) for each in found] == [
        ("ledger", Status.OK),
        ("clock", Status.OK),
        ("rulebase", Status.WARNING),
    ]


def test_a_server_that_is_gone_or_says_no_is_a_fault(postgres_url: str) -> None:
    for url in ("postgresql://u:p@127.0.0.1:1/x", f"{postgres_url}_none"):
        found = one(look_at_ledger(Settings(database=url)))
        assert (found.status, "cannot be reached" in found.text) == (Status.FAULT, True)


def test_a_clock_that_went_back_is_seen(tmp_path: Path) -> None:
    url = ledger_at(tmp_path / "opportune.db")
    ledger = SqlLedger.open(url)
    with ledger.transaction() as tx:
        tx.save_heartbeat(4_000_000_000_000_000, {})
    ledger.close()
    [found] = [each for each in look_at_ledger(Settings(database=url)) if each.subject == "clock"]
    assert (found.status, "in the future" in found.text) == (Status.FAULT, True)


@pytest.mark.parametrize(
    ("years", "status", "words"),
    [(0, Status.OK, "known until"), (1, Status.WARNING, "known until"), (60, Status.FAULT, "ended on")],
)
def test_how_far_the_calendar_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int, status: Status, words: str
) -> None:
    files = small_rulebase()
    files["rulebase.yaml"] += b"calendar: {country: CN}\n"
    url = ledger_at(tmp_path / "opportune.db", files)
    last = load(files).calendar.last
    assert last is not None

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Then:
            return cls(last.year + years - 1, 12, 1, tzinfo=tz)

    monkeypatch.setattr(doctor_stores, "datetime", Then)
    [found] = [each for each in look_at_ledger(Settings(database=url)) if each.subject == "calendar"]
    assert (found.status, words in found.text) == (status, True)


def test_a_rulebase_that_does_not_load_any_more_is_a_fault(tmp_path: Path) -> None:
    url = ledger_at(tmp_path / "opportune.db")
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        connection.exec_driver_sql("UPDATE rulebases SET archive = x'00'")
    [found] = [each for each in look_at_ledger(Settings(database=url)) if each.subject == "rulebase"]
    assert (found.status, "does not load" in found.text) == (Status.FAULT, True)


# -- live state ---------------------------------------------------------------------------------------

POSTGRES = "postgresql://127.0.0.1/x"


def test_live_state_goes_with_the_ledger(redis_url: str) -> None:
    assert one(look_at_live_state(Settings())).status is Status.OK
    assert one(look_at_live_state(Settings(database=POSTGRES))).status is Status.FAULT
    assert one(look_at_live_state(Settings(database=POSTGRES, live_state=redis_url))).status is Status.OK
    first = next(look_at_live_state(Settings(live_state=redis_url)))
    assert (first.status, "in a file" in first.text) == (Status.FAULT, True)


def test_a_redis_that_throws_states_away_is_a_fault(redis_server: RedisServer, redis_url: str) -> None:
    settings = Settings(database=POSTGRES, live_state=redis_url)
    with redis_server.connect() as client:
        before = client.config_get("maxmemory*")
        try:
            client.config_set("maxmemory-policy", "allkeys-lru")
            found = one(look_at_live_state(settings))
            assert (found.status, "allkeys-lru" in found.text) == (Status.FAULT, True)
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))
            assert one(look_at_live_state(settings)).status is Status.WARNING
        finally:
            for name, value in before.items():
                client.config_set(name, value)


def test_every_primary_of_a_cluster_is_asked(redis_cluster_node: RedisServer) -> None:
    url = redis_cluster_node.url.replace("redis://", "redis+cluster://")
    settings = Settings(database=POSTGRES, live_state=url)
    found = one(look_at_live_state(settings))
    assert found.status is Status.OK
    assert "3 primaries" in found.text
    with redis_cluster_node.connect() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert one(look_at_live_state(settings)).status is Status.FAULT
        finally:
            client.config_set("maxmemory-policy", "noeviction")
