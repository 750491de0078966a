"""What is put away in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from opportune_service.app.records import (
    Aged,
    Kept,
)


class Archive(Protocol):
    """Where what is pruned is kept, outside of the ledger.

    Guarantees: when `put` has returned, all of it is durable, and complete for whoever reads; what is put
    again, whole and alike, is there once. Non-guarantees: it is blocking; what was put may, after a crash,
    be put again in part, in another piece.
    """

    def put(self, kind: Kept, day: int, aged: Sequence[Aged]) -> None:
        """Keep these, all of one day (counted in UTC since 1970). Raises OSError: then nothing is kept."""
        ...


class BackedUp(Protocol):
    """A ledger that can copy itself while it works. PostgreSQL has tools of its own for that."""

    def back_up(self, path: Path, stopped: Callable[[], bool]) -> None:
        """Write a copy as of some instant during the call, with all that was committed before it; in place
        of what is at `path`, when the copy is complete and checked.

        Blocking, for as long as the copy takes; from any thread, while the ledger's own goes on. Ends
        without a copy once `stopped` says so, which must be before `close`. Raises `StoreUnavailableError`.
        """
        ...
