"""What this adapter needs of the service. The composition root's `Application` fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from opportune_service.app.deliver import Deliveries
from opportune_service.app.ingest import Ingest
from opportune_service.app.insight import Insight
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.rulebases import Rulebases


class ServerSettings(Protocol):
    """The settings that this adapter reads; `settings.py` says what each means."""

    @property
    def listen(self) -> str: ...
    @property
    def lease_seconds(self) -> float: ...
    @property
    def reflection(self) -> bool: ...
    @property
    def tls_certificate(self) -> Path | None: ...
    @property
    def tls_key(self) -> Path | None: ...
    @property
    def tls_client_ca(self) -> Path | None: ...
    @property
    def allow_plaintext(self) -> bool: ...
    @property
    def drain_seconds(self) -> float: ...


class UseCases(Protocol):
    """The use cases of one running service, and what they work on."""

    @property
    def settings(self) -> ServerSettings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def live(self) -> LiveRevision: ...
    @property
    def states(self) -> LiveState: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def thread(self) -> LedgerThread: ...
    @property
    def ingest(self) -> Ingest: ...
    @property
    def rulebases(self) -> Rulebases: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def insight(self) -> Insight: ...
