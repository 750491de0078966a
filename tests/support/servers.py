"""Real PostgreSQL and Redis for tests: on free loopback ports, their files in a directory of their own.

    with postgres(fsync=False) as server, server.database() as url: ...
    with redis() as server: ... server.url

A server that is missing is an error that says what to install, never a skipped test.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

import psycopg
from redis import Redis

PATIENCE_SECONDS = 60
"""How long a server may take to start or to end before the test fails."""

LOOPBACK = "127.0.0.1"

S = TypeVar("S", bound="Server")


class ServerMissingError(RuntimeError):
    """A server that the tests need is not installed."""

    def __init__(self, server: str, package: str) -> None:
        super().__init__(
            f"{server} is not installed; the tests run against a real one: run `make stores`, or install"
            f" the package {package}"
        )


class ServerFailedError(RuntimeError):
    """A server ended, or said nothing, before it was ready."""


class Server:
    """A server process: started when made, and as often as it is told to on the same port and files."""

    def __init__(
        self, command: Sequence[str], ready: str, directory: Path, user: str | None = None
    ) -> None:
        self._command = command
        self._ready = re.compile(ready)
        self._directory = directory
        self._user = user
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Returns when it takes connections."""
        self._lines: deque[str] = deque(maxlen=30)
        self._is_ready = False
        said = threading.Event()
        # A session of its own: an interrupt from the terminal is for the tests, who then end it.
        self._process = subprocess.Popen(
            _run_as(self._user, self._command),
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(said,), daemon=True)
        self._reader.start()
        in_time = said.wait(PATIENCE_SECONDS)
        if not in_time or not self._is_ready:
            self.kill()
            raise ServerFailedError(f"{self._command[0]} did not start: {' / '.join(self._lines)}")

    def _read(self, said: threading.Event) -> None:
        """Also later: a pipe that nobody empties would stop the server."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            if self._ready.search(line):
                self._is_ready = True
                said.set()
        said.set()

    def stop(self) -> None:
        """As an operator does it; connections are closed, what is in memory is written."""
        self._process.send_signal(signal.SIGINT)
        self._ended()

    def kill(self) -> None:
        """As a crash does it, with all of its processes: no handler runs, nothing is flushed."""
        everyone = [self.pid, *_descendants(self.pid)]
        waiting = [_pidfd(pid) for pid in everyone]
        for pid in everyone:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._ended()
        for pidfd in waiting:
            if pidfd is not None:
                select.select([pidfd], [], [], PATIENCE_SECONDS)
                os.close(pidfd)

    def freeze(self) -> None:
        """As a machine that hangs: connections stay open and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in [self.pid, *_descendants(self.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """It does not outlive the test, whatever it is doing."""
        if self._process.poll() is None:
            self.thaw()
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()

    def _ended(self) -> None:
        self._process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found = parents.get(pid, [])
    for child in found:
        found = found + parents.get(child, [])
    return found


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def free_port() -> int:
    """A port that nobody listened on a moment ago, by chance that no test seeds: others look for one at the
    same time. It is below those that outgoing connections get, so that
    a server finds it free also when it is started again."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server((LOOPBACK, port)):
            return port


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that announces itself by nothing but the answer to a question."""
    end = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise ServerFailedError(f"it did not come about: {what}")
        pause.wait(0.01)


@contextmanager
def _directory(user: str | None = None) -> Iterator[Path]:
    """Not below pytest's own: those are closed to other users, and a server may have to be one."""
    made = Path(tempfile.mkdtemp(prefix="opportune-"))
    try:
        if user is not None:
            shutil.chown(made, user, user)
        yield made
    finally:
        shutil.rmtree(made)


# -- PostgreSQL -------------------------------------------------------------------------------------


class Postgres(Server):
    """A PostgreSQL server that trusts everybody on the loopback."""

    def __init__(self, programs: Path, directory: Path, user: str | None, port: int, fsync: bool) -> None:
        self.port = port
        self._names = count(1)
        options = {"listen_addresses": LOOPBACK, "port": port, "unix_socket_directories": ""}
        if not fsync:
            options |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        settings = [f"--{name}={value}" for name, value in options.items()]
        command = [str(programs / "postgres"), "-D", str(directory / "data"), *settings]
        super().__init__(command, "ready to accept connections", directory, user)

    def url(self, database: str, port: int | None = None) -> str:
        """For SQLAlchemy. `port`: of a proxy before the server."""
        return f"postgresql+psycopg://postgres@{LOOPBACK}:{port or self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection on which every statement is a transaction."""
        address = f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"
        return psycopg.connect(address, autocommit=True)

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, empty or a copy of another that nobody is connected to; it is dropped
        at the end, whoever uses it."""
        name = f"test_{next(self._names)}"
        with self.connect() as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        try:
            yield self.url(name)
        finally:
            with self.connect() as admin:
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@contextmanager
def postgres(*, fsync: bool = True) -> Iterator[Postgres]:
    """A new PostgreSQL. `fsync` off is for tests that are not about durability: it is faster."""
    programs = _postgres_programs()
    user = _postgres_user()
    with _directory(user) as directory:
        initdb = [str(programs / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-A", "trust"]
        subprocess.run(
            _run_as(user, [*initdb, "-E", "UTF8", "--locale=C", "--no-sync"]),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        server = _on_a_free_port(lambda port: Postgres(programs, directory, user, port, fsync))
        try:
            yield server
        finally:
            server.close()


def _postgres_programs() -> Path:
    """Where `postgres` and `initdb` are: by the path, else the newest that Debian's packages put apart."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    places += sorted(packaged, key=lambda place: float(place.parent.name), reverse=True)
    for place in places:
        if (place / "postgres").exists() and (place / "initdb").exists():
            return place
    raise ServerMissingError("PostgreSQL", "postgresql")


def _postgres_user() -> str | None:
    """PostgreSQL refuses to be root; its package makes a user for it."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise ServerFailedError(
            "PostgreSQL refuses to run as root, and there is no user postgres: make one, or run the tests"
            " as somebody else"
        ) from None


def _run_as(user: str | None, command: Sequence[str]) -> Sequence[str]:
    """By a program that becomes the user: had Python to, it would fork, which hangs now and then in a
    process with the threads of gRPC."""
    if user is None:
        return command
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--", *command]


def _on_a_free_port(start: Callable[[int], S]) -> S:
    """Somebody else may take the port between the look and the start: then another."""
    for _ in range(5):
        try:
            return start(free_port())
        except ServerFailedError as error:
            if "in use" not in str(error):
                raise
            failure = error
    raise failure


# -- Redis ------------------------------------------------------------------------------------------


class RedisServer(Server):
    """A Redis server."""

    def __init__(self, program: str, directory: Path, port: int, options: Sequence[str]) -> None:
        self.port = port
        place = ["--bind", LOOPBACK, "--port", str(port), "--dir", str(directory)]
        super().__init__([program, *place, *options], "Ready to accept connections", directory)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def connect(self) -> Redis:
        return Redis(host=LOOPBACK, port=self.port, socket_timeout=PATIENCE_SECONDS)


@contextmanager
def redis(*, durable: bool = False) -> Iterator[RedisServer]:
    """A new Redis. One that is not `durable` forgets everything when it ends."""
    options = ["--save", "", "--appendonly", "yes" if durable else "no", "--appendfsync", "always"]
    with _directory() as directory:
        server = _on_a_free_port(lambda port: RedisServer(_redis_program(), directory, port, options))
        try:
            yield server
        finally:
            server.close()


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[RedisServer]]:
    """A Redis Cluster of so many primaries and no replicas."""
    with ExitStack() as stack:
        servers = []
        for _ in range(nodes):
            directory = stack.enter_context(_directory())
            server = _on_a_free_port(partial(_node, directory))
            stack.callback(server.close)
            servers.append(server)
        _join(servers)
        yield servers


def _node(directory: Path, port: int) -> RedisServer:
    options = ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
    return RedisServer(_redis_program(), directory, port, options)


def _join(servers: Sequence[RedisServer]) -> None:
    slots = 16_384
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for server in servers]
        for n, client in enumerate(clients):
            begin, end = n * slots // len(servers), (n + 1) * slots // len(servers)
            client.execute_command("CLUSTER ADDSLOTS", *range(begin, end))
            # Else all begin with the same, and the quarrel about it takes a while.
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER MEET", LOOPBACK, server.port)

        def joined() -> bool:
            infos = [client.execute_command("CLUSTER INFO") for client in clients]
            return all(
                info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == len(servers)
                for info in infos
            )

        until(joined, "the nodes of a Redis Cluster know each other")


def _redis_program() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise ServerMissingError("Redis", "redis-server")
    return found
