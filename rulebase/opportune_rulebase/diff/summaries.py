"""A change in a sentence: whom it reaches now, and what of the element says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from opportune_rulebase.diff.conditions import AND, OR, Clause, implies, joined, without
from opportune_rulebase.diff.effects import CONDITIONS, NAMES, NUMBERS, PRESENCE, Effect
from opportune_rulebase.diff.elements import Element
from opportune_rulebase.diff.says import Said
from opportune_rulebase.diff.tables import TableChange
from opportune_rulebase.loading.problems import clip

_SHOWN = 100
"""Characters of a value in a sentence; the keys of the change have all of it."""
_MOST_SAID = 6
_DAY = 24 * 60
_NOON = 12 * 60
_EVENING = 17 * 60


class Remark(NamedTuple):
    """What a key does, "" if that cannot be told, and what it says now."""

    effect: str
    text: str


def of_new(element: Element) -> str:
    """What an element brings that was not there."""
    if element.kind == "campaign":
        return f"is new: offers {_offer(element)}"
    return _sentence([Remark(_presence(element).more or "is new", _all(element))])


def of_gone(element: Element) -> str:
    """What is not there any more without an element."""
    if element.kind == "campaign":
        return f"is gone: no longer offers {_offer(element)}"
    return _sentence([Remark(_presence(element).less or "is gone", f"no longer {_all(element)}")])


def of_change(before: Element, after: Element) -> str:
    """What is different with an element that was there and is."""
    remarks = list(_remarks(before, after))
    if before.label != after.label:
        remarks.append(Remark("", f"is called {after.label!r} instead of {before.label!r}"))
    if before.state != after.state:
        why = "" if remarks else ", because of what it is made of"
        remarks.append(Remark("", f"starts afresh{why}: what was seen so far does not count for it"))
    return _sentence(remarks)


def of_table(change: TableChange) -> str:
    """How many rows of a table differ."""
    counts = ((change.added, "added"), (change.removed, "removed"), (change.changed, "changed"))
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    before, after = change.rows
    return f"{after} rows{f' instead of {before}' if before != after else ''}: {said}"


def _presence(element: Element) -> Effect:
    return PRESENCE.get(element.kind, Effect("", ""))


def _offer(element: Element) -> str:
    said = {key: each.text for key, each in element.says.items()}
    return f"{said['product']} by {said['channels']} on {said.get('on', 'nothing')}"


def _all(element: Element) -> str:
    """All that an element says, in short."""
    said = [f"{key} {clip(each.text, _SHOWN)}" for key, each in element.says.items()]
    more = len(said) - _MOST_SAID
    return ", ".join([*said[:_MOST_SAID], *([f"and {more} more"] if more > 0 else [])]) or element.kind


def _sentence(remarks: Iterable[Remark]) -> str:
    """The remarks, those of one effect together; those whose effect cannot be told last."""
    by_effect: dict[str, list[str]] = {}
    for effect, text in remarks:
        by_effect.setdefault(effect, []).append(text)
    plain = by_effect.pop("", [])
    return "; ".join([*(f"{effect}: {', '.join(texts)}" for effect, texts in by_effect.items()), *plain])


def _remarks(before: Element, after: Element) -> Iterator[Remark]:
    for key in dict.fromkeys((*before.says, *after.says)):
        old, new = before.says.get(key), after.says.get(key)
        if old is not None and new is not None and old.meaning == new.meaning:
            continue
        if after.kind == "quiet hours" and key in ("from", "to"):
            yield _window_end(key, before, after)
        elif after.kind == "campaign" and key.startswith("content."):
            if old and new:  # else the channels say it
                yield Remark("", f"says something else by {key.removeprefix('content.')}")
        else:
            yield from _remark(after.kind, key, old, new)


def _remark(kind: str, key: str, old: Said | None, new: Said | None) -> Iterator[Remark]:
    names, number = NAMES.get((kind, key)), NUMBERS.get((kind, key))
    condition = CONDITIONS.get((kind, key)) or (
        CONDITIONS["pattern", "where"] if kind == "pattern" and key.endswith(".where") else None
    )
    if names is not None:
        yield from _names(key, old, new, names)
    elif condition is not None:
        yield _condition(key, old, new, condition)
    elif number is not None:
        yield Remark(_direction(_figure(old, number), _figure(new, number), number), _plain(key, old, new))
    else:
        yield Remark("", _plain(key, old, new))


def _plain(key: str, old: Said | None, new: Said | None) -> str:
    if old is None:
        return f"{key} is now {_short(new)}"
    if new is None:
        return f"{key} {_short(old)} no longer holds"
    return f"{key} {_short(new)} instead of {_short(old)}"


def _short(said: Said | None) -> str:
    return clip(said.text, _SHOWN) if said else "nothing"


def _figure(said: Said | None, effect: Effect) -> float:
    if said is None:
        return effect.absent
    return said.meaning if isinstance(said.meaning, int | float) else math.nan


def _direction(old: float, new: float, effect: Effect) -> str:
    if new > old:
        return effect.more
    return effect.less if new < old else ""


def _names(key: str, old: Said | None, new: Said | None, effect: Effect) -> Iterator[Remark]:
    """Names that were added, that were taken away, or that stand in another order."""
    before, after = _set(old), _set(new)
    if not before or not after:
        # What no names mean is not what few of them mean.
        size = {False: effect.absent}
        more = _direction(size.get(bool(before), 1.0), size.get(bool(after), 1.0), effect)
        yield Remark(more, _plain(key, old, new))
        return
    if added := after - before:
        yield Remark(effect.more, f"{key} now also {', '.join(sorted(added))}")
    if removed := before - after:
        yield Remark(effect.less, f"{key} no longer {', '.join(sorted(removed))}")
    if before == after:
        yield Remark("", f"{key} in another order: {_short(new)} instead of {_short(old)}")


def _set(said: Said | None) -> frozenset[str]:
    if said is None:
        return frozenset()
    return (
        frozenset(said.meaning) if isinstance(said.meaning, tuple | frozenset) else frozenset((said.text,))
    )


def _condition(key: str, old: Said | None, new: Said | None, effect: Effect) -> Remark:
    """What a condition asks now that it did not, and the other way round."""
    before, after = old.condition if old else None, new.condition if new else None
    if after is None:
        return Remark(effect.more, f"{key} no longer asks {_short(old)}")
    if before is None:
        return Remark(effect.less, f"{key} now asks {_short(new)}")
    narrower, wider = implies(after, before), implies(before, after)
    if narrower and wider:
        return Remark("", f"{key} is written otherwise: {_short(new)}")
    direction = effect.less if narrower else effect.more if wider else ""
    gone, came = without(before.all_of, after.all_of), without(after.all_of, before.all_of)
    if len(gone) == len(came) == 1:
        let_out = without(gone[0].any_of, came[0].any_of)
        let_in = without(came[0].any_of, gone[0].any_of)
        if wider and not let_out:
            return Remark(direction, f"{key} now also lets in {_clip(let_in, OR)}")
        if narrower and not let_in:
            return Remark(direction, f"{key} no longer lets in {_clip(let_out, OR)}")
        if let_out and let_in and len(let_out) < len(gone[0].any_of):
            return Remark(direction, f"{key} lets in {_clip(let_in, OR)} instead of {_clip(let_out, OR)}")
    if not gone:
        return Remark(direction, f"{key} now also asks {_clip(came, AND)}")
    if not came:
        return Remark(direction, f"{key} no longer asks {_clip(gone, AND)}")
    return Remark(direction, f"{key} asks {_clip(came, AND)} instead of {_clip(gone, AND)}")


def _clip(clauses: list[Clause], sign: str) -> str:
    return clip(joined(clauses, sign), _SHOWN)


def _window_end(key: str, before: Element, after: Element) -> Remark:
    """One end of a quiet window that moved: what may be offered then, or no longer."""
    (old_from, old_to), (new_from, new_to) = _ends(before), _ends(after)
    old, new = (old_from, new_from) if key == "from" else (old_to, new_to)
    verb = "begin" if key == "from" else "end"
    text = f"quiet hours {verb} {after.says[key].text} instead of {before.says[key].text}"
    # An instant of the old window that the new one leaves free, or the other way round.
    edge = 0 if key == "from" else -1
    freed, taken = _inside(new + edge, old_from, old_to), _inside(old + edge, new_from, new_to)
    if freed == taken:
        return Remark("", text)
    part = (
        "in the evening" if old % _DAY >= _EVENING else "in the morning" if old <= _NOON else "in the day"
    )
    if key == "from":
        return Remark(f"may be offered later {part}" if freed else f"is offered less late {part}", text)
    return Remark(f"may be offered earlier {part}" if freed else f"is offered less early {part}", text)


def _ends(window: Element) -> tuple[int, int]:
    begin, end = window.says["from"].meaning, window.says["to"].meaning
    assert isinstance(begin, int)  # noqa: S101 - it is a minute of the day
    assert isinstance(end, int)  # noqa: S101
    return begin, end


def _inside(minute: int, begin: int, end: int) -> bool:
    """Whether a minute of the day lies in a window, which may cross midnight."""
    length = (end - begin) % _DAY or _DAY
    return (minute - begin) % _DAY < length
