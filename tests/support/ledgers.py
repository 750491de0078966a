"""The stores that the ledger's contract is run against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from opportune_service.adapters.sql import SqlLedger
from opportune_service.app.ports import Ledger

STORES: dict[str, Callable[[Path], Ledger]] = {
    "sqlite-file": lambda directory: SqlLedger.open(f"sqlite:///{directory}/ledger.db"),
    "sqlite-memory": lambda _: SqlLedger.open("sqlite://"),
}
"""Name -> how to open an empty ledger of that kind, given a directory of its own."""
