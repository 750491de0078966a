"""Steps of patterns: which events, under which condition, and how they fit those before them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from opportune_rulebase.expressions import Expression
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import (
    WHERE_READS,
    by_content,
    check_reads,
    event_types,
    refuse_slow,
)
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import Fields, describe
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import ListNode, MapNode, ScalarNode
from opportune_rulebase.model import Vocabulary

MAX_STEPS: Final = 16

_LINK_READS: Final = ("event", "first", "previous")


@dataclass(slots=True)
class RawStep:
    """A step before its conditions are compiled."""

    of: tuple[str, ...]
    where: ScalarNode | None = None
    link: ScalarNode | None = None


def filtered(fields: Fields, key: str, known: Collection[str], vocabulary: Vocabulary) -> RawStep:
    """The event types under `key`, with the filter that stands beside it."""
    return RawStep(event_types(fields, key, known, vocabulary), fields.scalar("where", "an expression"))


def read_step(fields: Fields, key: str, known: Collection[str], vocabulary: Vocabulary) -> RawStep:
    """An event type, a list of them, or `{event: .., where: ..}`."""
    node = fields.node(key)
    if not isinstance(node, MapNode):
        return RawStep(event_types(fields, key, known, vocabulary))
    inner = Fields(fields.report, node, f"{key!r} of {fields.what}", ("event", "where"))
    inner.require("event")
    return filtered(inner, "event", known, vocabulary)


def read_sequence(fields: Fields, known: Collection[str], vocabulary: Vocabulary) -> Iterable[RawStep]:
    """Event types in order, each a name or `{event: .., where: .., link: ..}`; no `link` in the first."""
    node, report = fields.node("sequence"), fields.report
    items = node.items if isinstance(node, ListNode) else ()
    if not 2 <= len(items) <= MAX_STEPS:
        message = f"a sequence has 2 to {MAX_STEPS} steps"
        report.error(fields.place("sequence"), Code.BAD_VALUE, message, "list event types in order")
    for number, item in enumerate(items, 1):
        if isinstance(item, MapNode):
            inner = Fields(report, item, f"step {number} of {fields.what}", keys_in("step"))
            inner.require("event")
            step = filtered(inner, "event", known, vocabulary)
            link = inner.scalar("link", "an expression")
            if number > 1:
                step.link = link
            elif link is not None:
                message = "the first step has no earlier one that 'link' could compare with"
                report.error(inner.key_at("link"), Code.NOT_ALLOWED_HERE, message, "use 'where'")
            yield step
        elif not isinstance(item, ScalarNode) or item.is_null:
            hint = "write an event type, or {event: .., where: .., link: ..}"
            message = f"expected a step, got {describe(item)}"
            report.error(item.at, Code.WRONG_TYPE, message, hint)
        elif item.text not in known:
            report.unknown(item.at, "event type", item.text, known)
        else:
            refuse_slow(item.at, [item.text], fields.what, vocabulary, report)
            yield RawStep((item.text,))


def content_of(step: RawStep, keys: Mapping[str, str]) -> list[object]:
    """What a content key has of a step. `keys`: those of the patterns that it may take in."""
    texts = [node.text.strip() if node else None for node in (step.where, step.link)]
    return [by_content(step.of, keys), *texts]


def compile_where(
    step: RawStep, what: str, vocabulary: Vocabulary, conditions: Conditions, report: Report
) -> Expression | None:
    """The filter of a step; `what`: the pattern, for messages."""
    where = conditions.compile(step.where, "'where' of a pattern", may_read=WHERE_READS)
    check_reads(where, f"'where' of {what}", {"event": step.of}, vocabulary, report)
    return where


def compile_link(
    step: RawStep,
    first: RawStep,
    previous: RawStep,
    vocabulary: Vocabulary,
    conditions: Conditions,
    report: Report,
) -> Expression | None:
    """The comparison of a step with the `first` one and the `previous` one."""
    link = conditions.compile(step.link, "'link'", may_read=_LINK_READS)
    if link is not None and "event.type" in link.reads:
        # Of the events of a step attributes are kept, and nothing else.
        message = "'link' cannot read event.type"
        report.error(link.position, Code.NOT_ALLOWED_HERE, message, "it compares attributes")
        return None
    spaces = {"event": step.of, "first": first.of, "previous": previous.of}
    check_reads(link, "'link'", spaces, vocabulary, report)
    return link
