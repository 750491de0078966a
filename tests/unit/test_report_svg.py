"""The picture of a report: well-formed, to scale, and nothing of one name over another."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from opportune_service.cli.report_svg import STAGES, Pictured, report_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*campaigns: Pictured, title: str = "November") -> ElementTree.Element:
    return ElementTree.fromstring(report_svg(campaigns, title))  # noqa: S314 - we wrote it


def texts(picture: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in picture.iter(f"{SVG}text")]


def test_each_stage_has_a_bar_and_its_number_on_one_scale() -> None:
    one = Pictured("One", (1_000, 500, 400, 300, 20, 10), None)
    two = Pictured("Two", (250, 0, 0, 0, 0, 0), None)
    picture = drawn(one, two)
    widths = [float(each.attrib["width"]) for each in picture.iter(f"{SVG}rect")]
    assert len(widths) == 2 * len(STAGES)
    assert [width / widths[0] for width in widths[:7]] == pytest.approx(
        [1, 0.5, 0.4, 0.3, 0.02, 0.01, 0.25]
    )
    assert widths[7:] == [0] * 5
    assert {*STAGES, "1,000", "500", "250"} <= set(texts(picture))


@pytest.mark.parametrize(
    ("uplift", "kind"),
    [((0.05, 0.01, 0.09), "up"), ((-0.05, -0.09, -0.01), "down"), ((0.01, -0.02, 0.04), "open")],
)
def test_uplift_is_a_point_in_its_interval(uplift: tuple[float, float, float], kind: str) -> None:
    picture = drawn(Pictured("One", (1, 1, 1, 1, 1, 1), uplift))
    [point] = picture.iter(f"{SVG}circle")
    zero, interval = picture.iter(f"{SVG}line")
    assert point.attrib["class"] == interval.attrib["class"] == kind
    middle, (low, high) = float(zero.attrib["x1"]), (float(interval.attrib[each]) for each in ("x1", "x2"))
    assert low < float(point.attrib["cx"]) < high
    assert (low > middle, high < middle) == (kind == "up", kind == "down")
    assert f"{100 * uplift[0]:+.1f}" in texts(picture)


def test_what_cannot_be_told_is_not_drawn() -> None:
    picture = drawn(Pictured("One", (0, 0, 0, 0, 0, 0), None))
    assert not list(picture.iter(f"{SVG}circle"))
    assert all(float(each.attrib["width"]) == 0 for each in picture.iter(f"{SVG}rect"))
    assert texts(drawn()) == ["November"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Data & <more>", "Data & <more>"),
        ("a" * 24, "a" * 24),
        ("a" * 25, "a" * 23 + "…"),
        ("积" * 12, "积" * 12),
        ("积" * 13, "积" * 11 + "…"),
    ],
)
def test_a_name_takes_no_more_room_than_there_is(name: str, shown: str) -> None:
    assert shown in texts(drawn(Pictured(name, (1, 1, 1, 1, 1, 1), (0.1, 0.0, 0.2))))


def test_the_title_may_hold_anything() -> None:
    assert texts(drawn(title="<&>"))[0] == "<&>"
