"""How commands connect to the service, and show who calls.

Secrets are named by files, and the files by the environment: a command line shows in the list of processes
and in the shell's history.
"""

from __future__ import annotations

import os
from pathlib import Path

import grpc
from opportune_client import connect

from opportune_service.cli.terminal import ExitCode, stop

CA, CERTIFICATE, KEY, TOKEN_FILE = (
    f"OPPORTUNE_{name}" for name in ("CA", "CERTIFICATE", "KEY", "TOKEN_FILE")
)
"""Variables that name files: PEM certificates of the authorities that the service's certificate may be from
(else those of the system), the caller's own certificate and key, and its token."""


def connected(target: str) -> grpc.Channel:
    """A channel to the service: plaintext on loopback unless one of the variables is set, else TLS."""
    certificate, key = _content(CERTIFICATE), _content(KEY)
    if (certificate is None) != (key is None):
        stop(ExitCode.USAGE, f"{CERTIFICATE} and {KEY} go together: set both, or neither.")
    token = os.environ.get(TOKEN_FILE)
    _content(TOKEN_FILE)  # at once: later it would only be a failed call
    return connect(
        target,
        root_certificates=_content(CA),
        certificate=certificate,
        private_key=key,
        # Read for each call: commands that run for months follow a token that is renewed.
        token=(lambda: Path(token).read_text("ascii").strip()) if token else None,
    )


def _content(variable: str) -> bytes | None:
    """Of the file that the variable names; None if it names none."""
    path = os.environ.get(variable)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        stop(ExitCode.UNREADABLE, f"{variable}: cannot read {path}: {error.strerror}")
