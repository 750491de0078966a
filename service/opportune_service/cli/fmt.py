"""`opportune fmt`: the YAML files of a rulebase in one shape."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.formatting import FormatError, format_yaml
from rich.text import Text

from opportune_service.cli.problems import show_problems
from opportune_service.cli.terminal import ExitCode, err, out

_ASIDE = "mappings"
"""Mappings of event files are YAML of another language; they stay as they are."""


def fmt_command(
    path: Annotated[
        Path,
        typer.Argument(metavar="DIR|FILE", exists=True, help="A rulebase directory, or one YAML file."),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; end with 1 if something would change.")
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Change nothing; show what would change.")] = False,
) -> None:
    """Format the YAML files of a rulebase, its tests among them. Comments and meaning stay.

    Two columns a level, one space where one is wanted, no spaces at the ends of lines. Quotes, blank lines
    and the order of keys stay as written. A file in which a comment or the meaning would be lost is left as
    it is, and named.

    Ends with 0 if all is well now, 1 if a file was refused (with --check: or would change), 2 for a wrong
    command line.

    Example: opportune fmt my-rulebase --check --diff
    """
    refused, changed, total = 0, 0, 0
    for name, file in _yaml_files(path):
        total += 1
        try:
            before = file.read_bytes()
            after = format_yaml(name, before).encode()
            if after == before:
                continue
            changed += 1
            if diff:
                _show_difference(name, before, after)
            if not (check or diff):
                _replace(file, after)
            elif check:
                out().print(f"would be formatted: {name}", markup=False)
        except RulebaseError as error:
            refused += 1
            show_problems(err(), error.problems)
        except FormatError as error:
            refused += 1
            err().print(f"{name} is left as it is: {error}", style="red", markup=False)
        except OSError as error:
            refused += 1
            err().print(f"{name} is left as it is: {error.strerror or error}", style="red", markup=False)
    would = "would be " if check or diff else ""
    left = f", {refused} refused" if refused else ""
    out().print(f"{changed} of {total} files {would}formatted{left}", markup=False)
    raise typer.Exit(ExitCode.NO if refused or (check and changed) else ExitCode.OK)


def _yaml_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Files to format, with their names."""
    if path.is_file():
        yield str(path), path
        return
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        hidden = any(part.startswith(".") for part in parts)
        if file.suffix in {".yaml", ".yml"} and file.is_file() and not hidden and parts[0] != _ASIDE:
            yield "/".join(parts), file


def _show_difference(name: str, before: bytes, after: bytes) -> None:
    old, new = (text.decode("utf-8-sig").splitlines() for text in (before, after))
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in difflib.unified_diff(old, new, f"{name} as it is", f"{name} formatted", lineterm=""):
        out().print(Text(line, style=colours.get(line[0], "")))


def _replace(file: Path, content: bytes) -> None:
    """Write at once: whoever watches the directory never sees half a file."""
    target = file.resolve()
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        shutil.copymode(target, temporary)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
