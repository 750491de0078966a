"""What a revision that is to run beside another must have in common with it."""

from __future__ import annotations

import pytest
from opportune_rulebase.model import Calendar, Place, Rulebase, Source
from opportune_service.core.lanes import disagreements
from support.rulebases import attribute, make_rulebase

FULL = {
    "events": {"call": {"minutes": attribute("minutes", "int", minimum=0)}, "text": {}},
    "subscriber": {"age": "int", "brand": attribute("brand", "string", default="gotone")},
    "imported": {"behaviour.flies": 10},
    "cells": {"1": Place("gate", "Gate", ("airport",))},
    "terminals": {"12345678": {"mms": True}},
    "sources": {"switch": Source("switch", "Switch", frozenset({"call"}), frozenset(), 3_600_000_000)},
}


def beside(**changes: object) -> Rulebase:
    return make_rulebase(**(FULL | changes))  # type: ignore[arg-type]


def test_the_same_declarations_agree() -> None:
    assert disagreements(beside(), beside()) == []


def test_less_may_be_declared_and_rules_may_differ() -> None:
    other = beside(
        events={"call": {"minutes": attribute("minutes", "int", label="another", minimum=0)}},
        subscriber={"age": "int"},
        imported={},
        metrics={"calls": {"of": ("call",), "days": 3}},
        campaigns={"c": {"on": ("call",), "channels": ("mail",)}},
    )
    assert disagreements(beside(), other) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"events": FULL["events"] | {"data": {}}}, "event type 'data' is not declared"),  # type: ignore[operator]
        ({"events": {"call": {"minutes": "int"}}}, "its attribute 'minutes' is declared otherwise"),
        ({"events": {"text": {"length": "int"}}}, "its attribute 'length' is not declared"),
        ({"subscriber": {"age": "string"}}, "sub.age is declared otherwise"),
        ({"subscriber": {"brand": "string"}}, "sub.brand is declared otherwise"),
        ({"subscriber": {"income": "int"}}, "sub.income is not declared"),
        ({"imported": {"behaviour.flies": 20}}, "behaviour.flies is valid for another time"),
        ({"imported": {"behaviour.drives": 10}}, "sub.behaviour.drives is not declared"),
        ({"cells": {}}, "the tables of cells differ"),
        ({"cells": {"1": Place("gate", "Gate", ("mall",))}}, "the tables of cells differ"),
        ({"terminals": {"12345678": {"mms": False}}}, "the tables of terminals differ"),
        ({"sources": {}}, "the sources differ"),
        ({"time_zone": "Asia/Tokyo"}, "the time zones differ"),
        ({"calendar": Calendar(country="CN")}, "the calendars differ"),
    ],
)
def test_what_differs_is_told(changes: dict[str, object], words: str) -> None:
    [found] = disagreements(beside(), beside(**changes))
    assert words in found
