"""The server's certificate, its key and the authorities of clients: read again when their files change.

gRPC asks at each handshake what to use, so a connection that is made after the files changed has the new
ones, and those that are open stay as they are.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import grpc

log = logging.getLogger(__name__)

Credentials = Any
"""What gRPC calls ServerCredentials, which its stubs do not have."""
Configuration = Any
"""ServerCertificateConfiguration, likewise."""


class BadCertificateError(Exception):
    """The files cannot be used together; the message says why and what to do."""


class Certificates:
    """The files as they were when they were last in order. Raises `BadCertificateError` if they are not at
    first; later the last good ones stay, and the log says so."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._stamp = self._look()
        self._present = self._read()
        self._lock = Lock()  # handshakes are in threads of gRPC's own

    def credentials(self) -> Credentials:
        """To be kept as long as the server lives. With `client_ca` a client needs a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._present, self.present, require_client_authentication=self._client_ca is not None
        )

    def present(self) -> Configuration:
        """What to use now. Does not raise: gRPC would let nobody in."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                # A pair is two files: in between they do not fit, and the next handshake looks again.
                self._stamp = stamp
                try:
                    self._present = self._read()
                    log.info("new connections use the TLS files as they are now")
                except BadCertificateError as error:
                    log.error("the TLS files have changed, and those of before stay in use: %s", error)  # noqa: TRY400 - the trace says nothing more
            return self._present

    def _files(self) -> Sequence[Path]:
        return [each for each in (self._certificate, self._key, self._client_ca) if each is not None]

    def _look(self) -> list[tuple[int, ...] | None]:
        found: list[tuple[int, ...] | None] = []
        for path in self._files():
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _read(self) -> Configuration:
        try:
            content = [path.read_bytes() for path in self._files()]
        except OSError as error:
            raise BadCertificateError(f"cannot read {error.filename}: {error.strerror}") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # gRPC itself would only say so at the first handshake, to the client.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or str(error)
            raise BadCertificateError(
                f"{self._certificate} and {self._key} cannot be used together ({why}): name a PEM "
                "certificate chain and its own key, without a passphrase"
            ) from error
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (OSError, ValueError) as error:
                raise BadCertificateError(
                    f"{self._client_ca} holds no certificate of an authority in PEM"
                ) from error
        certificate, key, *authorities = content
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], authorities[0] if authorities else None
        )
