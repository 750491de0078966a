"""The ways in which the service is installed: what its stores are, and how to break them.

    with installation("shared", tmp_path) as place, serving_with(place.environment) as service: ...

`shared` has a proxy before each of its servers, so that a test can also break the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.proxy import Proxy, proxy
from support.servers import Server, postgres, redis

NAMES = ("embedded", "shared")
"""`embedded` is one process on SQLite, `shared` any number of them on PostgreSQL and Redis."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Stores that services may be started on."""

    environment: Mapping[str, str]
    """The settings that lead a service to them."""
    ledger_url: str
    """The ledger as it is, past all proxies: for counting what is in it."""
    servers: Mapping[str, Server] = field(default_factory=dict)
    """The servers of it, by what they hold: `ledger`, `live state`."""
    wires: Mapping[str, Proxy] = field(default_factory=dict)
    """The network before each of them, by the same names."""


def installation(name: str, directory: Path) -> AbstractContextManager[Installation]:
    """The installation of this name, empty; `directory` is its own. Its stores are written to disk before
    they answer."""
    return {"embedded": _embedded, "shared": _shared}[name](directory)


@contextmanager
def _embedded(directory: Path) -> Iterator[Installation]:
    url = f"sqlite:///{directory}/opportune.db"
    yield Installation({"OPPORTUNE_DATABASE": url}, url)


@contextmanager
def _shared(_: Path) -> Iterator[Installation]:
    with (
        postgres() as ledger,
        redis() as live_state,
        proxy(ledger.port) as to_ledger,
        proxy(live_state.port) as to_live_state,
    ):
        environment = {
            "OPPORTUNE_DATABASE": ledger.url("postgres", to_ledger.port),
            "OPPORTUNE_LIVE_STATE": f"redis://127.0.0.1:{to_live_state.port}/0",
        }
        yield Installation(
            environment,
            ledger.url("postgres"),
            {"ledger": ledger, "live state": live_state},
            {"ledger": to_ledger, "live state": to_live_state},
        )
