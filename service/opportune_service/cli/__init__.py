"""The `opportune` command.

Exit codes: 0 it is so, 1 the answer is no (errors, failed tests, no such thing), 2 a wrong command line,
3 the service or its ledger cannot be reached, 4 it falls short of what was asked for (warnings under
--strict, coverage under --min-coverage), 5 what was named cannot be read.
"""

from __future__ import annotations

import typer

from opportune_service.cli.commands import Commands

__all__ = ["app", "main"]

app = typer.Typer(
    name="opportune",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=(
        "Exit codes: 0 it is so; 1 the answer is no, or errors were found; 2 a wrong command line; "
        "3 the service cannot be reached; 4 it falls short of --strict or --min-coverage; "
        "5 what was named cannot be read."
    ),
)


@app.callback()
def opportune() -> None:
    """A rules engine for a mobile operator: reach a customer at the one moment when an offer is welcome.

    Begin with: opportune dev. Commands that talk to a running service show who calls by the files that
    OPPORTUNE_TOKEN_FILE, or OPPORTUNE_CERTIFICATE and OPPORTUNE_KEY, name; OPPORTUNE_CA names the
    authorities to trust.
    """


def main() -> None:
    """The entry point of the distribution."""
    app(prog_name="opportune")
