"""The lock files in `requirements/`, as `make lock` writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

ROOT = "opportune"


class Pin(NamedTuple):
    """One line of a lock file. `needed_by`: the names of those that ask for it, `ROOT` for the
    distribution."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def read_lock(path: Path) -> dict[str, Pin]:
    """By canonical name."""
    pins: dict[str, Pin] = {}
    blocks = re.split(r"^(?=[A-Za-z0-9])", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for block in blocks:
        head = re.match(
            r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)\s*(?:;\s*([^\\\n]*?)\s*)?(?:\\|$)", block, re.MULTILINE
        )
        assert head, f"{path.name}: not a pin: {block.splitlines()[0]}"
        hashes = tuple(re.findall(r"--hash=(sha256:[0-9a-f]{64})(?![0-9a-f])", block))
        notes = re.findall(r"^ +# +(?:via +)?([\w.-]+)", block, re.MULTILINE)
        name = canonicalize_name(head[1])
        assert name not in pins, f"{path.name}: {name} is pinned twice"
        by = tuple(canonicalize_name(each) for each in notes if each != "via")
        pins[name] = Pin(name, head[2], head[3] or "", hashes, by)
    return pins
