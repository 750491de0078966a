"""`opportune token`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from opportune_service.app.access import new_token, token_hash
from opportune_service.cli.options import JsonOption
from opportune_service.cli.terminal import err, print_json


def token_command(
    days: Annotated[int, typer.Option(metavar="N", min=1, max=3660, help="For how long it is good.")] = 90,
    json: JsonOption = False,
) -> None:
    """Make a token for a caller of the service, and what the file of callers has of it.

    The token goes to standard output and is kept nowhere: send it straight into the file that
    OPPORTUNE_TOKEN_FILE names for whoever calls. The lines for the file of callers, which hold its hash, go
    to standard error.

    Example: opportune token --days 90 > zhang.token
    """
    token = new_token()
    expires_at = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if json:
        print_json({"token": token, "sha256": token_hash(token), "expires_at": expires_at})
        return
    typer.echo(token)
    lines = f'    tokens:\n      - sha256: "{token_hash(token)}"\n        expires_at: {expires_at}'
    err().print(lines, markup=False)
