"""The section `facts`: what is remembered for a time after an event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import (
    by_content,
    check_reads,
    content_key,
    event_types,
    refuse_same,
)
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, Fields
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import Node, ScalarNode
from opportune_rulebase.model import Definition, Fact, Vocabulary

MAX_FOR_US: Final = 400 * DAY_US

_READS: Final = frozenset({"event", "sub", "terminal", "place", "now", "zone", "calendar"})


@dataclass(slots=True)
class RawFact:
    """A fact before its condition is compiled."""

    name: str
    label: str
    on: tuple[str, ...]
    when: ScalarNode | None
    for_us: int
    at: Position


def read_facts(section: Fields, vocabulary: Vocabulary, report: Report) -> dict[str, RawFact]:
    """The facts; errors go to `report`."""
    return {
        key.text: _fact(key, value, vocabulary, report)
        for key, value in section.named("facts", "fact", identifier=True)
    }


def _fact(key: ScalarNode, value: Node, vocabulary: Vocabulary, report: Report) -> RawFact:
    fields = Fields(report, value, f"fact {key.text!r}", keys_in("fact"), at=key.at)
    fields.require("on", "for")
    return RawFact(
        name=key.text,
        label=fields.text("label", key.text),
        on=event_types(fields, "on", vocabulary.events, vocabulary),
        when=fields.scalar("when", "an expression"),
        for_us=fields.duration("for", DAY_US, most=MAX_FOR_US),
        at=key.at,
    )


def compile_facts(
    raw: Mapping[str, RawFact],
    definitions: Mapping[str, Definition],
    keys: Mapping[str, str],
    vocabulary: Vocabulary,
    conditions: Conditions,
    report: Report,
) -> Mapping[str, Fact]:
    """The facts with their conditions compiled. `keys`: the content keys of the patterns.

    `definitions`: each after all that it reads.
    """
    texts = _texts(definitions)
    chains = _chains(definitions)
    found = {}
    for name, each in raw.items():
        when = conditions.compile(each.when, "'when' of a fact")
        check_reads(when, f"'when' of fact {name!r}", {"event": each.on}, vocabulary, report)
        if when is not None:
            _refuse_changing(name, when, chains, report)
        text = [when.text.strip(), *(texts[n] for n in sorted(when.reads & texts.keys()))] if when else None
        key = content_key("fact", by_content(each.on, keys), text, each.for_us)
        found[name] = Fact(name, key, each.label, each.on, when, each.for_us)
    sound = {
        name: fact.key
        for name, fact in found.items()
        if fact.on and (fact.when is not None or raw[name].when is None)
    }
    refuse_same("fact", sound, {name: each.at for name, each in raw.items()}, report)
    return MappingProxyType(found)


def _texts(definitions: Mapping[str, Definition]) -> dict[str, str]:
    """A hash of what each definition says, and of what those say that it reads."""
    found: dict[str, str] = {}
    for name, each in definitions.items():
        read = [found[n] for n in sorted(each.when.reads & found.keys())]
        found[name] = content_key(name, each.when.text.strip(), read)
    return found


def _chains(definitions: Mapping[str, Definition]) -> dict[str, tuple[str, ...]]:
    """The definitions that read in the end what changes with other events: by way of which, and what."""
    found: dict[str, tuple[str, ...]] = {}
    for name, each in definitions.items():
        for read in sorted(each.when.reads):
            if read in found or _changes(read):
                found[name] = (name, *found.get(read, (read,)))
                break
    return found


def _changes(variable: str) -> bool:
    """Whether it changes with other events. An imported behaviour does not: it is context, like `sub.*`."""
    return variable.partition(".")[0] not in _READS | {"behaviour", "scene"}


def _refuse_changing(
    name: str, when: Expression, chains: Mapping[str, tuple[str, ...]], report: Report
) -> None:
    """Refuse what changes with other events: it would matter in which order events come in."""
    for read in sorted(when.reads):
        if read not in chains and not _changes(read):
            continue
        *way, variable = chains.get(read, (read,))
        message = f"'when' of fact {name!r} cannot read {variable}"
        if way:
            message += f" (by way of {' -> '.join(way)})"
        hint = f"it may read {', '.join(sorted(_READS))}, and definitions made of these alone"
        report.error(when.position, Code.NOT_ALLOWED_HERE, message, hint)
