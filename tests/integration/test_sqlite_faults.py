"""What goes wrong with files and disks: clear errors at start, nothing lost later."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from opportune_service.adapters.sql import SqlLedger
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import LogKind, LogRow
from support.verdicts import NOON_US, decision, verdict

WHO = "8613800000001"


def open_file(path: Path) -> SqlLedger:
    return SqlLedger.open(f"sqlite:///{path}")


def append(ledger: SqlLedger, position: int, size: int = 10) -> None:
    with ledger.transaction() as tx:
        tx.append_log([LogRow(position, LogKind.EVENTS, "gn", NOON_US, "r1", bytes(size))])


# -- at start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://user:secret@host/db", "sqlite:///file:x.db?mode=ro&uri=true"]
)
def test_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreUnavailableError, match=r"sqlite:///var/opportune\.db") as refused:
        SqlLedger.open(url)
    assert "secret" not in str(refused.value)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"create the directory .*missing first"):
        open_file(tmp_path / "missing" / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_directory_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="is a directory"):
        open_file(tmp_path)


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a directory in which nobody can make files"
)
def test_place_where_no_file_can_be_made() -> None:
    with pytest.raises(StoreUnavailableError, match="write access"):
        open_file(Path("/proc/ledger.db"))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions do not bind root: be somebody else for a moment."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("read_only", ["file", "directory"])
def test_read_only_is_refused(read_only: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory, path = Path(name), Path(name) / "ledger.db"
        open_file(path).close()
        path.chmod(0o444 if read_only == "file" else 0o666)
        directory.chmod(0o555 if read_only == "directory" else 0o777)
        with ordinary_user(), pytest.raises(StoreUnavailableError, match="write access"):
            open_file(path)
        directory.chmod(0o755)


@pytest.mark.parametrize("size", [50, 5000])
def test_file_that_is_no_database_is_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("x" * size)
    with pytest.raises(StoreUnavailableError, match="not a SQLite database"):
        open_file(path)
    assert path.read_text() == "x" * size


def test_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE holidays (day TEXT)")
    other.close()
    with pytest.raises(StoreUnavailableError, match="tables of something else"):
        open_file(path)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("holidays",)]
    other.close()


def test_ledger_of_a_later_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_file(path).close()
    with sqlite3.connect(path) as later:
        later.execute("UPDATE alembic_version SET version_num = '9999'")
    later.close()
    with pytest.raises(StoreUnavailableError, match="revision 9999, which this release does not know"):
        open_file(path)


def test_ledger_from_before_all_migrations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_file(path).close()
    with sqlite3.connect(path) as earlier:
        earlier.execute("DROP TABLE alembic_version")
        earlier.execute("INSERT INTO meta VALUES ('schema', 2)")
    earlier.close()
    with pytest.raises(StoreUnavailableError, match="schema version 2, which this release cannot migrate"):
        open_file(path)


def test_damaged_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_file(path).close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreUnavailableError, match="damaged"):
        open_file(path)


def test_file_that_somebody_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_file(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailableError, match="another process has it open"):
        open_file(path)
    holder.close()
    open_file(path).close()


def test_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_file(path)
    program = (
        "import sys; from opportune_service.adapters.sql import SqlLedger; SqlLedger.open(sys.argv[1])"
    )
    second = run_python(program, f"sqlite:///{path}")
    assert second.returncode != 0
    assert "StoreUnavailableError" in second.stderr
    assert "another process has it open" in second.stderr
    append(ledger, 1)
    assert ledger.last_position() == 1
    ledger.close()
    assert run_python(program, f"sqlite:///{path}").returncode == 0


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


# -- later ------------------------------------------------------------------------------------------


def test_full_database_refuses_the_transaction_and_recovers(tmp_path: Path) -> None:
    connections: list[Any] = []

    def limit(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 200")
        connections.append(connection)

    sa.event.listen(sa.Engine, "connect", limit)
    try:
        ledger = open_file(tmp_path / "ledger.db")
    finally:
        sa.event.remove(sa.Engine, "connect", limit)
    append(ledger, 1)
    with pytest.raises(StoreUnavailableError, match="the disk is full") as full:
        append(ledger, 2, size=2_000_000)
    assert isinstance(full.value.__cause__, sqlite3.Error)
    assert [row.position for row in ledger.read_log(0)] == [1]
    connections[0].execute("PRAGMA max_page_count = 100000")
    append(ledger, 2, size=2_000_000)
    assert ledger.last_position() == 2
    ledger.close()


def test_write_error_refuses_the_transaction_and_recovers(tmp_path: Path) -> None:
    ledger = open_file(tmp_path / "ledger.db")
    append(ledger, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StoreUnavailableError):
            append(ledger, 2, size=2_000_000)
        assert [row.position for row in ledger.read_log(0)] == [1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append(ledger, 2, size=2_000_000)
    ledger.close()
    again = open_file(tmp_path / "ledger.db")
    assert [len(row.payload) for row in again.read_log(0)] == [10, 2_000_000]
    again.close()


def test_errors_hold_no_subscriber_number(tmp_path: Path) -> None:
    ledger = open_file(tmp_path / "ledger.db")
    decided = verdict(WHO, "e1", decision("d1"))
    with ledger.transaction() as tx:
        tx.record_verdicts([decided])
    with pytest.raises(Exception, match="holds this already") as conflict, ledger.transaction() as tx:
        tx.record_verdicts([decided])
    error: BaseException | None = conflict.value
    while error is not None:
        assert WHO not in str(error)
        error = error.__cause__ or error.__context__
    ledger.close()


WRITER = """
import sys
from opportune_service.adapters.sql import SqlLedger
from opportune_service.app.records import LogKind, LogRow
from support.verdicts import decision, verdict

ledger = SqlLedger.open(sys.argv[1])
with ledger.transaction() as tx:
    tx.append_log([LogRow(1, LogKind.EVENTS, "gn", 1, "r1", b"first")])
    tx.record_verdicts([verdict("8613800000001", "e1", decision("d1"))])
unfinished = ledger.transaction()
unfinished.__enter__().append_log([LogRow(2, LogKind.EVENTS, "gn", 2, "r1", b"second")])
print("written", flush=True)
sys.stdin.read()
"""


def test_killed_process_leaves_what_it_finished_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, f"sqlite:///{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    ledger = open_file(path)
    assert [row.payload for row in ledger.read_log(0)] == [b"first"]
    found = ledger.verdict_of("d1")
    assert found == verdict(WHO, "e1", decision("d1"))
    ledger.close()
