"""The ledger on SQL databases."""

from opportune_service.adapters.sql.ledger import SqlLedger

__all__ = ["SqlLedger"]
