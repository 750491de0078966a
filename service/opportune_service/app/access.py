"""Who may call: the callers that are listed, how each shows who it is, and how much it may call.

A token is 32 random bytes, so its plain SHA-256 is all that is kept: what nobody can guess needs neither
salt nor a slow hash. Whoever presents a token cannot choose the hash that is looked up for it, so the time
that the look-up takes tells nothing of the tokens there are: no comparison has to take constant time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from opportune_service.app.callers import Caller
from opportune_service.app.errors import ForbiddenError, RateLimitedError, UnauthenticatedError

_SECOND_US = 1_000_000
_TOKEN = re.compile(r"opp_[A-Za-z0-9_-]{43}")
"""What `new_token` makes. Nothing else is ever accepted, whatever its hash: words that people think of
themselves can be guessed. By the beginning, tools that look for leaked secrets find it."""
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


def new_token() -> str:
    """A token that nobody can guess."""
    return f"opp_{secrets.token_urlsafe(32)}"


def token_hash(token: str) -> str:
    """What the list of callers has of a token: its SHA-256, 64 hexadecimal digits."""
    return sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """A token by its hash, and the instant from which it is not good any more."""

    sha256: str
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class KnownCaller:
    """A caller, with what shows that it is the one: names in its client certificate (common name, DNS or
    URI), or tokens. How many calls, and how many events, it may send in a second; None: any number."""

    caller: Caller
    certificates: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    calls_per_second: int | None = None
    events_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """What a call brings to show who calls: a token, by its hash (which wins), or names in a certificate
    that was verified."""

    sha256: str = ""
    names: tuple[str, ...] = ()


def proof(authorization: str | None, names: tuple[str, ...]) -> Proof:
    """From the call's `authorization`, if it has one, and the names in its certificate. Raises
    `UnauthenticatedError` for what is no bearer token."""
    if authorization is None:
        return Proof(names=names)
    found = _BEARER.fullmatch(authorization)
    if found is None:
        raise UnauthenticatedError("authorization is not 'Bearer TOKEN'")
    if not _TOKEN.fullmatch(found[1]):
        raise UnauthenticatedError("this is no token that 'opportune token' has made")
    return Proof(sha256=token_hash(found[1]))


class Register:
    """The callers of one list. No two share a name, a certificate or a token."""

    def __init__(self, callers: Iterable[KnownCaller]) -> None:
        self.callers = tuple(callers)
        self._by_name = {name: each for each in self.callers for name in each.certificates}
        self._by_hash = {token.sha256: (each, token) for each in self.callers for token in each.tokens}

    def find(self, proof: Proof, now_us: int) -> KnownCaller:
        """Whoever shows this. Raises `UnauthenticatedError`."""
        if proof.sha256:
            if proof.sha256 not in self._by_hash:
                raise UnauthenticatedError(
                    "this token is not known: it was revoked, or is for another service"
                )
            known, token = self._by_hash[proof.sha256]
            if token.expires_at_us <= now_us:
                raise UnauthenticatedError(
                    "this token has expired; ask whoever runs the service for a new one"
                )
            return known
        if not proof.names:
            raise UnauthenticatedError("say who calls: by a bearer token, or by a client certificate")
        found = {id(each): each for name in proof.names if (each := self._by_name.get(name)) is not None}
        if len(found) != 1:
            raise UnauthenticatedError(
                "the client certificate names several callers; it must name one"
                if found
                else "the client certificate names nobody who is known here"
            )
        return next(iter(found.values()))


class Bucket:
    """So many a second in the long run, and as many as a second's worth at once.

    One thing may be larger than that, such as a batch: it passes when one could, and what follows waits
    until it is made up for. The clock may jump: backwards it frees nothing, forwards a second's worth.
    """

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._left = float(per_second)
        self._at_us = 0

    def wait_us(self, now_us: int) -> int:
        """How long until the next may pass; 0: it may now."""
        passed_us = max(0, now_us - self._at_us)
        self._at_us = now_us
        self._left = min(self.per_second, self._left + passed_us * self.per_second / _SECOND_US)
        missing = 1 - self._left
        return 0 if missing <= 0 else max(1, round(missing * _SECOND_US / self.per_second))

    def take(self, amount: int) -> None:
        """So many pass."""
        self._left -= amount


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that was let in: who calls, and what bounds the events that it may send."""

    caller: Caller
    events: Bucket | None = None

    def take_events(self, count: int, now_us: int) -> None:
        """Count events of a call against what the caller may send. Raises `RateLimitedError`."""
        if self.events is not None:
            _take(
                self.events, count, now_us, f"{self.caller.name} may send {self.events.per_second} events"
            )

    def hold_back_us(self, count: int, now_us: int) -> int:
        """Count events of a stream, whatever there is; how long to read no more of it."""
        if self.events is None:
            return 0
        self.events.take(count)
        return self.events.wait_us(now_us)


class Access:
    """Who may call, by the list that is in force: `register`.

    `refused`: why a newer list is not in force; "" if the newest is. Bounds hold for each process; a new
    list is no way around them.
    """

    def __init__(self, register: Register) -> None:
        self._held: dict[str, _Held] = {}
        self.replace(register)

    def replace(self, register: Register) -> None:
        """From now on this list is in force."""
        held = {
            each.caller.name: _hold(each, self._held.get(each.caller.name)) for each in register.callers
        }
        self._held, self.register, self.refused = held, register, ""

    def admit(self, proof: Proof, opened_by: frozenset[str], now_us: int) -> Admission:
        """Let a call in that callers with one of these roles may make. Raises `UnauthenticatedError`,
        `ForbiddenError`, `RateLimitedError`."""
        name = self.check(proof, opened_by, now_us).caller.name
        held = self._held[name]
        if held.calls is not None:
            _take(held.calls, 1, now_us, f"{name} may make {held.calls.per_second} calls")
        return held.admission

    def check(self, proof: Proof, opened_by: frozenset[str], now_us: int) -> KnownCaller:
        """The same without counting it."""
        known = self.register.find(proof, now_us)
        if known.caller.roles.isdisjoint(opened_by):
            raise ForbiddenError(
                f"{known.caller.name} has no role that opens this call; it takes one of: "
                f"{', '.join(sorted(role.removeprefix('ROLE_').lower() for role in opened_by))}"
            )
        return known


@dataclass(frozen=True, slots=True)
class _Held:
    """What is remembered of a caller from call to call."""

    calls: Bucket | None
    admission: Admission


def _hold(known: KnownCaller, before: _Held | None) -> _Held:
    calls, events = (before.calls, before.admission.events) if before else (None, None)
    return _Held(
        _bucket(known.calls_per_second, calls),
        Admission(known.caller, _bucket(known.events_per_second, events)),
    )


def _bucket(per_second: int | None, before: Bucket | None) -> Bucket | None:
    """The one of before, unless the bound is another one."""
    if per_second is None:
        return None
    return before if before is not None and before.per_second == per_second else Bucket(per_second)


def _take(bucket: Bucket, amount: int, now_us: int, what: str) -> None:
    wait_us = bucket.wait_us(now_us)
    if wait_us:
        raise RateLimitedError(f"{what} a second; try again in {wait_us / _SECOND_US:.3g} s", wait_us)
    bucket.take(amount)
