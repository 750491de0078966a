"""A rulebase as it is named on the command line: a directory, or a zip archive of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase import from_archive
from opportune_rulebase.errors import RulebaseError

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.cli.problems import show_problems
from opportune_service.cli.terminal import ExitCode, err, stop

RulebasePath = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", exists=True, help="The directory that holds rulebase.yaml, or a zip archive of it."
    ),
]


def read_files(path: Path) -> dict[str, bytes]:
    """The files of a rulebase. Ends the command with UNREADABLE if there is none, or it cannot be read."""
    try:
        return read_rulebase(path) if path.is_dir() else from_archive(path.read_bytes())
    except RulebaseError as error:
        show_problems(err(), error.problems)
        stop(ExitCode.UNREADABLE, f"No rulebase can be read from {path}.")
    except OSError as error:
        stop(ExitCode.UNREADABLE, f"{path} cannot be read: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write a report. Ends the command if that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        stop(ExitCode.NO, f"{path} cannot be written: {error.strerror or error}")
