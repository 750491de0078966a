"""The file that lists the callers: who may call, how each shows who it is, what it may do and how often.

```yaml
callers:
  - name: ggsn-collector
    roles: [collector]
    certificates: [ggsn-1.collectors.example]   # common name, DNS name or URI in the client certificate
    events_per_second: 50000
  - name: sms-gateway
    roles: [channel:sms]
    tokens:                                     # by their hashes: 'opportune token' makes both
      - sha256: "0b7c..."
        expires_at: 2027-01-31T00:00:00Z
  - name: zhang.wei
    roles: [operator]
    branches: [hangzhou]
```
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr

from opportune_service.adapters.files.faults import Fault
from opportune_service.adapters.files.yaml_files import Place, read_yaml
from opportune_service.app.access import KnownCaller, Register, Token
from opportune_service.app.callers import ROLES, Caller

_CHANNEL = "channel:"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GUESSABLE = frozenset(
    sha256(word).hexdigest()
    for word in (b"", b"\n", b"changeme", b"opportune", b"password", b"secret", b"token")
)
"""Hashes of what people write where a token should be."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = Annotated[StrictInt, Field(ge=1, le=10_000_000)]


def _role(value: object) -> object:
    """A role as the file writes it: that of a channel client names its channel."""
    if not isinstance(value, str):
        raise ValueError(f"a role is a word: {', '.join(_WORDS)}")  # noqa: TRY004 - pydantic wants this one
    if value in ("channel", _CHANNEL):
        raise ValueError("name the channel, as in channel:sms")
    if not value.startswith(_CHANNEL) and value not in _WORDS:
        raise ValueError(f"no such role; there are: {', '.join(_WORDS)}")
    return value


def _time(value: object) -> object:
    if not isinstance(value, str | datetime):
        raise ValueError("write a date with time and zone, such as 2027-01-31T00:00:00Z")  # noqa: TRY004
    return value


def _hash(value: object) -> object:
    if isinstance(value, str):
        if value.lower() in _GUESSABLE:
            raise ValueError(
                "this is the hash of a word that anybody guesses; make one with: opportune token"
            )
        if not _SHA256.fullmatch(value):
            raise ValueError("this is no hash: 64 hexadecimal digits, as 'opportune token' writes them")
    return value


_WORDS = tuple(_CHANNEL + "NAME" if role == "channel" else role for role in ROLES)

Role = Annotated[StrictStr, BeforeValidator(_role)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Token(_Part):
    sha256: Annotated[StrictStr, BeforeValidator(_hash)]
    expires_at: Annotated[AwareDatetime, BeforeValidator(_time)]


class _Caller(_Part):
    name: StrictStr = Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    roles: tuple[Role, ...] = Field(min_length=1)
    certificates: tuple[Annotated[StrictStr, Field(min_length=1, max_length=256)], ...] = ()
    tokens: tuple[_Token, ...] = ()
    branches: tuple[Annotated[StrictStr, Field(min_length=1)], ...] | None = Field(
        default=None, min_length=1
    )
    calls_per_second: _PER_SECOND | None = None
    events_per_second: _PER_SECOND | None = None

    def known(self) -> KnownCaller:
        channels = frozenset(
            role.removeprefix(_CHANNEL) for role in self.roles if role.startswith(_CHANNEL)
        )
        caller = Caller(
            self.name,
            frozenset(f"ROLE_{role.partition(':')[0].upper()}" for role in self.roles),
            channels,
            None if self.branches is None else frozenset(self.branches),
        )
        tokens = tuple(Token(each.sha256, _micros(each.expires_at)) for each in self.tokens)
        return KnownCaller(caller, self.certificates, tokens, self.calls_per_second, self.events_per_second)


class _File(_Part):
    callers: tuple[_Caller, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class CallersFile:
    """A file of callers that is in order. `expired`: tokens that are not good any more, with their places.
    That is no fault: it comes by itself, and must not keep a service from starting."""

    register: Register
    expired: tuple[Fault, ...]


def read_callers(path: Path, now_us: int) -> CallersFile:
    """Read the file. Raises `YamlFileError` with everything that is wrong with it."""
    made, line = read_yaml(
        path, _File, "a file of callers is a map with the one key callers, a list", _contradictions
    )
    expired = tuple(
        Fault(str(path), line(("callers", number, "tokens", place)), f"a token of {each.name} has expired")
        for number, each in enumerate(made.callers)
        for place, token in enumerate(each.tokens)
        if _micros(token.expires_at) <= now_us
    )
    return CallersFile(Register(each.known() for each in made.callers), expired)


def watch_callers(path: Path, every_seconds: float = 1.0) -> AsyncIterator[None]:
    """Yield whenever the file was changed since this was called, and then left alone for one look: half of
    a file that is being written may be in order, and revoke whoever is in the other half."""
    return _changes(path, _stamp(path), every_seconds)


async def _changes(path: Path, last: tuple[int, ...] | None, every_seconds: float) -> AsyncIterator[None]:
    before = last
    while True:
        await asyncio.sleep(every_seconds)
        seen = await asyncio.to_thread(_stamp, path)
        if seen == before and seen != last:
            last = seen
            yield
        before = seen


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _contradictions(tree: Any) -> Iterator[tuple[Place, str]]:
    """What only the whole list shows: two callers that are one, and a caller who is nobody."""
    seen: dict[tuple[str, str], str] = {}
    listed = tree.get("callers")
    for number, each in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(each, Mapping):
            continue
        if not each.get("certificates") and not each.get("tokens"):
            yield (
                ("callers", number),
                f"callers.{number}: give certificates or tokens; nobody could be this one",
            )
        for place, kind, value in _identities(each):
            where = ".".join(map(str, ("callers", number, *place)))
            name = str(each.get("name"))
            if (kind, value) in seen:
                yield ("callers", number, *place), f"{where}: {kind} of {seen[kind, value]} already"
            seen.setdefault((kind, value), name)


def _identities(caller: Mapping[str, Any]) -> Iterator[tuple[Place, str, str]]:
    """What must not stand twice: the place, what it is and its value."""
    yield ("name",), "this is the name", str(caller.get("name"))
    for kind in ("certificates", "tokens"):
        values = caller.get(kind)
        for number, value in enumerate(values if isinstance(values, list) else ()):
            if kind == "certificates":
                yield (kind, number), "this is a certificate", str(value)
            elif isinstance(value, Mapping) and value.get("sha256"):
                yield (kind, number, "sha256"), "this is a token", str(value["sha256"]).lower()


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
