"""`opportune new`: a small rulebase to begin with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase.schema import schema_text, schemas

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.cli.options import rulebase_directory
from opportune_service.cli.terminal import ExitCode, out, stop

_STARTER = "starter"
_SCHEMAS = "schema"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def new_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="Where to put it; made if absent.")
    ],
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of the rulebase. [default: that of DIR]", show_default=False
        ),
    ] = "",
) -> None:
    """Write a small rulebase to begin with: a campaign, a pattern, their tests, and schemas for editors.

    Every file explains itself in comments. It checks clean and its tests pass; change it from there.
    Nothing is written into a directory that has something in it.

    Ends with 0 if it was written, 1 if the directory is not empty or cannot be written, 2 for a wrong
    command line.

    Example: opportune new my-rulebase
    """
    chosen = name or _as_name(directory)
    if not _NAME.fullmatch(chosen):
        stop(ExitCode.USAGE, "A name has small letters, digits, _ and -, begins with a letter: see --name.")
    files = read_rulebase(rulebase_directory(None).with_name(_STARTER))
    try:
        if directory.exists() and any(directory.iterdir()):
            stop(ExitCode.NO, f"{directory} is not empty; nothing was written.")
        for path, content in files.items():
            _write(directory / path, _own(content, chosen))
        for path, schema in schemas().items():
            _write(directory / _SCHEMAS / path, schema_text(schema).encode())
    except OSError as error:
        stop(ExitCode.NO, f"{directory} cannot be written: {error.strerror or error}")
    out().print(f"{chosen}: {len(files)} files in {directory}. Look around, then:", markup=False)
    for command in ("check", "test", "dev --rulebase"):
        out().print(f"  opportune {command} {shlex.quote(str(directory))}", markup=False)


def _own(content: bytes, name: str) -> bytes:
    """A file of the starter with the rulebase's name, which finds its schema beside it."""
    named = content.replace(f"rulebase: {_STARTER}".encode(), f"rulebase: {name}".encode())
    return named.replace(f"../../{_SCHEMAS}/".encode(), f"{_SCHEMAS}/".encode())


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _as_name(directory: Path) -> str:
    """The directory's name, as far as a rulebase may have it."""
    text = re.sub(r"[^a-z0-9_-]+", "-", directory.resolve().name.lower()).strip("-_")
    return text[:64] if text[:1].isalpha() else "my-rulebase"
