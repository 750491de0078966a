"""Reference tables: read once for equal content, and the real list of handsets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from opportune_rulebase import Code, RulebaseError, load
from opportune_rulebase.loading.problems import Report
from opportune_rulebase.loading.source import decode
from opportune_rulebase.loading.tables import MAX_TABLE_BYTES, read_cells, read_terminals
from opportune_rulebase.model import Attribute, ValueType

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("OPPORTUNE_SHARED_DATA", ROOT.parent / "shared" / "data"))
HANDSETS = SHARED / "terminals" / "tac.csv"

CELLS = b"cell,place,unread\n1,airport,x\n2,airport,y\n"
BRAND = {"brand": Attribute("brand", ValueType.STRING)}
BASE = {
    "rulebase.yaml": b"rulebase: tests\ntime_zone: UTC\n",
    "vocabulary.yaml": b"""
events: {called: {}}
channels: {sms: {mode: automatic}}
products: {alert: {}}
places: {table: places.csv}
terminals: {table: tac.csv, attributes: {brand: string, model: string}}
""",
    "places.csv": CELLS,
    "tac.csv": b"tac,brand,model\n35675904,Oppo,N1\n",
    "campaigns/alert.yaml": b"{campaign: alert, product: alert, on: called, mode: automatic, "
    b"channels: sms, content: {sms: x}}",
}


def test_revisions_with_the_same_tables_share_them() -> None:
    one = load(BASE)
    other = load(BASE | {"rulebase.yaml": b"rulebase: other\ntime_zone: UTC\n"})
    assert one.revision != other.revision
    assert one.tables.cells is other.tables.cells
    assert one.tables.terminals is other.tables.terminals
    assert one.tables.cells["1"] is one.tables.cells["2"]


def test_warnings_come_each_time() -> None:
    warned = [[(p.code, p.position.line) for p in load(BASE).warnings] for _ in range(2)]
    assert warned == [[(Code.UNUSED, 1)]] * 2


def test_other_content_or_attributes_are_read_anew() -> None:
    before = load(BASE).tables
    changed = load(BASE | {"places.csv": CELLS.replace(b"airport", b"harbour")}).tables
    assert (before.cells["1"].name, changed.cells["1"].name) == ("airport", "harbour")
    words = BASE["vocabulary.yaml"].replace(b", model: string", b"")
    assert dict(load(BASE | {"vocabulary.yaml": words}).tables.terminals["35675904"]) == {"brand": "Oppo"}


def test_a_faulty_table_is_faulty_each_time() -> None:
    for _ in range(2):
        with pytest.raises(RulebaseError) as caught:
            load(BASE | {"tac.csv": b"tac,brand,model\n1,a,b\n"})
        assert [p.code for p in caught.value.problems if p.position.file == "tac.csv"] == [Code.BAD_TABLE]


def test_shared_tables_cannot_be_changed() -> None:
    tables = load(BASE).tables
    with pytest.raises(TypeError):
        tables.cells["3"] = tables.cells["1"]  # type: ignore[index]
    with pytest.raises(TypeError):
        tables.terminals["35675904"]["brand"] = "other"  # type: ignore[index]


def test_few_tables_are_kept() -> None:
    """Tables of many rulebases do not fill the memory: the oldest is read anew."""

    def read(number: int) -> object:
        report = Report()
        source = decode("places.csv", b"cell,place\n%d,airport\n" % number, MAX_TABLE_BYTES, report)
        assert source is not None
        return read_cells(source, report)

    first = read(0)
    assert read(0) is first
    for number in range(1, 5):
        read(number)
    assert read(0) is not first


def test_a_hundred_thousand_cells_are_read() -> None:
    rows = "".join(f"460-00-{n},place_{n // 20},地点 {n // 20},airport;mall\n" for n in range(100_000))
    report = Report()
    content = f"cell,place,label,categories\n{rows}".encode()
    source = decode("places.csv", content, MAX_TABLE_BYTES, report)
    assert source is not None
    cells = read_cells(source, report)
    assert (len(cells), len(set(cells.values())), report.failed) == (100_000, 5_000, False)
    assert cells["460-00-99999"].categories == ("airport", "mall")


@pytest.mark.skipif(
    not HANDSETS.exists(), reason=f"the list of handsets is not at {HANDSETS}; set OPPORTUNE_SHARED_DATA"
)
def test_the_real_list_of_handsets_is_read() -> None:
    report = Report()
    source = decode("tac.csv", HANDSETS.read_bytes(), MAX_TABLE_BYTES, report)
    assert source is not None
    attributes = BRAND | {"model": Attribute("model", ValueType.STRING)}
    found = read_terminals(source, attributes, report)
    assert report.problems({}) == ()
    assert len(found) == len(source.text.splitlines()) - 1
    assert dict(found["35675904"]) == {"brand": "Oppo", "model": "N1"}
