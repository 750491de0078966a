"""`opportune settings`: which settings hold, and where each comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from opportune_service.cli.options import JsonOption
from opportune_service.cli.terminal import out, print_json
from opportune_service.settings import Settings, effective

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A TOML file with settings. [default: opportune.toml, if it exists]",
    ),
]


def settings_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show every setting as it would hold for `opportune serve` here, and where it comes from.

    Passwords are not shown. Ends with 2 if a setting is wrong or unknown.

    Example: opportune settings --config /etc/opportune/opportune.toml
    """
    options: dict[str, Any] = {} if config is None else {"config": config}
    found = effective(Settings(**options), options)
    if json:
        print_json({each.name: {"value": each.value, "origin": each.origin} for each in found})
        return
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for each in found:
        style = "dim" if each.origin == "default" else ""
        table.add_row(each.name, Text(each.value), Text(each.origin), style=style)
    out().print(table)
