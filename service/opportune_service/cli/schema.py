"""`opportune schema`: JSON Schema of a rulebase's files, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase.schema import schema_name, schema_text, schemas

from opportune_service.cli.terminal import ExitCode, out, stop


def schema_command(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="A file of a rulebase, such as vocabulary.yaml.")
    ] = "",
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", file_okay=False, help="Write all schemas into this directory."
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of a rulebase's file, or write all of them into a directory.

    Editors complete and check by it. Name it in the first line of a file:
    # yaml-language-server: $schema=schema/vocabulary.schema.json

    Example: opportune schema --out schema
    """
    made = schemas()
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        for name, schema in made.items():
            (directory / name).write_text(schema_text(schema), encoding="utf-8")
        out().print(f"{len(made)} schemas written to {directory}", markup=False)
        return
    wanted = schema_name(file)
    if wanted not in made:
        files = ", ".join(name.removesuffix(".schema.json") + ".yaml" for name in made)
        stop(ExitCode.USAGE, f"There is no schema for {file!r}. Name one of {files}, or use --out DIR.")
    typer.echo(schema_text(made[wanted]), nl=False)
