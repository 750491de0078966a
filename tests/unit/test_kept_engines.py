"""Engines that are closed come back for the same rulebase, as if they were new; only a few are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.app.engines import KeptEngines
from support.engine_cases import VOCABULARY
from support.rulebases import make_facts, make_rulebase

MOST = 4
"""So many are kept, says the module."""


@dataclass
class Workshop:
    """Makes engines, and knows which were made and which of them were closed for good."""

    made: list[tuple[Rulebase, Engine]] = field(default_factory=list)
    closed: list[Rulebase] = field(default_factory=list)

    def __call__(self, rulebase: Rulebase) -> Engine:
        workshop = self

        class Watched(NetworkEngine):
            def close(self) -> None:
                workshop.closed.append(rulebase)
                super().close()

        engine = Watched(rulebase)
        self.made.append((rulebase, engine))
        return engine


def a_rulebase(name: str = "a") -> Rulebase:
    return make_rulebase(
        **VOCABULARY, definitions={"scene.s": "sub.age < 30"}, campaigns={name: {"when": "scene.s"}}
    )


def test_it_comes_back_for_the_same_rulebase_only() -> None:
    workshop, rulebase = Workshop(), a_rulebase()
    engines = KeptEngines(workshop)
    engines(rulebase).close()
    assert engines.rulebase(rulebase.revision) is rulebase
    again = engines(rulebase)
    assert len(workshop.made) == 1
    assert engines.rulebase(rulebase.revision) is None, "it is in use"
    assert [each.name for each in again.match(make_facts("sms", {}, sub={"age": 20}))] == ["a"]
    engines(rulebase)
    engines(a_rulebase())
    assert len(workshop.made) == 3, "nobody shares one; what equals it is another rulebase"


def test_what_it_counts_begins_anew() -> None:
    engines, rulebase = KeptEngines(NetworkEngine), a_rulebase()
    engine = engines(rulebase)
    engine.match(make_facts("sms", {}))
    counted = dict(engine.unknowns())
    assert counted
    engine.close()
    again = engines(rulebase)
    assert not again.unknowns()
    again.match(make_facts("sms", {}))
    assert again.unknowns() == counted


def test_it_does_not_grow_with_those_who_have_it() -> None:
    engines, rulebase = KeptEngines(NetworkEngine), a_rulebase()
    condition = rulebase.definitions["scene.s"].when
    engine = engines(rulebase)
    test = engine.test(condition)
    engine.close()
    assert engines(rulebase).test(condition) is test


def test_to_close_twice_gives_it_back_once() -> None:
    workshop, rulebase = Workshop(), a_rulebase()
    engines = KeptEngines(workshop)
    engine = engines(rulebase)
    engine.close()
    engines(rulebase)
    engine.close()  # it is somebody else's by now
    engines(rulebase)
    assert len(workshop.made) == 2


def test_those_that_came_back_first_are_given_up() -> None:
    workshop = Workshop()
    engines = KeptEngines(workshop)
    rulebases = [a_rulebase(f"c{number}") for number in range(MOST + 2)]
    for rulebase in rulebases:
        engines(rulebase).close()
    engines(rulebases[-1]).close()
    assert workshop.closed == rulebases[:2]
    assert engines.rulebase(rulebases[0].revision) is None
    # Two of one rulebase come back: one is enough.
    one, other = engines(rulebases[-1]), engines(rulebases[-1])
    one.close()
    other.close()
    assert workshop.closed.count(rulebases[-1]) == 1
