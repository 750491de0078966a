"""Rulebase directories: read whole, and watched for changes in development."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from opportune_rulebase.errors import Position, Problem, RulebaseError

_SUFFIXES = {".yaml", ".yml", ".csv", ".xlsx"}
MAX_FILE_BYTES = 32 * 1024 * 1024


def read_rulebase(directory: Path) -> dict[str, bytes]:
    """All YAML, CSV and XLSX files below `directory`, by path relative to it with forward slashes.

    Hidden files are passed over; a link that leads out of the directory is refused. Raises
    `RulebaseError` with the file's name if something cannot be read.
    """
    if not (directory / "rulebase.yaml").is_file():
        problem = Problem(
            Position(str(directory)),
            "missing-file",
            "there is no rulebase.yaml in this directory",
            "name the directory that holds rulebase.yaml",
        )
        raise RulebaseError((problem,))
    root = directory.resolve()
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.suffix not in _SUFFIXES or hidden or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            problems.append(Problem(Position(name), "outside", "the link leads out of the rulebase"))
        elif path.stat().st_size > MAX_FILE_BYTES:
            problems.append(Problem(Position(name), "too-large", f"more than {MAX_FILE_BYTES} bytes"))
        else:
            try:
                files[name] = path.read_bytes()
            except OSError as error:
                problems.append(Problem(Position(name), "unreadable", error.strerror or str(error)))
    if problems:
        raise RulebaseError(tuple(problems))
    return files


def watch_rulebase(directory: Path, every_seconds: float = 0.5) -> AsyncIterator[None]:
    """Yield whenever a file below `directory` was added, changed or removed since this was called."""
    return _changes(directory, _fingerprint(directory), every_seconds)


async def _changes(
    directory: Path, before: dict[str, tuple[int, int]], every_seconds: float
) -> AsyncIterator[None]:
    while True:
        await asyncio.sleep(every_seconds)
        after = await asyncio.to_thread(_fingerprint, directory)
        if after != before:
            before = after
            yield


def _fingerprint(directory: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in directory.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:  # removed while we looked; the next look sees the rest
            continue
        found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found
