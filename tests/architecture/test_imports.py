"""Imports run one way. The contracts are in pyproject.toml, `[tool.importlinter]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_import_contracts_hold() -> None:
    # A process of its own: in this one it would silence every logger that exists.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
