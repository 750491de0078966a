"""The reference of the command line names every command and every option, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from opportune_service.cli import app
from opportune_service.cli.commands import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_EVERYWHERE = {"--help", "--json", "--target", "--engine", "--install-completion"}


def section(name: str) -> str:
    _, _, after = PAGE.partition(f"\n## opportune {name}\n")
    return after.partition("\n## ")[0]


def options_of(name: str) -> set[str]:
    group = typer.main.get_command(app)
    command = group.get_command(typer.Context(group), name)  # type: ignore[attr-defined]
    shown = [option for option in command.params if not getattr(option, "hidden", False)]
    return {each for option in shown for each in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_with_all_its_options(name: str) -> None:
    assert f"(#opportune-{name})" in PAGE
    said = set(_OPTION.findall(section(name)))
    real = {each for each in options_of(name) if each.startswith("--")}
    assert real - said <= _EVERYWHERE
    assert "opportune" in section(name) or name == "simulate"


def test_no_option_is_made_up() -> None:
    real = set().union(*map(options_of, COMMANDS))
    assert set(_OPTION.findall(PAGE)) - real <= _EVERYWHERE
