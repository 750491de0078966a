"""What changes from one rulebase to another, as an analyst would put it.

Two rulebases are compared by what they mean, not by how they are written: the order of keys and files,
comments, spaces, quotes and templates that are written out make no difference. Values are shown as an
analyst writes them. That something reaches more or fewer is only said where it is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from opportune_rulebase.diff import summaries
from opportune_rulebase.diff.elements import Element, elements
from opportune_rulebase.diff.policies import policy_elements
from opportune_rulebase.diff.reach import Reach
from opportune_rulebase.diff.tables import TableChange, table_changes
from opportune_rulebase.model import Rulebase

__all__ = ["Change", "ChangeKind", "KeyChange", "diff"]

_ORDER = (
    *("rulebase", "campaign", "scene", "behaviour", "pattern", "fact", "metric"),
    *("suppression", "quiet hours", "cap", "cool-down", "consent", "fit", "policy"),
    *("product", "channel", "event", "attribute", "table", "source", "calendar"),
)
"""Kinds of elements: what is decided first, then what it is made of."""


class ChangeKind(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key with what it said and what it says, as it is written; "" where nothing was said."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """One element that differs.

    `element`: what it is; `name` is unique among its like. `label`: the later one. `summary`: what that
    means for whom it reaches, in a sentence. `keys`: those that differ, only of what is CHANGED; of a table
    some rows. `affected_campaigns`: all that are reached through it, before or after, by name; a campaign
    itself; none through what has another label and nothing else.
    """

    kind: ChangeKind
    element: str
    name: str
    label: str
    summary: str
    keys: tuple[KeyChange, ...]
    affected_campaigns: tuple[str, ...]


def diff(before: Rulebase, after: Rulebase) -> tuple[Change, ...]:
    """What changes, by element and name; nothing if both mean the same. Pure.

    Whatever a campaign does differently, some change has it among its `affected_campaigns`.
    `diff(after, before)` has the same elements, with before and after the other way round.
    """
    reach = (Reach(before), Reach(after))
    found = [*_changes(before, after, reach), *_table_changes(before, after, reach)]
    return tuple(sorted(found, key=lambda each: (_ORDER.index(each.element), each.name)))


def _changes(before: Rulebase, after: Rulebase, reach: tuple[Reach, Reach]) -> Iterator[Change]:
    earlier, later = _by_name(before), _by_name(after)
    for key in earlier.keys() | later.keys():
        old, new = earlier.get(key), later.get(key)
        if old is None and new is not None:
            summary = summaries.of_new(new)
            yield _change(ChangeKind.ADDED, new, summary, (), _affected(reach, new.nodes))
        elif old is not None and new is None:
            summary = summaries.of_gone(old)
            yield _change(ChangeKind.REMOVED, old, summary, (), _affected(reach, old.nodes))
        elif old is not None and new is not None:
            keys = tuple(_key_changes(old, new))
            if not keys and old.state == new.state:
                continue
            only_label = old.state == new.state and [each.key for each in keys] == ["label"]
            affected = _affected(reach, new.nodes)
            if only_label and new.kind != "campaign":
                affected = ()
            yield _change(ChangeKind.CHANGED, new, summaries.of_change(old, new), keys, affected)


def _by_name(rulebase: Rulebase) -> dict[tuple[str, str], Element]:
    found = chain(elements(rulebase), policy_elements(rulebase))
    return {(each.kind, each.name): each for each in found}


def _key_changes(old: Element, new: Element) -> Iterator[KeyChange]:
    if old.label != new.label:
        yield KeyChange("label", old.label, new.label)
    # In an order that does not depend on which of the two is the later one.
    for key in sorted(old.says.keys() | new.says.keys()):
        before, after = old.says.get(key), new.says.get(key)
        if before is None or after is None or before.meaning != after.meaning:
            texts = before.text if before else "", after.text if after else ""
            if before and after and texts[0] == texts[1]:
                # What is written is the same, what it comes to is not.
                texts = str(before.meaning), str(after.meaning)
            yield KeyChange(key, *texts)


def _change(
    kind: ChangeKind, element: Element, summary: str, keys: tuple[KeyChange, ...], affected: tuple[str, ...]
) -> Change:
    return Change(kind, element.kind, element.name, element.label, summary, keys, affected)


def _table_changes(before: Rulebase, after: Rulebase, reach: tuple[Reach, Reach]) -> Iterator[Change]:
    for table in table_changes(before, after):
        keys = tuple(KeyChange(*sample) for sample in table.samples)
        affected = _affected(reach, (f"table.{table.name}",))
        yield Change(_kind(table), "table", table.name, "", summaries.of_table(table), keys, affected)


def _kind(table: TableChange) -> ChangeKind:
    if not table.rows[0]:
        return ChangeKind.ADDED
    return ChangeKind.CHANGED if table.rows[1] else ChangeKind.REMOVED


def _affected(reach: Iterable[Reach], nodes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set().union(*(each.campaigns(nodes) for each in reach))))
