"""Hostile rulebases: refused with what is wrong, or borne, within bounds of memory and without hanging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from opportune_rulebase import load
from opportune_rulebase.network import NetworkEngine
from support import hostile_rulebases
from support.hostile_rulebases import BASE, CASES, campaigns
from support.rulebases import make_facts

MIB = 256
HANGS_AFTER_S = 60  # far more than any takes: this finds what never ends, not what is slow

REFUSED = {
    "billion-laughs": "alias",
    "deep-flow": "too-deep",
    "deep-mappings": "too-deep",
    "deep-dashes": "too-deep",
    "deep-blocks": "too-deep",
    "duplicate-keys": "duplicate-key",
    "many-nodes": "too-many",
    "huge-file": "too-large",
    "huge-files": "too-large",
    "utf-16": "not-utf8",
    "half-a-character": "not-utf8",
    "deep-brackets": "bad-expression",
    "deep-lists": "bad-expression",
    "deep-choices": "bad-expression",
    "wrong-expressions": "too-many-problems",
    "unparsable-expressions": "too-many-problems",
    "long-expressions": "too-many",
    "many-variables": "too-many",
    "circle": "circle",
    "many-circles": "circle",
    "circle-of-patterns": "too-many",
    "chain-of-patterns": "too-many",
    "circle-of-templates": "circle",
    "wide-template": "too-many",
    "talkative-template": "too-many",
    "large-matrix": "too-many",
    "one-cell-of-names": "too-many",
    "far-cell": "bad-table",
    "unpacks-to-much": "bad-table",
    "many-elements": "bad-table",
    "laughing-workbook": "bad-table",
    "archive": "too-large",
}
BORNE = {
    "alternatives",
    "comprehensions",
    "nasty-patterns",
    "doubling",
    "ten-thousand-campaigns",
    "many-event-types",
}


def test_every_case_is_tried() -> None:
    assert {*CASES, "archive"} == {*REFUSED, *BORNE}


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc"
)
@pytest.mark.parametrize("name", [*REFUSED, *sorted(BORNE)])
def test_it_is_refused_or_borne_within_bounds(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", hostile_rulebases.__name__, name],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=True,
        timeout=HANGS_AFTER_S,
    )
    found = json.loads(done.stdout)
    assert found["mib"] < MIB
    assert (REFUSED[name] in found["codes"]) if name in REFUSED else not found["codes"]


@pytest.mark.parametrize("name", ["comprehensions", "nasty-patterns"])
def test_what_is_borne_can_be_asked(name: str) -> None:
    """CEL stops at its budget of iterations, and RE2 takes time in proportion to the text."""
    rulebase = load(BASE | CASES[name]())
    engine = NetworkEngine(rulebase)
    facts = make_facts("called", event={"seconds": 1, "topic": "a" * 100_000 + "!"})
    assert [campaign.name for campaign in engine.match(facts)] == ["a"]


def test_a_control_is_not_refused() -> None:
    """The same makers, without harm."""
    assert len(load(BASE | campaigns(3, when=lambda n: f"sub.age > {n}")).campaigns) == 4
