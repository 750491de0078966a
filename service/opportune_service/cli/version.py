"""`opportune version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import typer


def version_command() -> None:
    """Say which version this is.

    Example: opportune version
    """
    try:
        typer.echo(f"opportune {version('opportune')}")
    except PackageNotFoundError:  # run from the source tree
        typer.echo("opportune (not installed)")
