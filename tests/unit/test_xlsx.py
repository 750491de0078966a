"""Workbooks: what spreadsheet programs write is read; what is hostile or damaged is refused."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest
from opportune_rulebase.loading import xlsx
from opportune_rulebase.loading.xlsx import Sheet, XlsxError, first_sheet
from support.workbooks import letters, raw_workbook, workbook

TABLE = [["behaviour", "mms_sent", ""], ["常发彩信", "", "a; b"], ["", "", ""], ["x & <y>", "c", ""]]
CELLS = {1: {1: "behaviour", 2: "mms_sent"}, 2: {1: "常发彩信", 3: "a; b"}, 4: {1: "x & <y>", 2: "c"}}


def read(data: bytes, *, rows: int = 1_000, columns: int = 200, characters: int = 10_000) -> Sheet:
    return first_sheet(data, rows=rows, columns=columns, characters=characters)


def refused(data: bytes, **bounds: int) -> str:
    with pytest.raises(XlsxError) as caught:
        read(data, **bounds)
    return str(caught.value)


@pytest.mark.parametrize("shared", [True, False])
def test_the_first_sheet_is_read(shared: bool) -> None:
    assert read(workbook(TABLE, shared=shared)) == CELLS


def test_columns_are_named_as_spreadsheets_do() -> None:
    assert [letters(each) for each in (1, 26, 27, 52, 703)] == ["A", "Z", "AA", "AZ", "AAA"]
    assert read(workbook([[""] * 29 + ["here"]])) == {1: {30: "here"}}


def test_numbers_booleans_formulas_and_rich_text_are_text() -> None:
    sheet = (
        '<row><c><v>1</v></c><c t="b"><v>1</v></c><c t="str"><f>A1&amp;"x"</f><v>1x</v></c>'
        '<c t="inlineStr"><is><r><t>rich </t></r><r><t>text</t></r>'
        '<rPh sb="0" eb="1"><t>spoken</t></rPh></is></c><c/></row><row><c><v> 2 </v></c></row>'
    )
    assert read(raw_workbook(sheet)) == {1: {1: "1", 2: "1", 3: "1x", 4: "rich text"}, 2: {1: "2"}}


def test_prefixes_and_absolute_targets_are_understood() -> None:
    data = raw_workbook(
        "",
        more={
            "xl/_rels/workbook.xml.rels": '<p:Relationships xmlns:p="any"><p:Relationship Id="r2" '
            'Target="/xl/worksheets/sheet2.xml"/></p:Relationships>',
            "xl/worksheets/sheet2.xml": '<x:worksheet xmlns:x="any"><x:sheetData><x:row r="2"><x:c r="B2">'
            "<x:v>5</x:v></x:c></x:row></x:sheetData></x:worksheet>",
        },
    )
    assert read(data) == {2: {2: "5"}}


def test_empty_cells_far_away_do_not_count() -> None:
    """Programs save the format of whole columns."""
    sheet = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576" s="1"/></row>'
    assert read(raw_workbook(sheet)) == {1: {1: "1"}}


@pytest.mark.parametrize("at", ["A11", "F1", "XFD1048576"])
def test_cells_beyond_the_bounds_are_refused(at: str) -> None:
    message = refused(raw_workbook(f'<row><c r="{at}"><v>1</v></c></row>'), rows=10, columns=5)
    assert message.startswith("the sheet may have 10 rows, 5 columns")


def test_text_named_by_many_cells_counts_each_time() -> None:
    data = workbook([["long" * 25] * 11])
    assert refused(data, characters=1_000).endswith("1000 characters at most")
    assert len(read(data, characters=1_100)[1]) == 11


def test_a_part_that_unpacks_to_too_much_is_refused() -> None:
    data = raw_workbook(" " * (xlsx.MAX_PART_BYTES + 1))
    assert len(data) < 20_000
    assert refused(data).startswith("a part of the workbook has more than")


def test_too_many_elements_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MAX_ELEMENTS", 100)
    assert refused(raw_workbook("<row/>" * 200)).endswith("100 elements")


def test_entities_are_not_expanded() -> None:
    laughs = '<!DOCTYPE lolz [<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;">]>'
    assert "document type" in refused(raw_workbook('<row><c t="str"><v>&b;</v></c></row>', before=laughs))


@pytest.mark.parametrize(
    "sheet",
    [
        '<row r="x"/>',
        '<row r="99999999999999999999999"/><c><v>1</v></c>',
        '<row><c t="s"><v>0</v></c></row>',
        '<row><c t="s"><v>-1</v></c></row>',
        '<row><c t="s"><v>one</v></c></row>',
        "<row><c>",
        "<row>\x00</row>",
    ],
)
def test_damaged_sheets_are_refused(sheet: str) -> None:
    refused(raw_workbook(sheet))


@pytest.mark.parametrize(
    "more",
    [
        {"xl/workbook.xml": "<workbook><sheets/></workbook>"},
        {"xl/_rels/workbook.xml.rels": "<Relationships/>"},
        {"xl/_rels/workbook.xml.rels": '<R><Relationship Id="r2" Target="../../etc/passwd"/></R>'},
        {"xl/worksheets/sheet2.xml": b"\xff\xfe\x00"},
    ],
)
def test_workbooks_that_lead_nowhere_are_refused(more: dict[str, str | bytes]) -> None:
    refused(raw_workbook("", more=more))


@pytest.mark.parametrize("data", [b"", b"behaviour,mms_sent\n", b"\xd0\xcf\x11\xe0" + bytes(1000)])
def test_what_is_no_workbook_is_refused(data: bytes) -> None:
    refused(data)


def test_another_zip_archive_is_refused() -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("content.xml", "<office/>")
    assert "no xl/workbook.xml" in refused(buffer.getvalue())


@pytest.mark.parametrize("cut", range(1, 700, 41))
def test_a_cut_workbook_is_refused(cut: int) -> None:
    refused(workbook(TABLE)[:-cut])
