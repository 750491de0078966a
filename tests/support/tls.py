"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path

    def replace_by(self, other: Pair) -> None:
        """Put another pair where this one is, as whoever renews certificates does: file by file."""
        for own, new in ((self.certificate, other.certificate), (self.key, other.key)):
            part = own.with_suffix(".part")
            part.write_bytes(new.read_bytes())
            part.replace(own)


class Authority:
    """An authority of its own in `directory`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.certificate, self._key = directory / "ca.pem", directory / "ca.key"
        self._openssl(
            *("req", *_KEY, "-x509", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def sign(self, name: str, *also: str, stem: str = "", days: int = 2) -> Pair:
        """A certificate with this common name, for 127.0.0.1 and other names (``DNS:...``, ``URI:...``).
        `days` for which it is good; less than none: it has expired."""
        stem = stem or name
        pair = Pair(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        names, request = self._directory / f"{stem}.names", self._directory / f"{stem}.csr"
        names.write_text(f"subjectAltName={','.join(('IP:127.0.0.1', *also))}\n")
        self._openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        self._openssl(
            *("x509", "-req", "-days", days, "-in", request, "-CA", self.certificate, "-CAkey", self._key),
            *("-CAcreateserial", "-extfile", names, "-out", pair.certificate),
        )
        return pair

    def credentials(self, pair: Pair | None = None) -> grpc.ChannelCredentials:
        """Of a client that trusts this authority, and shows the pair if it has one."""
        roots = self.certificate.read_bytes()
        if pair is None:
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(roots, pair.key.read_bytes(), pair.certificate.read_bytes())

    def _openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def channel(address: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    """A channel with a connection of its own, whatever other channels there are to the address."""
    return grpc.aio.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])
