"""Settings of the service, each with its meaning: from options, the environment, a file, or by default.

The environment (`OPPORTUNE_...`) wins over the file, options of the command line win over both. The file is
TOML with the same names: `opportune.toml` in the working directory, or the one that `config` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "OPPORTUNE_"
DEFAULT_FILE = Path("opportune.toml")

_NO_SETTINGS = frozenset(
    {
        "OPPORTUNE_CA",
        "OPPORTUNE_CERTIFICATE",
        "OPPORTUNE_KEY",
        "OPPORTUNE_SHARED_DATA",
        "OPPORTUNE_SMPP_PASSWORD",
        "OPPORTUNE_TARGET",
        "OPPORTUNE_TOKEN_FILE",
    }
)
"""Names in the environment that other programs of the distribution read."""
_BY_ORCHESTRATORS = re.compile(
    r"OPPORTUNE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes puts into the environment of its own accord when a service is named `opportune`."""
_BY_TOOLS = re.compile(r"_?OPPORTUNE_(COMPLETE|UPDATE_GOLDEN)")
_PASSWORD = re.compile(r"(?<=://)([^:/?#@]*:)\S*(?=@)|(password=)[^&\s]*", re.IGNORECASE)


class EngineName(StrEnum):
    NETWORK = "network"
    DURABLE = "durable"


class Settings(BaseSettings):
    """Everything that an operator can set. A wrong value and an unknown name are refused at start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # it may be a password
        use_attribute_docstrings=True,
    )

    config: Path | None = None
    """A TOML file with settings. Without it `opportune.toml` in the working directory is read, if there is
    one. It cannot be set in a file."""

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

    live_state: str = ""
    """Where several processes share the live state of subscribers: ``redis://HOST:PORT/0`` (``rediss://``
    for TLS), or ``redis+cluster://HOST:PORT`` for any node of a Redis Cluster. They share the ledger too,
    on PostgreSQL. Empty: this process is the only one, and holds live state in its memory."""

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
    """PEM certificates of the authorities whose client certificates are required and accepted. It, the
    server's certificate and its key are read again when they change, for new connections."""

    callers: Path | None = None
    """A YAML file that lists who may call, how each shows who it is, and what it may do; it is read again
    when it changes. Without one everybody who can connect may do everything: on loopback, or with
    `allow_plaintext`."""

    signers: Path | None = None
    """A directory of PEM files, or one of them: the public Ed25519 keys of those who sign rulebases. With
    it a rulebase is neither uploaded nor activated without a signature of one of them. Read again at each
    use. Without one signatures are kept, and nobody looks at them."""

    allow_plaintext: bool = False
    """Serve plaintext on other addresses than loopback too, behind a proxy that encrypts and says who may
    call; `callers` are not for that."""

    leave_seconds: float = Field(default=0, ge=0)
    """How long calls are still taken after SIGTERM, when the service already says that it is not ready: the
    time that load balancers need to notice."""

    drain_seconds: float = Field(default=10, ge=0)
    """How long calls under way may go on after that."""

    metrics_listen: str = ""
    """Address of plain HTTP for `/metrics` (Prometheus), `/healthz` and `/readyz`, such as
    ``127.0.0.1:9464``; empty: none. It shows no subscriber, but whoever reaches it sees how campaigns
    fare."""

    trace_endpoint: str = ""
    """Where a span of each call is sent, by OpenTelemetry (OTLP over gRPC), such as
    ``http://127.0.0.1:4317``; empty: nowhere. Needs the extra `otel`."""

    keep_log_days: int = Field(default=30, ge=1)
    """For how many days the log of events is kept, for replay, rehearsal and backfill: as long as the
    longest window of a metric in any case. Also for how long rejected events and counters of days are."""

    keep_history_days: int = Field(default=410, ge=1)
    """For how many days decisions, contacts and what came of them are kept. As long as the rulebase looks
    back in any case (caps, cool-downs, attribution, alarms); a later one may look back for 400 days."""

    keep_audit_days: int = Field(default=3650, ge=1)
    """For how many days it is kept who paused, erased and redrove what, and why."""

    archive: Path | None = None
    """A directory to which everything is written before it is pruned. Without one it is only deleted."""

    backup: Path | None = None
    """A file that the service keeps a backup of its SQLite ledger in, made while it works."""

    backup_hours: float = Field(default=24, gt=0)
    """How old that backup may grow before a new one takes its place."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)  # noqa: S101 - it always is
        file = _file(init_settings.init_kwargs.get("config"))
        return (init_settings, _Environment(settings_cls), _File(settings_cls, file))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name in type(self).model_fields:
            yield name, shown(getattr(self, name))


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting as it holds. `value` is safe to print. `origin`: where it comes from."""

    name: str
    value: str
    origin: str


def effective(settings: Settings, options: Mapping[str, object]) -> list[Effective]:
    """Every setting with its origin; `options` are those of the command line that `settings` were made
    with."""
    file = _file(options.get("config"))
    environment, written = _Environment(Settings)(), _File(Settings, file)()
    found = []
    for name in Settings.model_fields:
        if name in options:
            origin = "command line"
        elif name in environment:
            origin = PREFIX + name.upper()
        elif name in written:
            origin = str(file)
        else:
            origin = "default"
        found.append(Effective(name, shown(getattr(settings, name)), origin))
    return found


def shown(value: object) -> str:
    """The value of a setting as it may be printed: passwords in URLs are blotted out."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", str(value))


def hint_for(name: str) -> str:
    """What to do about a setting that there is none of."""
    near = get_close_matches(name.lower(), Settings.model_fields, 1)
    return f"did you mean {near[0]}?" if near else "'opportune settings' lists those that there are"


def _file(config: object) -> Path | None:
    """The file to read; None if there is none to be read."""
    named = config or os.environ.get(f"{PREFIX}CONFIG")
    if named:
        return Path(str(named))
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


class _Environment(EnvSettingsSource):
    """The environment, unknown names included: they are refused like those of a file."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        for name in os.environ:
            setting = name.removeprefix(PREFIX).lower()
            if (
                name.startswith(PREFIX)
                and setting not in Settings.model_fields
                and name not in _NO_SETTINGS
                and not _BY_ORCHESTRATORS.fullmatch(name)
                and not _BY_TOOLS.fullmatch(name)
            ):
                values[setting] = os.environ[name]
        return values


class _File(TomlConfigSettingsSource):
    """The TOML file at `path`; None: no file. Raises `ValidationError` if it cannot be read."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path | None) -> None:
        if path is not None and not path.is_file():
            raise _unusable(f"there is no file {path}")
        try:
            super().__init__(settings_cls, path)
        except OSError as error:
            raise _unusable(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # no TOML, or no UTF-8
            raise _unusable(f"{path} is not TOML: {error}") from error
        if "config" in self.toml_data:
            raise _unusable(f"{path} names a file of settings itself, which only you can do")


def _unusable(why: str) -> ValidationError:
    error = PydanticCustomError("settings_file", "{why}", {"why": why})
    return ValidationError.from_exception_data(
        "Settings", [{"type": error, "loc": ("config",), "input": ""}]
    )
