"""Mapping files: how the rows of a foreign CSV become events. One row may give several events."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from opportune_service.adapters.files.yaml_files import YamlFileError, read_yaml
from opportune_service.app.errors import OpportuneError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MappingFileError(OpportuneError):
    """A mapping file is refused; the message has one line for each thing wrong, with its place."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_tuple(value: object) -> object:
    return value if isinstance(value, list) else (value,)


OneOf = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
"""A text or a list of texts, any of which will do."""

Conditions = dict[str, OneOf]


class Subscriber(_Part):
    """Whose event it is: a column's digits, padded with zeros to `width`, after `prefix`; or `fixed`."""

    column: str | None = None
    prefix: str = Field(default="", pattern=r"^[0-9]*$")
    width: int = Field(default=0, ge=0, le=15)
    fixed: str | None = Field(default=None, pattern=r"^[0-9]{5,15}$")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.fixed is None):
            raise ValueError("give either column or fixed")
        return self


class Cell(_Part):
    """The cell id: a column's text after `prefix` (which keeps foreign towers apart from one's own)."""

    column: str
    prefix: str = ""


class AttributeSource(_Part):
    """An attribute from a column, or the same `value` in every row. An empty field leaves it out."""

    column: str | None = None
    type: Literal["string", "int", "double", "bool"] = "string"
    prefix: str = ""
    width: int = Field(default=0, ge=0, le=64)
    value: StrictBool | StrictInt | StrictFloat | StrictStr | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either column or value")
        if self.type != "string" and (self.prefix or self.width):
            raise ValueError("prefix and width are for texts; leave them out or drop the type")
        return self


class TimeSource(_Part):
    """When it happened. `format` is that of strptime, or `rfc3339` or `epoch`; `zone` is for local times.

    A local time that occurs twice (clocks set back) means the first of the two.
    """

    column: str
    format: str = "rfc3339"
    zone: str | None = None

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str | None) -> str | None:
        try:
            ZoneInfo(zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"unknown time zone {zone!r}; use an IANA name such as Asia/Shanghai"
            ) from None
        return zone

    @field_validator("format")
    @classmethod
    def _whole_time(cls, form: str) -> str:
        """A format that forgets the day or the hour would put every event into a wrong one."""
        moment = datetime(2026, 11, 16, 20, tzinfo=UTC)
        try:
            known = (
                form in {"rfc3339", "epoch"}
                or datetime.strptime(moment.strftime(form), form).replace(tzinfo=UTC) == moment
            )
        except ValueError:
            known = False
        if not known:
            raise ValueError("must be rfc3339, epoch, or a strptime format with year, month, day and hour")
        return form

    @model_validator(mode="after")
    def _zone_where_needed(self) -> Self:
        absolute = self.format in {"rfc3339", "epoch"} or "%z" in self.format
        if absolute == (self.zone is not None):
            raise ValueError(
                "leave zone out: the times carry their own" if absolute else "local times need a zone"
            )
        return self

    def reader(self) -> TimeReader:
        return TimeReader(self)


class TimeReader:
    """Turns the texts of the time column into microseconds since 1970."""

    def __init__(self, source: TimeSource) -> None:
        self._format = source.format
        self._zone = ZoneInfo(source.zone) if source.zone else None
        # Many rows share their minute, and strptime is slow.
        self.read = lru_cache(maxsize=65_536)(self._read)

    def _read(self, text: str) -> int:
        """Raises ValueError when the text is not such a time."""
        instant = datetime.strptime(text, self._format)
        return ((instant.replace(tzinfo=self._zone) if self._zone else instant) - _EPOCH) // timedelta(
            microseconds=1
        )


class EventSource(_Part):
    """One event that a row gives, if all of `when` and none of `unless` holds.

    Conditions compare a column's text: `{direction: out}`, or `{service: ["21", "22"]}` for any of several.
    """

    type: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    subscriber: Subscriber
    when: Conditions = {}
    unless: Conditions = {}
    cell: Cell | None = None
    attributes: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], AttributeSource] = {}

    def columns(self) -> Iterable[str]:
        yield from (*self.when, *self.unless)
        for source in (self.subscriber, self.cell, *self.attributes.values()):
            if source is not None and source.column is not None:
                yield source.column


class FileMapping(_Part):
    """How a delimited file becomes events.

    `columns` names the columns of a file without a header, or renames those of a header. With
    `track_cells`, an event in another cell than the subscriber's last one is preceded by a `cell_changed`
    (attribute `cell`) at the same instant; the first cell seen changes nothing.
    """

    mapping: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    label: str = ""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    header: bool = True
    columns: tuple[str, ...] | None = None
    time: TimeSource
    track_cells: bool = False
    events: tuple[EventSource, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if self.columns is None and not self.header:
            raise ValueError("a file without a header needs columns")
        if self.columns is not None:
            if len(set(self.columns)) != len(self.columns):
                raise ValueError("two columns have the same name")
            if unknown := self.unknown_columns(self.columns):
                raise ValueError("; ".join(unknown))
        return self

    def unknown_columns(self, known: Sequence[str]) -> list[str]:
        """A message for each column that is used but not among `known`."""
        used = dict.fromkeys(
            (self.time.column, *(name for event in self.events for name in event.columns()))
        )
        return [f"there is no column {name!r}{_hint(name, known)}" for name in used if name not in known]


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the columns are {', '.join(map(repr, known))}"


def load_mapping(path: Path) -> FileMapping:
    """Read and check a mapping file. Raises MappingFileError with everything that is wrong with it."""
    try:
        mapping, _ = read_yaml(
            path, FileMapping, "a mapping file is a map with the keys mapping, time and events"
        )
    except YamlFileError as error:
        raise MappingFileError(str(error)) from error
    return mapping
