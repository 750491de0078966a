"""The matchers under comparison, each used as someone who chose it would, with its facts in its best form.

A contender compiles a workload and gives two functions: `prepare` turns events into the form it likes best
(not timed), `answer` matches them and gives for each event the names of the rules (timed). Behaviours are
chained by our own engines; for the others they are written out in each rule, which suits them better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from workload import METRICS, SPACES, TYPES, Behaviour, Event, Rule, Test, Workload

Answer = Callable[[Any], Sequence[Collection[str]]]


@dataclass(frozen=True, slots=True)
class Contender:
    """`note` says how it is used. `close` gives back what it holds."""

    prepare: Callable[[Sequence[Event]], Any]
    answer: Answer
    close: Callable[[], None] = lambda: None
    note: str = ""


def network(workload: Workload) -> Contender:
    from opportune_rulebase.network import NetworkEngine

    return _ours(NetworkEngine(_rulebase(workload)), "generated Python over indexed conditions")


def durable(workload: Workload) -> Contender:
    from opportune_rulebase.durable import DurableEngine

    return _ours(DurableEngine(_rulebase(workload)), "atoms by CEL, chained by caged durable_rules")


def durable_rules_direct(workload: Workload) -> Contender:
    """One ruleset, one session, each event asserted as a fact and then retracted."""
    from durable import engine, lang

    engine.Host._run = lambda self: None  # its timer threads would race with us
    ruleset, hits = f"direct{len(workload.rules)}", []

    def action(name: str) -> Callable[[Any], None]:
        return lambda c: hits.append(name)  # actions must take exactly one argument

    operators = {"==": "__eq__", ">=": "__ge__", "<": "__lt__"}
    with lang.ruleset(ruleset):
        for rule in workload.rules:
            condition = lang.m.type == rule.type
            for test in rule.flat():
                condition &= getattr(getattr(lang.m, test.field), operators[test.operator])(test.value)
            lang.when_all(condition)(action(rule.name))
    lang.get_host()

    def answer(facts: Sequence[dict[str, object]]) -> list[list[str]]:
        answers = []
        for fact in facts:
            hits.clear()
            with suppress(engine.MessageNotHandledException):  # so it says that no rule matches
                lang.assert_fact(ruleset, fact)
            lang.retract_fact(ruleset, {"sid": "0", "id": "e"})
            answers.append(list(hits))
        return answers

    return Contender(
        lambda events: [{"sid": "0", "id": "e", **event} for event in events],
        answer,
        note="one ruleset, one session, a fact an event, timers off, behaviours written out",
    )


def cel_loop(workload: Workload) -> Contender:
    """For each event, the compiled programs of its type, one after the other."""
    from cel_expr_python import cel

    types = {
        _name(field): cel.Type.STRING if field in ("kind", "brand") else cel.Type.INT for field in SPACES
    }
    environment = cel.NewEnv(variables=types)
    programs = {
        type_: [(rule.name, environment.compile(" && ".join(map(_cel, rule.flat())))) for rule in rules]
        for type_, rules in workload.by_type().items()
    }

    def prepare(events: Sequence[Event]) -> list[tuple[str, Any]]:
        return [
            (str(event["type"]), environment.Activation({_name(field): event[field] for field in SPACES}))
            for event in events
        ]

    def answer(prepared: Sequence[tuple[str, Any]]) -> list[list[str]]:
        return [
            [name for name, program in programs[type_] if program.eval(activation).value()]
            for type_, activation in prepared
        ]

    return Contender(
        prepare, answer, note="a program a rule, activations made beforehand, behaviours written out"
    )


def zen(workload: Workload) -> Contender:
    """A decision table for each event type; contexts as JSON text, which it reads fastest."""
    import zen as library

    tables = {type_: _decision(rules) for type_, rules in workload.by_type().items()}
    engine = library.ZenEngine({"loader": {"type": "static", "content": tables}})

    def answer(prepared: Sequence[tuple[str, str]]) -> list[list[str]]:
        return [
            [row["rule"] for row in engine.evaluate(key, context)["result"]] for key, context in prepared
        ]

    return Contender(
        lambda events: [(str(event["type"]), json.dumps(event)) for event in events],
        answer,
        note="a decision table (collect) an event type, JSON contexts, behaviours written out",
    )


def clips(workload: Workload) -> Contender:
    """Facts in batches of 500, rules over one template, hits recorded by a function."""
    import clips as library

    environment = library.Environment()
    hits: list[tuple[int, str]] = []
    environment.define_function(lambda number, rule: hits.append((number, str(rule))), name="record")
    slots = "".join(f"(slot {name})" for name in ("id", "type", *SPACES))
    environment.build(f"(deftemplate event {slots})")
    for rule in workload.rules:
        environment.build(_defrule(rule))

    template = environment.find_template("event")

    def prepare(events: Sequence[Event]) -> list[dict[str, object]]:
        return [
            {
                name: library.Symbol(value) if isinstance(value, str) else value
                for name, value in event.items()
            }
            for event in events
        ]

    def answer(prepared: Sequence[dict[str, object]]) -> list[list[str]]:
        answers: list[list[str]] = [[] for _ in prepared]
        for start in range(0, len(prepared), 500):
            hits.clear()
            for number, event in enumerate(prepared[start : start + 500], start):
                template.assert_fact(id=number, **event)
            environment.run()
            environment.reset()
            for number, name in hits:
                answers[number].append(name)
        return answers

    return Contender(prepare, answer, note="facts in batches of 500, behaviours written out")


CONTENDERS: dict[str, Callable[[Workload], Contender]] = {
    "network": network,
    "durable": durable,
    "durable_rules_direct": durable_rules_direct,
    "cel_loop": cel_loop,
    "zen": zen,
    "clips": clips,
}


def _name(field: str) -> str:
    return f"{SPACES[field]}.{field}"


def _cel(test: Test) -> str:
    return f"{_name(test.field)} {test.operator} {json.dumps(test.value)}"


def _rulebase(workload: Workload) -> Any:
    from support.rulebases import make_rulebase

    def condition(of: Rule | Behaviour, reads: Behaviour | None) -> str:
        return " && ".join([*map(_cel, of.tests), *([f"behaviour.{reads.name}"] if reads else [])])

    return make_rulebase(
        events={type_: {"kind": "string", "amount": "int"} for type_ in TYPES},
        subscriber={"age": "int", "points": "int", "brand": "string"},
        metrics={metric: {"of": ("t0",), "days": 30} for metric in METRICS},
        definitions={f"behaviour.{each.name}": condition(each, each.below) for each in workload.behaviours},
        campaigns={
            rule.name: {"on": (rule.type,), "when": condition(rule, rule.behaviour)}
            for rule in workload.rules
        },
    )


def _ours(engine: Any, note: str) -> Contender:
    from opportune_rulebase.engine import Facts
    from support.rulebases import NOON_US, SHANGHAI

    def facts(event: Event) -> Facts:
        spaces: dict[str, dict[str, object]] = {"event": {}, "sub": {}, "metric": {}}
        for field, space in SPACES.items():
            spaces[space][field] = event[field]
        metrics = {name: (value, True) for name, value in spaces["metric"].items()}
        return Facts(
            type=str(event["type"]),
            event=spaces["event"],
            sub=spaces["sub"],
            terminal={},
            place=None,
            metric=metrics.__getitem__,  # type: ignore[arg-type]  # numbers, by construction
            now_us=NOON_US,
            zone=SHANGHAI,
        )

    def answer(prepared: Sequence[Facts]) -> list[list[str]]:
        return [[campaign.name for campaign in engine.match(each)] for each in prepared]

    return Contender(lambda events: list(map(facts, events)), answer, engine.close, note)


def _decision(rules: Sequence[Rule]) -> dict[str, object]:
    """A decision of one table: a column for each field, a row for each rule."""

    def cell(rule: Rule, field: str) -> str:
        tests = [test for test in rule.flat() if test.field == field]
        return " and ".join(
            json.dumps(test.value) if test.operator == "==" else f"{test.operator} {test.value}"
            for test in tests
        )

    fields = sorted({test.field for rule in rules for test in rule.flat()})
    at = {"position": {"x": 0, "y": 0}}
    table = {
        "hitPolicy": "collect",
        "inputs": [{"id": field, "name": field, "field": field} for field in fields],
        "outputs": [{"id": "out", "name": "rule", "field": "rule"}],
        "rules": [
            {"_id": rule.name, "out": json.dumps(rule.name)}
            | {field: cell(rule, field) for field in fields}
            for rule in rules
        ],
    }
    return {
        "contentType": "application/vnd.gorules.decision",
        "nodes": [
            {"id": "in", "name": "in", "type": "inputNode", **at},
            {"id": "table", "name": "table", "type": "decisionTableNode", "content": table, **at},
            {"id": "end", "name": "end", "type": "outputNode", **at},
        ],
        "edges": [
            {"id": "first", "sourceId": "in", "targetId": "table", "type": "edge"},
            {"id": "last", "sourceId": "table", "targetId": "end", "type": "edge"},
        ],
    }


def _defrule(rule: Rule) -> str:
    tests: dict[str, list[str]] = {}
    for number, test in enumerate(rule.flat()):
        constraint = (
            str(test.value)
            if test.operator == "=="
            else f"?v{number}&:({test.operator} ?v{number} {test.value})"
        )
        tests.setdefault(test.field, []).append(constraint)
    slots = "".join(f"({field} {'&'.join(each)})" for field, each in tests.items())
    return f"(defrule {rule.name} (event (id ?id) (type {rule.type}) {slots}) => (record ?id {rule.name}))"
