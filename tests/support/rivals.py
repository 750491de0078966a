"""Two processes at one ledger in PostgreSQL: one at work in the test, the other in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

import psycopg
from opportune_service.adapters.sql import SqlLedger
from opportune_service.app.ports import LedgerTransaction
from support.servers import until

T = TypeVar("T")
PATIENCE_SECONDS = 20.0


class Rivals:
    """`one` and `two` are the same ledger, each over a connection of its own."""

    def __init__(self, one: SqlLedger, two: SqlLedger, look: psycopg.Connection[tuple[int]]) -> None:
        self.one = one
        self.two = two
        self._look = look
        self._pool = ThreadPoolExecutor(1)

    def other(self, work: Callable[[LedgerTransaction], T]) -> Future[T]:
        """In the thread: a transaction of `two` that does this."""

        def whole() -> T:
            with self.two.transaction() as tx:
                return work(tx)

        return self._pool.submit(whole)

    def waits(self, other: Future[object]) -> bool:
        """True as soon as `two` waits for a lock; False if it gets to its end instead."""
        until(lambda: other.done() or self._waiting() > 0, "the other one waits, or is done")
        return not other.done()

    def _waiting(self) -> int:
        found = self._look.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE NOT granted AND datname = current_database()"
        ).fetchone()
        assert found is not None
        return found[0]

    def close(self) -> None:
        self._pool.shutdown()


@contextmanager
def rivals(url: str) -> Iterator[Rivals]:
    """At the ledger with this URL."""
    address = url.replace("+psycopg", "")
    with (
        closing(SqlLedger.open(url)) as one,
        closing(SqlLedger.open(url)) as two,
        psycopg.connect(address, autocommit=True) as look,
        closing(Rivals(one, two, look)) as both,
    ):
        yield both
