"""What `opportune doctor` looks at on this machine: addresses, TLS files, free space."""

from __future__ import annotations

import errno
import ipaddress
import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from opportune_service.cli.findings import Finding, Status
from opportune_service.settings import Settings

_MOST_PORT = 65_535
_DAY = 86_400
_EXPIRES_SOON = 30 * _DAY
_LITTLE_BYTES = 2 << 30
_NO_BYTES = 200 << 20
_RENEW = "renew it; the service takes the new files for new connections by itself"


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether the addresses can be listened on. One that is taken is no fault: the service may run."""
    yield _port("listen", settings.listen)
    if settings.metrics_listen:
        yield _port("metrics", settings.metrics_listen)
    else:
        text = "there are no metrics and no probes over HTTP"
        yield Finding("metrics", Status.WARNING, text, "set metrics_listen, for example to 127.0.0.1:9464")


def _port(subject: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        if not 0 <= int(port) <= _MOST_PORT:
            raise ValueError(port)  # noqa: TRY301 - what looks addresses up would take it modulo that
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"{address} is taken, by the service if it runs"
            return Finding(subject, Status.WARNING, text, "if it does not run, name another port")
        text = f"{address} cannot be listened on: {error.strerror or error}"
        return Finding(subject, Status.FAULT, text, "name an address of this machine, as HOST:PORT")
    except ValueError:
        return Finding(subject, Status.FAULT, f"{address} is no address", "write it as HOST:PORT")
    return Finding(subject, Status.OK, f"{address} is free")


def tls(settings: Settings) -> Iterator[Finding]:
    """Whether the files can be read and fit each other, and how long they are good for."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        yield _plaintext(settings)
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        text = f"{certificate} and {key} cannot be used together: {why}"
        advice = "name a readable PEM certificate chain and its own key, without a passphrase"
        yield Finding("tls", Status.FAULT, text, advice)
        return
    try:
        yield _expiry("tls", certificate, _expires_at(context, certificate))
    except ssl.SSLCertVerificationError as error:
        text = f"clients will refuse {certificate}: {error.verify_message}"
        yield Finding("tls", Status.FAULT, text, _RENEW)
    if settings.tls_client_ca is not None:
        yield from _client_ca(settings.tls_client_ca)


def _plaintext(settings: Settings) -> Finding:
    if settings.tls_certificate or settings.tls_key or settings.tls_client_ca:
        text = "TLS needs both tls_certificate and tls_key"
        return Finding("tls", Status.FAULT, text, "set both, or none of the three")
    if is_loopback(settings.listen):
        return Finding("tls", Status.OK, "plaintext, on loopback only")
    text = f"{settings.listen} can be reached from other machines, in plaintext"
    if settings.allow_plaintext:
        advice = "make sure that a proxy in front of it encrypts, and that nobody reaches it otherwise"
        return Finding("tls", Status.WARNING, text, advice)
    return Finding("tls", Status.FAULT, text, "set tls_certificate and tls_key, or listen on 127.0.0.1")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return address.startswith(("unix:", "unix-abstract:"))


def _no_password() -> str:
    """Nobody is asked for one at the start of a service."""
    return ""


def _client_ca(path: Path) -> Iterator[Finding]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        text = f"{path} cannot be used: {error.strerror or error}"
        advice = "name a readable PEM file of the authorities"
        yield Finding("client ca", Status.FAULT, text, advice)
        return
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()]
    if not ends:
        advice = "name the certificates of the authorities that sign those of clients"
        yield Finding("client ca", Status.FAULT, f"{path} holds no authority: nobody could call", advice)
        return
    yield _expiry("client ca", path, min(ends))


def _expires_at(context: ssl.SSLContext, certificate: Path) -> float:
    """When the first certificate of the chain ends. Found out as a client does, by a handshake in memory
    that trusts this certificate alone. Raises `SSLCertVerificationError` if it will not do."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client.getpeercert()
    assert found is not None  # noqa: S101 - it was verified
    return float(ssl.cert_time_to_seconds(str(found["notAfter"])))


def _expiry(subject: str, path: Path, ends: float) -> Finding:
    left = ends - time.time()
    if left <= 0:
        return Finding(subject, Status.FAULT, f"{path} has expired: nobody can call", _RENEW)
    text = f"{path} is valid for {left / _DAY:.0f} more days"
    if left < _EXPIRES_SOON:
        return Finding(subject, Status.WARNING, text, _RENEW)
    return Finding(subject, Status.OK, text)


def disk(settings: Settings) -> Iterator[Finding]:
    """Free space where files are written: the ledger if it is in one, the archive, the backup."""
    places = {"archive": settings.archive, "backup": settings.backup and settings.backup.absolute().parent}
    try:
        url = sa.make_url(settings.database)
    except sa.exc.ArgumentError:
        pass  # the ledger's own finding says so
    else:
        if url.drivername == "sqlite" and url.database not in (None, "", ":memory:"):
            places = {"disk": Path(str(url.database)).absolute().parent, **places}
    for subject, directory in places.items():
        if directory is not None:
            yield _room(subject, directory.absolute())


def _room(subject: str, directory: Path) -> Finding:
    while not directory.exists():
        directory = directory.parent
    if not (directory.is_dir() and os.access(directory, os.W_OK)):
        advice = "give this user write access, or name another place"
        return Finding(subject, Status.FAULT, f"nothing can be written to {directory}", advice)
    usage = shutil.disk_usage(directory)
    text = f"{usage.free / (1 << 30):.1f} GiB are free at {directory}"
    advice = "make room: when the disk is full, nothing is acknowledged any more"
    if usage.free < _NO_BYTES:
        return Finding(subject, Status.FAULT, text, advice)
    if usage.free < _LITTLE_BYTES or usage.free < usage.total // 20:
        return Finding(subject, Status.WARNING, text, advice)
    return Finding(subject, Status.OK, text)
