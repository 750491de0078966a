"""What is installed: everything is pinned with its hashes, and pins fit what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.locks import Pin, read_lock

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
EXTRAS = PROJECT["project"]["optional-dependencies"]
IMAGE = ("server", "postgres", "redis", "otel")
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def asked_for(*extras: str) -> list[Requirement]:
    """What the distribution needs with these extras, and with those that they name."""
    found = [Requirement(each) for each in PROJECT["project"]["dependencies"]]
    waiting = list(extras)
    while waiting:
        for each in map(Requirement, EXTRAS[waiting.pop()]):
            if each.name == PROJECT["project"]["name"]:
                waiting += each.extras
            else:
                found.append(each)
    return found


def faults(requirements: list[Requirement], pins: dict[str, Pin]) -> list[str]:
    """Those that no pin fits."""
    found = []
    for each in requirements:
        pin = pins.get(canonicalize_name(each.name))
        if pin is None:
            found.append(f"{each} is not in the lock file")
        elif not each.specifier.contains(Version(pin.version)):
            found.append(f"{each} is pinned to {pin.version}")
    return found


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("image", asked_for(*IMAGE)),
        ("dev", asked_for("dev")),
        ("build", [Requirement(each) for each in PROJECT["build-system"]["requires"]]),
    ],
)
def test_every_dependency_is_pinned_within_its_bounds(lock: str, requirements: list[Requirement]) -> None:
    assert faults(requirements, read_lock(ROOT / "requirements" / f"{lock}.lock")) == [], "run: make lock"


def test_control_what_is_not_pinned_or_out_of_bounds_is_seen() -> None:
    pins = read_lock(ROOT / "requirements" / "image.lock")
    asked = [Requirement("grpcio>=999"), Requirement("left-pad>=1")]
    assert faults(asked, pins) == [
        f"grpcio>=999 is pinned to {pins['grpcio'].version}",
        "left-pad>=1 is not in the lock file",
    ]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_pin_has_its_hashes_and_no_index_is_named(path: Path) -> None:
    assert [pin.name for pin in read_lock(path).values() if not pin.hashes] == []
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^-.*|\w+://\S*|\s@\s", text, re.MULTILINE) == []


def test_the_image_has_the_releases_that_are_tested() -> None:
    tested = read_lock(ROOT / "requirements" / "dev.lock")
    other = {
        name: (pin.version, tested[name].version)
        for name, pin in read_lock(ROOT / "requirements" / "image.lock").items()
        if pin.version != tested[name].version
    }
    assert other == {}, "run: make lock"


def test_the_image_installs_nothing_that_is_not_hashed() -> None:
    commands = re.findall(r"pip (?:--python \S+ )?(?:install|wheel)[^&\n]*", DOCKERFILE)
    assert len(commands) == 4
    for command in commands:
        assert re.search(r"-r requirements/(image|build)\.lock", command) or (
            "--no-deps" in command and "--no-index" in command
        ), command
    assert "PIP_REQUIRE_HASHES=1" in DOCKERFILE
    assert "!requirements" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def test_what_is_locked_for_the_image_is_what_is_checked_here() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert " ".join(f"--extra {extra}" for extra in IMAGE) + " --constraint" in makefile
