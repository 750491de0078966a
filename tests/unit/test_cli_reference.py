"""The reference of the command line names every command and every option, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from opportune_service.cli import app
from opportune_service.cli.commands import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_EVERYWHERE = {"--help", "--json", "--target", "--engine", "--install-completion", "--show-completion"}


def command_of(name: str) -> Any:
    """`rulebases list` is the command `list` of the group `rulebases`."""
    found: Any = typer.main.get_command(app)
    for part in name.split():
        found = found.get_command(typer.Context(found), part)
    return found


def every_name() -> Iterator[str]:
    for name in COMMANDS:
        yield name
        yield from (f"{name} {part}" for part in getattr(command_of(name), "commands", {}))


def section(name: str) -> str:
    level = "#" * (2 + name.count(" "))
    _, _, after = PAGE.partition(f"\n{level} opportune {name}\n")
    return re.split(r"\n##", after)[0]


def options_of(name: str) -> set[str]:
    shown = [option for option in command_of(name).params if not getattr(option, "hidden", False)]
    return {each for option in shown for each in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("name", list(every_name()))
def test_every_command_has_a_section_with_all_its_options(name: str) -> None:
    assert f"(#opportune-{name.replace(' ', '-')})" in PAGE
    said = set(_OPTION.findall(section(name)))
    real = {each for each in options_of(name) if each.startswith("--")}
    assert real - said <= _EVERYWHERE
    assert "opportune" in section(name) or name == "simulate"


def test_no_option_is_made_up() -> None:
    real = set().union(*map(options_of, every_name()))
    assert set(_OPTION.findall(PAGE)) - real <= _EVERYWHERE
