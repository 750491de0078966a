"""Arguments that name what a service has; the shell completes them by asking it.

Who is in the middle of a line waits for it: an answer comes within a second, or there is none. No error is
shown, whatever it is: the command itself says it better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from io import StringIO
from itertools import islice
from typing import Annotated, Any

import typer
from opportune_client import OperatorClient, OpportuneError

from opportune_service.cli.connection import connected
from opportune_service.cli.options import DEFAULT_TARGET

_PATIENCE_SECONDS = 1.0
_MOST = 50
_DIGITS = 12


def campaigns(ctx: Any, incomplete: str) -> list[str]:
    """Campaigns of the rulebase in force."""
    found = _asked(ctx, lambda client: client.get(timeout=_PATIENCE_SECONDS).rulebase.campaigns)
    return [each.campaign for each in found if each.campaign.startswith(incomplete)]


def revisions(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """The newest revisions, with what their authors said of them."""
    found = _asked(
        ctx, lambda client: client.list_rulebases(page_size=_MOST, timeout=_PATIENCE_SECONDS), most=_MOST
    )
    digits = max(_DIGITS, len(incomplete))
    return [(row.revision[:digits], row.comment) for row in found if row.revision.startswith(incomplete)]


def _asked(
    ctx: Any, question: Callable[[OperatorClient], Iterable[Any]], most: int | None = None
) -> list[Any]:
    try:
        with (
            redirect_stderr(StringIO()),
            connected(ctx.params.get("target") or DEFAULT_TARGET) as channel,
        ):
            return list(islice(question(OperatorClient(channel)), most))
    except (OpportuneError, ValueError, OSError, typer.Exit):
        return []


CampaignArgument = Annotated[
    str, typer.Argument(metavar="CAMPAIGN", help="Its name.", autocompletion=campaigns)
]
RevisionArgument = Annotated[
    str,
    typer.Argument(
        metavar="REVISION",
        help="Its first 8 hex digits or more.",
        show_default=False,
        autocompletion=revisions,
    ),
]
