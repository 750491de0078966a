"""A ledger that fails when it is told to."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ports import LedgerTransaction


class Flaky:
    """A ledger whose transactions fail while `failing` is set; everything else is the real one's. `after`:
    they fail at their end, else at their beginning."""

    def __init__(self, ledger: Any, *, after: bool) -> None:
        self._ledger = ledger
        self._after = after
        self.failing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Any:
        if self.failing and not self._after:
            raise StoreUnavailableError("the disk is full")
        with self._ledger.transaction() as tx:
            yield tx
            if self.failing:
                raise StoreUnavailableError("the disk is full")
