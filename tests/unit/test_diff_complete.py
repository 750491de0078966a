"""No value of a rulebase is forgotten when two are compared: each is varied by itself."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from opportune_rulebase import Position, Rulebase, load, model, policies
from opportune_rulebase.diff import diff
from opportune_rulebase.expressions import Scope
from support.campaign_meaning import NO_MEANING, meaning, variations

_FILE = re.compile(r"^-- (\S+) --\n", re.MULTILINE)
_CASE = Path(__file__).parents[1] / "golden" / "load" / "whole.txtar"

_MORE = (
    (
        "policies.yaml",
        b"minors: {when: sub.age < 18}",
        b"minors: {when: sub.age < 18, applies_to: {campaigns: [due], products: [mms-bundle], "
        b"categories: [messaging], channels: [sms]}}",
    ),
    ("vocabulary.yaml", b"category: messaging}", b"category: messaging, requires: [mms-bundle]}"),
)
"""What the case lacks."""


def _whole() -> Rulebase:
    _, *parts = _FILE.split(_CASE.read_text(encoding="utf-8"))
    files = {path: text.encode() for path, text in zip(parts[::2], parts[1::2], strict=True)}
    for path, old, new in _MORE:
        assert old in files[path]
        files[path] = files[path].replace(old, new)
    return load(files)


RULEBASE = _whole()
OTHER = Scope({}).compile("1 > 2", Position("other", 1, 1))
VARIATIONS = dict(variations(RULEBASE, OTHER))
MEANINGS = {name: meaning(RULEBASE, name) for name in RULEBASE.campaigns}


def test_there_is_a_variation_of_every_field() -> None:
    own = [
        (module, each)
        for module in (model, policies)
        for each in vars(module).values()
        if is_dataclass(each) and each.__module__ == module.__name__
        # The name of a date or a schedule, which campaigns have under `on`, says all of it.
        if each not in (model.DateTrigger, model.ScheduleTrigger)
    ]
    inner = re.compile(rf"\b({'|'.join([*(each.__name__ for _, each in own), 'Pattern', 'Trigger'])})\b")
    leaves = {
        f"{each.__name__}.{field.name}"
        for _, each in own
        for field in fields(each)
        if not inner.search(str(field.type))
    }
    no_meaning = {f"{kind}.{name}" for kind, name in NO_MEANING}
    # Only a calendar of a country has these, and that has every holiday of a century.
    of_a_country = {"Calendar.country", "Calendar.first", "Calendar.last"}
    assert leaves - no_meaning - VARIATIONS.keys() - of_a_country == set()


@pytest.mark.parametrize("where", sorted(VARIATIONS))
def test_a_variation_is_seen_and_names_whom_it_concerns(where: str) -> None:
    varied = VARIATIONS[where]
    changes = diff(RULEBASE, varied)
    assert changes
    named = {name for change in changes for name in change.affected_campaigns}
    both = RULEBASE.campaigns.keys() & varied.campaigns.keys()
    differing = {name for name in both if MEANINGS[name] != meaning(varied, name)}
    assert differing <= named


def test_nothing_changes_from_a_rulebase_to_itself() -> None:
    assert diff(RULEBASE, RULEBASE) == ()
    assert diff(RULEBASE, _whole()) == ()
