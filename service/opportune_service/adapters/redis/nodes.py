"""Talking to Redis: to one server, or to the primaries of a cluster.

Commands are packed here and sent all at once: live state needs few commands with very many arguments, and
packing these one by one would take most of the time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha1
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import TimeoutError as NoAnswerError
from redis.maint_notifications import MaintNotificationsConfig

from opportune_service.adapters.redis.layout import SLOTS
from opportune_service.app.errors import ExpelledError, StoreUnavailableError

_REDIRECTIONS = 5
"""A shard that is being moved answers a few times with where it is now; after that it is unavailable."""

_EXPECTED = (RedisError, RedisClusterException, OSError, TimeoutError)


def arg(data: bytes) -> bytes:
    """An argument of a command, packed."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Script:
    """A script, by the name that Redis has for it once it is loaded."""

    def __init__(self, source: str) -> None:
        digest = sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.head = arg(b"EVALSHA") + arg(digest.encode())
        self.load = Call(0, command(b"SCRIPT", b"LOAD", source.encode()))


@dataclass(frozen=True, slots=True)
class Call:
    """A command for the node that has the shard. `packed`: in pieces. `script`: what it runs, if it runs
    one."""

    shard: int
    packed: Sequence[bytes]
    script: Script | None = None


def command(*args: bytes) -> Sequence[bytes]:
    return [b"*%d\r\n" % len(args), *map(arg, args)]


def call(shard: int, *args: bytes) -> Call:
    return Call(shard, command(*args))


def script_call(
    shard: int, script: Script, keys: Sequence[bytes], args: int, pieces: Iterable[bytes]
) -> Call:
    """`keys` are packed already, and so are the arguments, so many `args`, in `pieces`."""
    head = b"*%d\r\n%b" % (3 + len(keys) + args, script.head + arg(b"%d" % len(keys)))
    return Call(shard, [head, *keys, *pieces], script)


class OtherServerError(RedisError):
    """Who answers is not whom we know."""


class Nodes:
    """The primaries of a cluster, or the one server there is. Used from one event loop.

    Every error of Redis becomes `StoreUnavailableError`; nothing is ever tried again, but what a node of a
    cluster says that another one has.
    """

    def __init__(self, url: str, *, cluster: bool, timeout_seconds: float) -> None:
        """Connects when it is used. Raises `ValueError` on a URL that is none."""
        if not url.startswith(("redis://", "rediss://")):
            raise ValueError("the URL of a Redis begins with redis:// or rediss://")
        self._timeout_seconds = timeout_seconds
        options: dict[str, Any] = {
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 3,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._cluster = RedisCluster.from_url(url, **options) if cluster else None
        self._servers: list[ClusterNode] = []
        if not cluster:
            options |= {"host": "localhost", "port": 6379, **parse_url(url)}
            self._servers = [ClusterNode(**options)]
        self._stale = True
        # Which server is at the other end of a connection, by its run id.
        self._run_ids: WeakKeyDictionary[AbstractConnection, str] = WeakKeyDictionary()
        self._accepted: frozenset[str] = frozenset()

    # -- commands -----------------------------------------------------------------------------------

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, in order. All nodes work at the same time; of one shard, calls are done in order.

        Raises `StoreUnavailableError`: any of the calls may have been done or not. `ExpelledError`: what a
        script says.
        """
        with self._plainly():
            await self._look()
            answers: list[Any] = [None] * len(calls)
            left: Sequence[int] = range(len(calls))
            asking: dict[int, ClusterNode] = {}
            for _ in range(_REDIRECTIONS):
                left = await self._try(calls, left, answers, asking)
                if not left:
                    break
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

    async def _try(
        self,
        calls: Sequence[Call],
        indexes: Iterable[int],
        answers: list[Any],
        asking: dict[int, ClusterNode],
    ) -> list[int]:
        """Those that have to be tried again: at another node, or now that the script is there."""
        by_node: defaultdict[ClusterNode, list[int]] = defaultdict(list)
        for index in indexes:
            by_node[asking.get(index) or self._node_of(calls[index].shard)].append(index)
        answered = await together(
            [
                self._ask(node, [calls[index] for index in some], asking=not asking.keys().isdisjoint(some))
                for node, some in by_node.items()
            ]
        )
        again: list[int] = []
        for (node, some), each in zip(by_node.items(), answered, strict=True):
            missing: set[Script] = set()
            for index, answer in zip(some, each, strict=True):
                answers[index] = answer
                script = calls[index].script
                if isinstance(answer, MovedError) and self._cluster is not None:
                    asking.pop(index, None)
                    await self._cluster.nodes_manager.move_slot(answer)
                elif isinstance(answer, AskError) and self._cluster is not None:
                    other = self._cluster.get_node(answer.host, answer.port)
                    if other is None:
                        raise answer
                    asking[index] = other
                elif isinstance(answer, NoScriptError) and script is not None:
                    missing.add(script)
                else:
                    continue
                again.append(index)
            if missing:
                await self._ask(node, [script.load for script in missing])
        return again

    async def _ask(
        self, node: ClusterNode, calls: Sequence[Call], *, asking: bool = False, anybody: bool = False
    ) -> list[Any]:
        """What the node answers; errors among it."""
        connection = node.acquire_connection()
        unread = False
        try:
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            run_id = self._run_ids.get(connection) or await self._greet(connection)
            if not anybody and run_id not in self._accepted:
                raise OtherServerError
            pieces: list[bytes] = []
            answers: list[Any] = []
            for each in calls:
                if asking:
                    pieces += command(b"ASKING")
                pieces += each.packed
            unread = True
            await connection.send_packed_command(pieces)
            async with _bounded(self._timeout_seconds):
                for _ in calls:
                    if asking:
                        await connection.read_response(timeout=inf)
                    answers.append(await _answer(connection))
            unread = False
        except RuntimeError as error:
            # uvloop says so where the other side has closed and the connection has not noticed yet.
            unread = True
            raise NoConnectionError from error
        else:
            return answers
        finally:
            if unread:
                await connection.disconnect(nowait=True)
            node.release(connection)

    async def _greet(self, connection: AbstractConnection) -> str:
        connection.register_connect_callback(self._forget)  # type: ignore[no-untyped-call]
        await connection.send_packed_command(command(b"INFO", b"server"))
        run_id = _run_id(await connection.read_response())
        self._run_ids[connection] = run_id
        return run_id

    def _forget(self, connection: AbstractConnection) -> None:
        """It is a new connection: perhaps somebody else's."""
        self._run_ids.pop(connection, None)

    # -- nodes --------------------------------------------------------------------------------------

    async def meet(self) -> list[str]:
        """The run ids of all primaries; from now on these and no others are talked to."""
        with self._plainly():
            self._stale = True
            await self._look()
            info = Call(0, command(b"INFO", b"server"))
            answers = await together([self._ask(node, [info], anybody=True) for node in self._primaries()])
            run_ids = sorted(_run_id(answer) for (answer,) in answers)
            self._accepted = frozenset(run_ids)
            return run_ids

    async def keys(self, pattern: bytes) -> list[bytes]:
        """All keys like this, of all nodes; some may come twice."""
        with self._plainly():
            await self._look()
            found: list[bytes] = []
            for node in self._primaries():
                cursor = b"0"
                while True:
                    scan = call(0, b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")
                    (answer,) = await self._ask(node, [scan])
                    if isinstance(answer, Exception):
                        raise answer
                    cursor, some = answer
                    found += some
                    if cursor == b"0":
                        break
            return found

    async def close(self) -> None:
        with self._plainly():
            if self._cluster is not None:
                await self._cluster.aclose()
            for server in self._servers:
                await server.disconnect()

    async def _look(self) -> None:
        """After an error: which node has what may have changed, and idle connections may be dead."""
        if not self._stale:
            return
        for server in self._servers:
            await server.disconnect_free_connections()
        if self._cluster is not None:
            await self._cluster.initialize()
            for node in self._cluster.get_nodes():
                await node.disconnect_free_connections()
            await self._cluster.nodes_manager.initialize()
        self._stale = False

    def _node_of(self, shard: int) -> ClusterNode:
        if self._cluster is None:
            return self._servers[0]
        return self._cluster.nodes_manager.get_node_from_slot(SLOTS[shard])

    def _primaries(self) -> list[ClusterNode]:
        return self._servers if self._cluster is None else self._cluster.get_primaries()

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        try:
            try:
                yield
            finally:
                # Each send goes through `asyncio.wait_for`, which up to Python 3.11 drops a cancellation
                # that comes just when it is done: whoever was cancelled would go on for ever.
                if task and task.cancelling() > cancelled:
                    raise asyncio.CancelledError
        except _EXPECTED as error:
            self._stale = True
            raise _in_plain_words(error) from None
        except asyncio.CancelledError:
            self._stale = True
            raise


@asynccontextmanager
async def _bounded(seconds: float) -> AsyncIterator[None]:
    """`TimeoutError` after so long. What came while this process paused, to collect garbage or for want of
    a processor, is read first: the server is not to blame for it."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as waiting:
        nearly = loop.call_later(0.8 * seconds, lambda: waiting.reschedule(loop.time() + 0.2 * seconds))
        try:
            yield
        finally:
            nearly.cancel()


async def together(asked: Sequence[Awaitable[Any]]) -> list[Any]:
    """All of them, to the end; then the first error, if there is one."""
    if len(asked) == 1:
        return [await asked[0]]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(timeout=inf)  # there is one for all of them together
    except ResponseError as error:
        # An answer like any other: those to the calls after it follow.
        if not connection.is_connected:
            raise
        return error


def _run_id(info: bytes) -> str:
    return next(line[7:] for line in info.decode().splitlines() if line.startswith("run_id:"))


_BY_SCRIPTS: dict[str, StoreUnavailableError] = {
    "EMPTIED": StoreUnavailableError("Redis was emptied; what it held has to be rebuilt from the record"),
    "FENCED": StoreUnavailableError("a call to Redis was overtaken by later ones; try again"),
    "TAKEN": ExpelledError("another member has taken over the subscribers that this one held"),
}
"""What our own scripts answer: the first word, and what it means."""

_IN_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (
        OtherServerError,
        "Redis was restarted, or another server stands in its place",
    ),
    (AuthenticationError, "Redis refused the user name or the password; check the URL"),
    (NoPermissionError, "Redis does not let this user do it; allow it the keys opportune:* and scripts"),
    (BusyLoadingError, "Redis is still loading its data"),
    (ReadOnlyError, "this Redis is a replica, which takes no changes; name the primary"),
    (OutOfMemoryError, "Redis has no memory left; give it more, or keep states for a shorter time"),
    (TryAgainError, "a part of the Redis cluster is being moved"),
    (AskError, "a part of the Redis cluster is being moved"),
    (ClusterDownError, "a part of the Redis cluster is down"),
    (RedisClusterException, "the Redis cluster cannot be reached, or no node has a part of it"),
    (NoAnswerError, "Redis does not answer in time"),
    (TimeoutError, "Redis does not answer in time"),
    (NoConnectionError, "Redis cannot be reached"),
    (OSError, "Redis cannot be reached"),
)


def _in_plain_words(error: Exception) -> Exception:
    """Without what Redis said besides its first word: it may name a subscriber."""
    first = str(error).partition(" ")[0]
    if first in _BY_SCRIPTS and isinstance(error, ResponseError):
        meant = _BY_SCRIPTS[first]
        return type(meant)(*meant.args)
    for type_, words in _IN_WORDS:
        if isinstance(error, type_):
            return StoreUnavailableError(words)
    code = f" ({first})" if first.isupper() else ""
    return StoreUnavailableError(f"Redis refused a command{code}; its own log may tell more")
