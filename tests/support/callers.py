"""Files of callers, and what callers show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opportune_service.app.access import new_token, token_hash
from opportune_service.app.callers import ROLES

DAY_US = 86_400_000_000
TOMORROW = "2026-11-21T04:00:00Z"
"""The day after `NOON_US`."""


def token_line(token: str, expires_at: str = TOMORROW) -> dict[str, str]:
    return {"sha256": token_hash(token), "expires_at": expires_at}


def caller(name: str, *roles: str, **more: Any) -> dict[str, Any]:
    """A caller as its file has it."""
    return {"name": name, "roles": list(roles), **more}


def write_callers(path: Path, callers: Iterable[Mapping[str, Any]]) -> Path:
    """Write the file at once, as whoever manages it should. JSON is YAML."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"callers": list(callers)}, indent=1))
    part.replace(path)
    return path


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that shows a token."""
    return (("authorization", f"Bearer {token}"),)


def tokens(*names: str) -> dict[str, str]:
    """A token for each name."""
    return {name: new_token() for name in names}


def one_of_each_role(path: Path, made: Mapping[str, str], expires_at: str = TOMORROW) -> Path:
    """Write a file with a caller for each role, who is named like it and shows the token of that name; the
    channel client has the channel `sms`."""
    return write_callers(
        path,
        [caller(role, written(role), tokens=[token_line(made[role], expires_at)]) for role in ROLES],
    )


def written(role: str) -> str:
    return "channel:sms" if role == "channel" else role
