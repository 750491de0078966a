"""Minimal xlsx workbooks, made by zipfile: what a spreadsheet program saves, and what it never would."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def workbook(rows: Sequence[Sequence[str]], *, shared: bool = True) -> bytes:
    """A workbook whose first sheet holds these texts; empty ones make no cell. `shared`: texts stand in a
    table of their own, as spreadsheet programs do it, else in the cells."""
    strings = list(dict.fromkeys(text for row in rows for text in row if text))
    cells = []
    for number, row in enumerate(rows, 1):
        cells.append(f'<row r="{number}">')
        for column, text in enumerate(row, 1):
            at = f"{letters(column)}{number}"
            if text and shared:
                cells.append(f'<c r="{at}" t="s"><v>{strings.index(text)}</v></c>')
            elif text:
                cells.append(f'<c r="{at}" t="inlineStr"><is><t>{escape(text)}</t></is></c>')
        cells.append("</row>")
    items = "".join(f"<si><t>{escape(text)}</t></si>" for text in strings)
    return raw_workbook("".join(cells), f'<sst xmlns="{_MAIN}">{items}</sst>')


def raw_workbook(
    sheet: str, strings: str = "", *, more: Mapping[str, str | bytes] | None = None, before: str = ""
) -> bytes:
    """A workbook of this XML: the rows of its first sheet, and the whole part of its shared strings.

    `more`: other parts, or these parts otherwise. `before`: stands in front of the sheet.
    """
    first = f'{before}<worksheet xmlns="{_MAIN}"><sheetData>{sheet}</sheetData></worksheet>'
    parts: dict[str, str | bytes] = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
        '<sheet name="matrix" sheetId="7" r:id="r2"/><sheet name="notes" sheetId="8" r:id="r1"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
        f'<Relationship Id="r1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{_OFFICE}/worksheet" Target="worksheets/sheet2.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><sheetData/></worksheet>',
        "xl/worksheets/sheet2.xml": first,
    }
    if strings:
        parts["xl/sharedStrings.xml"] = strings
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, content in (parts | dict(more or {})).items():
            packed.writestr(path, content)
    return buffer.getvalue()


def letters(column: int) -> str:
    """The name of a column by its number: 1 is A, 27 is AA."""
    name = ""
    while column:
        column, letter = divmod(column - 1, 26)
        name = chr(ord("A") + letter) + name
    return name
