"""Rulebases by revision, for labels and expressions in answers to people."""

from __future__ import annotations

from opportune_rulebase import Rulebase

from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.app.errors import UnknownRevisionError, UnloadableRevisionError


async def rulebase_of(app: UseCases, revision: str) -> Rulebase | None:
    """The rulebase; None if it is not stored, or this version of the service no longer takes it."""
    try:
        return await app.rulebases.loaded(revision)
    except (UnknownRevisionError, UnloadableRevisionError):
        return None
