"""The first sheet of an xlsx workbook, as text, within bounds.

A workbook is a zip archive of XML. Only the four parts that say what stands where are unpacked, by counting
bytes, not by believing sizes; of their XML only elements and text are taken, nothing is expanded, and no
tree is built. General readers make a full grid of a sheet with one cell in its last corner: 500 GB.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Final
from xml.parsers import expat

from opportune_rulebase.loading.archive import suspicious

MAX_PART_BYTES: Final = 8 << 20
MAX_ELEMENTS: Final = 700_000
"""Elements of one part: a full sheet of the size that is allowed has three a cell."""

Sheet = dict[int, dict[int, str]]
"""Row -> column -> text, both counted from 1; empty cells are left out."""

_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_WORKBOOK: Final = "xl/workbook.xml"
_RELATIONS: Final = "xl/_rels/workbook.xml.rels"
_STRINGS: Final = "xl/sharedStrings.xml"

_Start = Callable[[str, Mapping[str, str]], None]
_End = Callable[[str], None]


class XlsxError(Exception):
    """The file cannot be read as a workbook; the message is for people."""


def first_sheet(data: bytes, *, rows: int, columns: int, characters: int) -> Sheet:
    """The cells of the first sheet that have text. Formulas give the value that was saved with them.

    Raises XlsxError for what is no plain xlsx workbook, and for cells beyond `rows` and `columns` or with
    more text than `characters` in all.
    """
    if reason := suspicious(data):
        raise XlsxError(reason)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sheet = _part(archive, _sheet_path(archive))
            strings = _shared(_part(archive, _STRINGS)) if _STRINGS in archive.namelist() else []
        return _cells(sheet, strings, rows, columns, characters)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise XlsxError("this is not an xlsx workbook, or it is damaged") from error
    except expat.ExpatError as error:
        raise XlsxError(f"the XML of the workbook is damaged: {error}") from error


def _part(archive: zipfile.ZipFile, path: str) -> bytes:
    if path not in archive.namelist():
        raise XlsxError(f"this is not an xlsx workbook: it has no {path}")
    with archive.open(path) as member:
        content = member.read(MAX_PART_BYTES + 1)
    if len(content) > MAX_PART_BYTES:
        raise XlsxError(f"a part of the workbook has more than {MAX_PART_BYTES} bytes")
    return content


def _parse(content: bytes, start: _Start, end: _End, text: Callable[[str], object] | None = None) -> None:
    """Walk the XML. Names are given without their namespaces; a document type is refused."""
    left = MAX_ELEMENTS

    def started(name: str, attributes: dict[str, str]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise XlsxError(f"a part of the workbook has more than {MAX_ELEMENTS} elements")
        start(name.rpartition(" ")[2], attributes)

    def refuse(*_: object) -> None:
        raise XlsxError("the XML of the workbook declares a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = started
    parser.EndElementHandler = lambda name: end(name.rpartition(" ")[2])
    if text is not None:
        parser.CharacterDataHandler = text
    parser.Parse(content, True)


def _sheet_path(archive: zipfile.ZipFile) -> str:
    """Where the first sheet is: the workbook lists the sheets, its relations say where they are."""
    sheets: list[str] = []
    targets: dict[str, str] = {}

    def sheet(name: str, attributes: Mapping[str, str]) -> None:
        if name == "sheet":
            # The one attribute `id` that has a namespace, whichever of the two dialects that is.
            sheets.extend(value for key, value in attributes.items() if key.endswith(" id"))

    def relation(name: str, attributes: Mapping[str, str]) -> None:
        if name == "Relationship":
            targets[attributes.get("Id", "")] = attributes.get("Target", "")

    _parse(_part(archive, _WORKBOOK), sheet, _nothing)
    _parse(_part(archive, _RELATIONS), relation, _nothing)
    if not sheets or sheets[0] not in targets:
        raise XlsxError("the workbook has no sheet")
    return posixpath.normpath(posixpath.join("/xl", targets[sheets[0]])).lstrip("/")


def _nothing(_: str) -> None:
    return


class _Text:
    """Gathers the text of `<t>` elements, but not what stands in `<rPh>`: how to pronounce it."""

    def __init__(self, *holders: str) -> None:
        self.parts: list[str] = []
        self._holders = holders
        self._inside = self._spoken = False

    def start(self, name: str) -> None:
        self._spoken |= name == "rPh"
        self._inside = name in self._holders and not self._spoken

    def end(self, name: str) -> None:
        self._inside = False
        if name == "rPh":
            self._spoken = False

    def add(self, text: str) -> None:
        if self._inside:
            self.parts.append(text)

    def take(self) -> str:
        text = "".join(self.parts)
        self.parts.clear()
        return text


def _shared(content: bytes) -> list[str]:
    found: list[str] = []
    text = _Text("t")

    def end(name: str) -> None:
        text.end(name)
        if name == "si":
            found.append(text.take())

    _parse(content, lambda name, _: text.start(name), end, text.add)
    return found


def _cells(content: bytes, strings: list[str], rows: int, columns: int, characters: int) -> Sheet:
    found: Sheet = {}
    row = column = 0
    kind = ""
    text = _Text("t", "v")
    left = characters

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal row, column, kind
        text.start(name)
        if name == "row":
            row, column = int(attributes.get("r", row + 1)), 0
        elif name == "c":
            kind = attributes.get("t", "n")
            reference = _REFERENCE.fullmatch(attributes.get("r", ""))
            row, column = (int(reference[2]), _number(reference[1])) if reference else (row, column + 1)

    def end(name: str) -> None:
        nonlocal left
        text.end(name)
        if name != "c":
            return
        written = text.take()
        if kind == "s" and written:
            index = int(written)
            if not 0 <= index < len(strings):
                raise XlsxError("a cell names a text that the workbook does not have")
            written = strings[index]
        if not (written := written.strip()):
            return
        left -= len(written)
        if row > rows or column > columns or left < 0:
            raise XlsxError(
                f"the sheet may have {rows} rows, {columns} columns and {characters} characters at most"
            )
        found.setdefault(row, {})[column] = written

    _parse(content, start, end, text.add)
    return found


def _number(letters: str) -> int:
    """The number of a column by its letters: A is 1, AA is 27."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number
