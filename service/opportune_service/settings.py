"""Settings of the service, from the environment (`OPPORTUNE_...`), each with its meaning."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineName(StrEnum):
    NETWORK = "network"
    DURABLE = "durable"


class Settings(BaseSettings):
    """Everything that an operator can set. An unknown name in the environment is not noticed; a wrong
    value is refused at start."""

    model_config = SettingsConfigDict(env_prefix="OPPORTUNE_", frozen=True)

    listen: str = "127.0.0.1:50051"
    """Address of the gRPC server. Plaintext is served on loopback only, unless `allow_plaintext`."""

    database: str = "sqlite:///var/opportune.db"
    """URL of the ledger. ``sqlite://`` keeps everything in memory and forgets it at the end."""

    rulebase: Path | None = None
    """A rulebase directory to load and activate at start if it is not the active revision."""

    watch: bool = False
    """Activate `rulebase` again whenever its files change. For development."""

    engine: EngineName = EngineName.NETWORK
    """Which matching engine runs: `network` (fast) or `durable` (durable_rules, caged)."""

    lease_seconds: float = Field(default=30, gt=0)
    """How long a channel client may take over a delivery before it is given to another."""

    checkpoint_seconds: float = Field(default=30, gt=0, le=600)
    """How often changed subscribers are snapshotted; a restart replays the log since then. The service says
    at the same time that it lives: after an hour of silence it is taken to have missed events."""

    ready_subscribers: int = Field(default=200_000, ge=1)
    """How many subscribers' states are kept ready to use, those used last. A ready one takes some kilobytes
    of memory, tens of them with a hundred metrics and patterns. One at rest takes a twentieth of that, and
    an event that finds it so some tenths of a millisecond more: have room for all who are active in a
    minute."""

    timer_seconds: float = Field(default=0.25, gt=0)
    """How often it is looked for timers and triggers that are due."""

    reflection: bool = False
    """Serve gRPC reflection, so that generic clients can list the methods."""

    tls_certificate: Path | None = None
    """PEM certificate chain of the server; with `tls_key` it turns TLS on."""

    tls_key: Path | None = None
    """PEM private key of the server."""

    tls_client_ca: Path | None = None
    """PEM certificates of the authorities whose client certificates are required and accepted."""

    allow_plaintext: bool = False
    """Serve plaintext on other addresses than loopback too, behind a proxy that encrypts."""

    drain_seconds: float = Field(default=10, ge=0)
    """How long calls under way may go on after SIGTERM."""
