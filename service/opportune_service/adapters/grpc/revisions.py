"""Rulebases by revision, for labels and expressions in answers to people."""

from __future__ import annotations

import asyncio

from opportune_rulebase import Rulebase, RulebaseError, from_archive, load

from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.app.errors import UnknownRevisionError

_KEPT = 4


class Revisions:
    """The live rulebase at no cost, and the few others that were asked for last."""

    def __init__(self, app: UseCases) -> None:
        self._app = app
        self._others: dict[str, Rulebase] = {}

    async def rulebase(self, revision: str) -> Rulebase | None:
        """The rulebase; None if it is not stored, or this version of the service no longer takes it."""
        live = self._app.live
        if live.id == revision:
            return live.current.rulebase
        if revision not in self._others:
            try:
                _row, archive, _live = await self._app.rulebases.get(revision)
                loaded = await asyncio.to_thread(lambda: load(from_archive(archive)))
            except (UnknownRevisionError, RulebaseError):
                return None
            self._others[revision] = loaded
            while len(self._others) > _KEPT:
                del self._others[next(iter(self._others))]
        return self._others.get(revision)
