"""The `opportune` command.

Exit codes: 0 it is so, 1 the answer is no (errors, failed tests, no such thing), 2 a wrong command line,
3 the service or its ledger cannot be reached.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import typer

from opportune_service.cli.cases import cases_command
from opportune_service.cli.check import check_command
from opportune_service.cli.dev import dev_command
from opportune_service.cli.remote import (
    advise_command,
    explain_command,
    health_command,
    reload_command,
    tail_command,
)
from opportune_service.cli.replay import replay_command
from opportune_service.cli.send import send_command
from opportune_service.cli.serve import serve_command
from opportune_service.cli.simulate import simulate_command
from opportune_service.cli.terminal import Commands


def version_command() -> None:
    """Say which version this is.

    Example: opportune version
    """
    typer.echo(f"opportune {_version()}")


def _version() -> str:
    try:
        return version("opportune")
    except PackageNotFoundError:  # run from the source tree, not installed
        return "(not installed)"


__all__ = ["app", "main"]

app = typer.Typer(
    name="opportune",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "A rules engine for a mobile operator: reach a customer at the one moment when an offer is "
        "welcome.\n\n"
        "Begin with: opportune dev"
    ),
    epilog=(
        "Exit codes: 0 it is so; 1 the answer is no, or errors were found; 2 a wrong command line; "
        "3 the service cannot be reached."
    ),
)
for _name, _command in (
    ("dev", dev_command),
    ("serve", serve_command),
    ("check", check_command),
    ("test", cases_command),
    ("send", send_command),
    ("advise", advise_command),
    ("tail", tail_command),
    ("explain", explain_command),
    ("reload", reload_command),
    ("replay", replay_command),
    ("simulate", simulate_command),
    ("health", health_command),
    ("version", version_command),
):
    app.command(_name)(_command)


def main() -> None:
    """The entry point of the distribution."""
    app()
