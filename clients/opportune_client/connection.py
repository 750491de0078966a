"""Channels to the service with what a client should always have: deadlines, retries, keepalive."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import grpc
from grpc import aio

MAX_MESSAGE_BYTES: Final = 32 << 20
"""The largest answer taken: pages of decisions with their traces, rulebase archives."""

Token = str | Callable[[], str]
"""A bearer token, or what returns the present one; it is called for each call."""


def connect(
    target: str,
    *,
    tls: bool | None = None,
    root_certificates: bytes | None = None,
    certificate: bytes | None = None,
    private_key: bytes | None = None,
    token: Token | None = None,
) -> grpc.Channel:
    """A channel to the service at `target` (`host:port`), for the synchronous clients.

    It connects when it is first used. TLS is used unless the host is the loopback and nothing secret is
    given; `tls=False` forces plaintext, for networks that encrypt below. `root_certificates`,
    `certificate` and `private_key` are PEM; without roots those of the system are trusted. A `token` is
    sent with each call.

    Calls that may safely be repeated are, up to four times with growing pauses, when the service is
    unavailable; every unary call has a deadline (10 s to publish, 5 s for advice, 15 s to 120 s for the
    rest). A shorter `timeout` of a call wins. Close the channel, or use it in a `with` statement.

    ValueError: a token or certificate without TLS, or a certificate without its key.
    """
    credentials = _credentials(target, tls, root_certificates, certificate, private_key, token)
    if credentials is None:
        return grpc.insecure_channel(target, options=channel_options())
    return grpc.secure_channel(target, credentials, options=channel_options())


def connect_async(
    target: str,
    *,
    tls: bool | None = None,
    root_certificates: bytes | None = None,
    certificate: bytes | None = None,
    private_key: bytes | None = None,
    token: Token | None = None,
) -> aio.Channel:
    """As `connect`, for the asyncio clients: call it in a running loop and use it in that loop only."""
    credentials = _credentials(target, tls, root_certificates, certificate, private_key, token)
    if credentials is None:
        return aio.insecure_channel(target, options=channel_options())
    return aio.secure_channel(target, credentials, options=channel_options())


def service_config() -> str:
    """The published service config, as JSON: which calls are repeated, and all deadlines."""
    return files(__package__).joinpath("service_config.json").read_text("utf-8")


def channel_options() -> list[tuple[str, Any]]:
    """The options of `connect`, for those who must make a channel of their own."""
    return [
        ("grpc.service_config", service_config()),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A dead peer or a forgetful firewall is noticed within 80 s though nothing is being sent.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # gRPC would let the pause between attempts to connect grow to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


class Backoff:
    """Pauses between attempts: doubling, with jitter, so that many clients do not return at once."""

    FIRST = 0.1
    LONGEST = 10.0

    def __init__(self) -> None:
        self._bound = self.FIRST

    def reset(self) -> None:
        """Things went well: the next pause is short again."""
        self._bound = self.FIRST

    def next(self, at_least: float | None = None) -> float:
        """The next pause in seconds, from half of the present bound up to it."""
        pause = random.uniform(self._bound / 2, self._bound)  # noqa: S311 - jitter, no secret
        self._bound = min(self._bound * 2, self.LONGEST)
        return max(pause, at_least or 0.0)


def _credentials(
    target: str,
    tls: bool | None,
    root_certificates: bytes | None,
    certificate: bytes | None,
    private_key: bytes | None,
    token: Token | None,
) -> grpc.ChannelCredentials | None:
    """None for plaintext."""
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key go together; give both or neither")
    secret = root_certificates is not None or certificate is not None or token is not None
    encrypted = (secret or not _is_loopback(target)) if tls is None else tls
    if not encrypted:
        if secret:
            raise ValueError("a token or certificate is never sent in plaintext; leave out tls=False")
        return None
    credentials = grpc.ssl_channel_credentials(root_certificates, private_key, certificate)
    if token is None:
        return credentials
    return grpc.composite_channel_credentials(
        credentials, grpc.metadata_call_credentials(_Bearer(token), name="bearer")
    )


def _is_loopback(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].rpartition("/")[2].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, not an address
        return host == "localhost"


class _Bearer(grpc.AuthMetadataPlugin):
    """Adds the present token to each call."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        token = self._token if isinstance(self._token, str) else self._token()
        callback((("authorization", f"Bearer {token}"),), None)
