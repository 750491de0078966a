"""`opportune diff`: what changes from one rulebase to another, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase import load
from opportune_rulebase.diff import Change, ChangeKind, KeyChange, diff
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.loading.problems import clip
from opportune_rulebase.model import Rulebase
from rich.console import Console
from rich.text import Text

from opportune_service.cli.options import JsonOption
from opportune_service.cli.problems import show_problems
from opportune_service.cli.rulebase_files import read_files
from opportune_service.cli.terminal import ExitCode, err, out, print_json, stop

_SIGNS = {
    ChangeKind.ADDED: ("+", "green"),
    ChangeKind.REMOVED: ("-", "red"),
    ChangeKind.CHANGED: ("~", "yellow"),
}
_SHOWN_KEYS = 12
_SHOWN_NAMES = 8
_SHOWN_CHARACTERS = 200


def diff_command(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", exists=True, help="A rulebase directory, or an archive.")
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER", exists=True, help="The later one.")],
    json: JsonOption = False,
) -> None:
    """Say what changes from one rulebase to another: whom it reaches, and by what.

    How they are written makes no difference: order, comments, spaces and files. Each change has a sentence
    on what it means, the keys that differ, and the campaigns that are reached through it. No service is
    needed.

    Ends with 0 if they could be compared, whatever changes, 1 if one of them has errors, 5 if there is no
    rulebase that can be read, 2 for a wrong command line.

    Example: opportune diff released my-rulebase
    """
    changes = diff(_loaded(before), _loaded(after))
    if json:
        print_json([change_record(change) for change in changes])
    else:
        show_changes(out(), changes)


def _loaded(path: Path) -> Rulebase:
    try:
        return load(read_files(path))
    except RulebaseError as error:
        show_problems(err(), error.problems)
        stop(ExitCode.NO, f"{path} has errors, so it cannot be compared.")


def show_changes(console: Console, changes: Sequence[Change]) -> None:
    """The changes for people, a few lines each, and how many there are. What changes alike for several, as
    by their template, is said once."""
    alike: dict[object, list[Change]] = {}
    for change in changes:
        alike.setdefault((change.element, change.kind, change.summary, change.keys), []).append(change)
    for same in alike.values():
        first = same[0]
        sign, colour = _SIGNS[first.kind]
        title = Text(
            f"{sign} {first.element} {_some([each.name for each in same])}", style=f"bold {colour}"
        )
        if len(same) == 1 and first.label not in ("", first.name):
            title.append(f"  {first.label}", style="dim")
        console.print(title)
        console.print(Text(f"    {first.summary}"))
        for key in first.keys[:_SHOWN_KEYS]:
            console.print(Text(f"      {_key_line(key)}", style="dim"))
        if len(first.keys) > _SHOWN_KEYS:
            console.print(Text(f"      and {len(first.keys) - _SHOWN_KEYS} more keys", style="dim"))
        reached = sorted({name for each in same for name in each.affected_campaigns})
        if reached and first.element != "campaign":
            console.print(
                Text(f"    reaches {'' if len(reached) > 1 else 'only '}{_some(reached)}", "cyan")
            )
    console.print(_total(changes), markup=False)


def change_record(change: Change) -> dict[str, object]:
    """A change for programs; the names are those of the contract."""
    return {
        "kind": change.kind.value,
        "element": change.element,
        "name": change.name,
        "label": change.label,
        "summary": change.summary,
        "keys": [{"key": each.key, "before": each.before, "after": each.after} for each in change.keys],
        "affected_campaigns": list(change.affected_campaigns),
    }


def _key_line(key: KeyChange) -> str:
    before, after = (clip(" ".join(text.split()), _SHOWN_CHARACTERS) for text in (key.before, key.after))
    return f"{key.key}: {before or '(nothing)'} -> {after or '(nothing)'}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _total(changes: Sequence[Change]) -> str:
    if not changes:
        return "nothing changes"
    counts = Counter(change.kind for change in changes)
    campaigns = {name for change in changes for name in change.affected_campaigns}
    said = ", ".join(f"{counts[kind]} {kind.value}" for kind in ChangeKind if counts[kind])
    return f"{said}; {len(campaigns)} campaign{'' if len(campaigns) == 1 else 's'} affected"
