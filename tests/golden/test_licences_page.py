"""The page of licences is made from the lock file and the metadata of what is installed; run with
OPPORTUNE_UPDATE_GOLDEN=1 to write it anew.

Which distributions are listed follows from `requirements/dev.lock`, so a release that comes tomorrow
changes nothing until `make lock`. Licences are compared by family: metadata says the same in many ways.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.locks import ROOT as DISTRIBUTION
from support.locks import read_lock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "licences.md"
PINS = read_lock(ROOT / "requirements" / "dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PARTS = ("client", "server", "postgres", "redis", "otel", "durable", "smpp")
"""The distribution alone, and its extras but the one for development."""

_FAMILIES = {
    "LGPL": r"lgpl|lesser general public",
    "GPL": r"\bgpl|general public",
    "MPL-2.0": r"mpl|mozilla",
    "Apache-2.0": r"apache",
    "BSD": r"bsd",
    "MIT": r"\bmit\b",
    "PSF-2.0": r"psf|python software foundation|python-2\.0",
    "Zlib": r"zlib",
    "ISC": r"\bisc\b",
    "Unlicense": r"unlicense|public domain",
}
_PERMISSIVE = {"Apache-2.0", "BSD", "MIT", "PSF-2.0", "Zlib", "ISC", "Unlicense"}

_IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.9",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""What is needed on other platforms is not listed."""

_HEAD = """# Licences of what is installed

*Made from `requirements/dev.lock` and the metadata of what is installed; a test compares.*

Opportune itself is under the Apache License 2.0. Below is everything else that `pip install opportune` and
its extras bring along, each where it comes in first. **Bold** is not permissive: it may be used unchanged
from any program; whoever passes it on, in an image for example, passes on its licence and its source, or
says where that is. Versions are in `requirements/`, and in the SBOM of a release ([supply
chain](supply-chain.md)).

| distribution | licence | comes with |
|---|---|---|
"""


def family(name: str) -> str:
    """The family of the licence that is the strictest of those that its metadata names."""
    found = metadata.metadata(name)
    said = found.get_all("License-Expression") or []
    said = said or [each for each in found.get_all("Classifier") or [] if each.startswith("License ::")]
    # Some put the whole text here: its beginning names it.
    said = said or [str(each)[:200] for each in found.get_all("License") or []]
    text = " ".join(said).lower()
    return next((each for each, pattern in _FAMILIES.items() if re.search(pattern, text)), "unknown")


def listed() -> dict[str, str]:
    """Distribution -> the part that it comes with first."""
    found: dict[str, str] = {}
    for part in PARTS:
        needs = PROJECT["dependencies"] if part == "client" else PROJECT["optional-dependencies"][part]
        roots = {canonicalize_name(Requirement(each).name) for each in needs} - {DISTRIBUTION}
        waiting = sorted(roots)
        while waiting:
            name = waiting.pop()
            marker = PINS[name].marker
            if name not in found and (not marker or Marker(marker).evaluate(_IMAGE)):
                found[name] = part
                waiting += [each for each, pin in PINS.items() if name in pin.needed_by]
    return found


def page() -> str:
    parts = listed()
    rows = []
    for name in sorted(parts, key=lambda each: (PARTS.index(parts[each]), each)):
        licence = family(name)
        mark = licence if licence in _PERMISSIVE else f"**{licence}**"
        part = "opportune" if parts[name] == "client" else f"opportune[{parts[name]}]"
        rows.append(f"| {name} | {mark} | `{part}` |\n")
    return _HEAD + "".join(rows)


def rows_of(text: str) -> dict[str, str]:
    return {name: row for row in text.splitlines() if (name := row.split(" | ")[0]).startswith("| ")}


def test_the_page_lists_what_is_installed_with_its_licences() -> None:
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        PAGE.write_text(page(), encoding="utf-8")
    written, made = rows_of(PAGE.read_text(encoding="utf-8")), rows_of(page())
    assert written == made, "dependencies changed; see the top of this file"


def test_no_licence_is_unknown_and_none_forbids_what_we_do() -> None:
    for row in rows_of(PAGE.read_text(encoding="utf-8")).values():
        assert "unknown" not in row
        assert "**GPL**" not in row, "it would be that of the whole service"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("GNU Lesser General Public License v3", "LGPL"),
        ("GPL-3.0-only", "GPL"),
    ],
)
def test_control_families_are_told_apart(text: str, expected: str) -> None:
    assert next(each for each, pattern in _FAMILIES.items() if re.search(pattern, text.lower())) == expected
