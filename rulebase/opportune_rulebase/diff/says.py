"""What one key of a rulebase says: as an analyst writes it, and as something that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from opportune_rulebase.diff.conditions import Clause, clause
from opportune_rulebase.expressions import Expression
from opportune_rulebase.loading.clock import write_minute
from opportune_rulebase.loading.fields import write_duration
from opportune_rulebase.model import Template
from opportune_rulebase.policies import SHARES

_EPOCH_YEAR = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Said:
    """`text`: as it is written. `meaning`: equal if and only if two mean the same: a number that orders, a
    tuple in order, a frozenset without one, text, or a condition."""

    text: str
    meaning: object

    @property
    def condition(self) -> Clause | None:
        """The meaning, if it is a condition."""
        return self.meaning if isinstance(self.meaning, Clause) else None


Says = Mapping[str, Said]
"""Key, with dots between levels -> what it says. What is not there was not said."""


def says(**keys: Said | None) -> dict[str, Said]:
    """Only what is said. A `_` at the end of a key is Python's, `__` stands for a dot."""
    named = {key.removesuffix("_").replace("__", "."): each for key, each in keys.items()}
    return {key: each for key, each in named.items() if each is not None}


def below(key: str, inner: Says) -> dict[str, Said]:
    """The same one level below `key`."""
    return {f"{key}.{each}": said for each, said in inner.items()}


def word(text: str | None) -> Said | None:
    """A word or text; None for none."""
    return Said(text, text) if text else None


def number(value: float | None) -> Said | None:
    """A count or a figure."""
    return (
        None if value is None else Said(f"{value:.15g}" if isinstance(value, float) else str(value), value)
    )


def flag(value: bool) -> Said | None:
    """Only what is so is said."""
    return Said("true", 1) if value else None


def share(shares: int | None) -> Said | None:
    """So many of `SHARES`; none of them is not said."""
    return Said(f"{shares * 100 / SHARES:g}%", shares) if shares else None


def duration(duration_us: int | None) -> Said | None:
    return None if duration_us is None else Said(write_duration(duration_us), duration_us)


def minute(minute_of_day: int) -> Said:
    return Said(write_minute(minute_of_day), minute_of_day)


def day(instant_us: int | None, zone: ZoneInfo, *, last: bool = False) -> Said | None:
    """The day that begins then; `last`: the day that ends then."""
    if instant_us is None:
        return None
    begins = (_EPOCH_YEAR + timedelta(microseconds=instant_us - last)).astimezone(zone)
    return Said(begins.date().isoformat(), instant_us)


def ordered(names: Iterable[str]) -> Said | None:
    """Names whose order matters; none of them are not said."""
    found = tuple(names)
    return Said(", ".join(found), found) if found else None


def any_order(names: Iterable[str]) -> Said | None:
    """Names in whatever order; none of them are not said."""
    found = frozenset(map(str, names))
    return Said(", ".join(sorted(found)), found) if found else None


def condition(expression: Expression | None) -> Said | None:
    """A condition, or another expression."""
    if expression is None:
        return None
    whole = clause(expression)
    return Said(whole.text, whole)


def template(content: Template) -> Said:
    """Content. What a label puts into it belongs to its meaning."""
    parts = [each if isinstance(each, str) else f"{{{{{each.text.strip()}}}}}" for each in content.parts]
    return Said(content.text, "".join(parts))
