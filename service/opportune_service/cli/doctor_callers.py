"""What `opportune doctor` looks at in the file of callers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from opportune_service.adapters.files.callers import CallersFile, read_callers
from opportune_service.adapters.files.yaml_files import YamlFileError
from opportune_service.cli.doctor_host import is_loopback
from opportune_service.cli.findings import Finding, Status
from opportune_service.settings import Settings

_DAY_US = 86_400_000_000
_EXPIRES_SOON_US = 14 * _DAY_US


def callers(settings: Settings) -> Iterator[Finding]:
    """Whether it is known who may call, and whether everybody in the file can."""
    if settings.callers is None:
        yield _nobody_is_asked(settings)
        return
    now_us = time.time_ns() // 1_000
    try:
        read = read_callers(settings.callers, now_us)
    except YamlFileError as error:
        yield Finding(
            "callers", Status.FAULT, str(error), "mend the file; docs/guides/security.md shows one"
        )
        return
    text = f"{settings.callers} lists {len(read.register.callers)}"
    yield Finding("callers", Status.OK, text)
    yield from _unable(settings, read)
    yield from _expiring(settings.callers, read, now_us)


def _nobody_is_asked(settings: Settings) -> Finding:
    advice = "set callers, a file that lists who may call: docs/guides/security.md"
    if is_loopback(settings.listen):
        text = "nobody is asked who calls: whoever is on this machine may do everything"
        return Finding("callers", Status.OK, text)
    text = f"nobody is asked who calls, and {settings.listen} can be reached from other machines"
    # Encrypted, the service does not start like this; in plaintext somebody has asked for it.
    status = Status.WARNING if settings.tls_certificate is None else Status.FAULT
    return Finding("callers", status, text, advice)


def _unable(settings: Settings, read: CallersFile) -> Iterator[Finding]:
    """Callers who cannot show who they are, as things are set."""
    if settings.tls_certificate is None and not is_loopback(settings.listen):
        text = "callers would send their tokens in plaintext; the service does not start like this"
        advice = "set tls_certificate and tls_key, or listen on 127.0.0.1 behind a proxy that encrypts"
        yield Finding("callers", Status.FAULT, text, advice)
    elif settings.tls_client_ca is None:
        for each in read.register.callers:
            if not each.tokens:
                text = f"{each.caller.name} is known by a certificate alone, and none is asked for"
                yield Finding("callers", Status.FAULT, text, "set tls_client_ca, or give it a token")


def _expiring(path: Path, read: CallersFile, now_us: int) -> Iterator[Finding]:
    advice = "make a new token (opportune token), and list it beside the old one until the caller has it"
    for fault in read.expired:
        yield Finding("callers", Status.WARNING, str(fault), "remove it, or " + advice)
    for each in read.register.callers:
        left = [token.expires_at_us - now_us for token in each.tokens]
        if not each.certificates and left and 0 < max(left) < _EXPIRES_SOON_US:
            text = f"{path}: the last token of {each.caller.name} expires in {max(left) / _DAY_US:.0f} days"
            yield Finding("callers", Status.WARNING, text, advice)
