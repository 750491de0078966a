"""How commands name a revision."""

from __future__ import annotations

import re

from opportune_client import NotFoundError, OperatorClient

from opportune_service.cli.rulebase_view import full_revision
from opportune_service.cli.terminal import ExitCode, stop

DEADLINE_SECONDS = 15.0
_REVISION = re.compile(r"[0-9a-f]{8,64}")
_WHOLE = 64


def whole_revision(client: OperatorClient, given: str) -> str:
    """The revision whose name begins so. Ends the command if there is none, or more than one."""
    digits = given.lower()
    if not _REVISION.fullmatch(digits):
        stop(
            ExitCode.USAGE,
            f"{given!r} names no revision: give its first 8 hex digits or more, as "
            "`opportune rulebases list` shows them.",
        )
    if len(digits) == _WHOLE:
        return digits
    rows = client.list_rulebases(page_size=1_000, timeout=DEADLINE_SECONDS)
    found = [row.revision for row in rows if row.revision.startswith(digits)]
    if not found:
        stop(ExitCode.NO, f"There is no revision {digits}; `opportune rulebases list` shows all.")
    if len(found) > 1:
        stop(ExitCode.NO, f"{digits} begins {len(found)} revisions; give more of: {', '.join(found)}")
    return found[0]


def current_revision(client: OperatorClient) -> str:
    """The one in full force; empty if there is none."""
    try:
        return full_revision(client.get(timeout=DEADLINE_SECONDS).activations)
    except NotFoundError:
        return ""
