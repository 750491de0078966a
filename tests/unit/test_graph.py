"""What reads what, and its picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from textwrap import dedent
from xml.dom import minidom

import pytest
from opportune_rulebase import load
from opportune_rulebase.graph import Edge, EdgeKind, Graph, Node, NodeKind, graph
from opportune_rulebase.graph_svg import layout, svg
from opportune_service.adapters.files.rulebase_dir import read_rulebase

PACK = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
SAMPLE = load(read_rulebase(PACK))

FILES = {
    "rulebase.yaml": "rulebase: small\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": """\
        events:
          ping: {label: 乒 <ping> & "pong", attributes: {n: int}}
          pong: {attributes: {n: int}}
        subscriber: {age: {type: int, label: Age}, contract_end: date}
        channels: {sms: {mode: automatic}}
        products: {thing: {label: Thing, category: things}}
        """,
    "behaviours.yaml": """\
        metrics: {pings: {count: ping, days: 3, where: sub.age > 3}}
        patterns:
          often: {count: ping, at_least: 3, within: 10m}
          both: {sequence: [often, pong], within: 1h}
        facts: {keen: {on: both, for: 1d}}
        behaviours:
          busy: {label: 忙, when: metric.pings > 2}
          very_busy: {when: behaviour.busy && fact.keen}
          mined: {imported: {valid_for: 30d}}
        """,
    "campaigns/one.yaml": """\
        campaign: one
        product: thing
        on: [both, {date: sub.contract_end, before: 30d, at: "10:00"}]
        when: behaviour.very_busy
        mode: automatic
        channels: [sms]
        content: {sms: text}
        """,
    "campaigns/two.yaml": """\
        campaign: two
        product: thing
        mode: automatic
        channels: [sms]
        content: {sms: text}
        """,
    "matrix.yaml": "columns: [pong]\nrows: {mined: {pong: two}}\n",
}
SMALL = load({name: dedent(text).encode() for name, text in FILES.items()})


def parsed(picture: str) -> minidom.Document:
    return minidom.parseString(picture)  # noqa: S318 - our own


def arrows(drawn: Graph, target: str) -> set[tuple[str, str]]:
    return {(edge.source, edge.kind.value) for edge in drawn.edges if edge.target == target}


def test_what_reads_what() -> None:
    drawn = graph(SMALL)
    assert arrows(drawn, "metric.pings") == {("event.ping", "triggers"), ("sub.age", "reads")}
    assert arrows(drawn, "event.often") == {("event.ping", "triggers")}
    assert arrows(drawn, "event.both") == {("event.often", "triggers"), ("event.pong", "triggers")}
    assert arrows(drawn, "fact.keen") == {("event.both", "triggers")}
    assert arrows(drawn, "behaviour.very_busy") == {("behaviour.busy", "reads"), ("fact.keen", "reads")}
    assert ("behaviour.very_busy", "reads") in arrows(drawn, "campaign.one")
    trigger = next(node for node in drawn.nodes.values() if node.kind is NodeKind.TRIGGER)
    assert (trigger.id, "triggers") in arrows(drawn, "campaign.one")
    assert arrows(drawn, trigger.id) == {("sub.contract_end", "reads")}


def test_the_matrix_is_in_it() -> None:
    assert arrows(graph(SMALL), "campaign.two") == {
        ("event.pong", "triggers"),
        ("behaviour.mined", "reads"),
    }


def test_one_campaign_brings_what_it_reads_and_nothing_else() -> None:
    drawn = graph(SMALL, "two")
    assert drawn.nodes.keys() == {"event.pong", "behaviour.mined", "campaign.two"}
    with pytest.raises(KeyError):
        graph(SMALL, "three")


def test_everything_of_the_sample_is_in_the_graph() -> None:
    drawn = graph(SAMPLE)
    wanted = {f"campaign.{name}" for name in SAMPLE.campaigns} | set(SAMPLE.definitions)
    wanted |= {f"metric.{name}" for name in SAMPLE.metrics} | {f"event.{name}" for name in SAMPLE.patterns}
    assert wanted <= drawn.nodes.keys()
    assert all({edge.source, edge.target} <= drawn.nodes.keys() for edge in drawn.edges)


@pytest.mark.parametrize("rulebase", [SMALL, SAMPLE], ids=["small", "sample"])
def test_no_two_boxes_touch_and_all_are_in_the_picture(rulebase: object) -> None:
    drawn = graph(rulebase)  # type: ignore[arg-type]
    boxes = layout(drawn)
    assert boxes.keys() == drawn.nodes.keys()
    for one, other in combinations(boxes.values(), 2):
        apart_across = one.left + one.width < other.left or other.left + other.width < one.left
        apart_down = one.top + one.height < other.top or other.top + other.height < one.top
        assert apart_across or apart_down
    assert all(box.left > 0 and box.top > 0 for box in boxes.values())


def test_what_is_read_stands_to_the_left() -> None:
    boxes, drawn = layout(graph(SMALL)), graph(SMALL)
    assert all(boxes[edge.source].left < boxes[edge.target].left for edge in drawn.edges)


@pytest.mark.parametrize("rulebase", [SMALL, SAMPLE], ids=["small", "sample"])
def test_the_picture_is_well_formed_and_shows_every_node_and_arrow(rulebase: object) -> None:
    drawn = graph(rulebase)  # type: ignore[arg-type]
    document = parsed(svg(drawn))
    ids = {each.getAttribute("id") for each in document.getElementsByTagName("g")} - {""}
    assert ids == drawn.nodes.keys()
    assert len(document.getElementsByTagName("path")) == len(drawn.edges)
    assert "prefers-color-scheme" in svg(drawn)


def test_labels_may_hold_anything() -> None:
    label = "<script>&\"'\x00\x1b 忙 \u202e" + "x" * 500
    drawn = Graph({"event.a": Node("event.a", NodeKind.EVENT, "a", label)}, ())
    document = parsed(svg(drawn))
    shown = document.getElementsByTagName("text")[-2].firstChild.data
    assert shown.startswith("<script>&\"'")
    assert len(shown) < 50


def test_fewer_arrows_cross_than_in_the_order_of_names() -> None:
    events = {f"event.{n}": Node(f"event.{n}", NodeKind.EVENT, str(n), str(n)) for n in range(8)}
    campaigns = {
        f"campaign.{n}": Node(f"campaign.{n}", NodeKind.CAMPAIGN, str(n), str(n)) for n in range(8)
    }
    edges = tuple(Edge(f"event.{n}", f"campaign.{(n * 5) % 8}", EdgeKind.TRIGGERS) for n in range(8))
    assert crossings(Graph({**events, **campaigns}, edges)) == 0


def crossings(drawn: Graph) -> int:
    boxes = layout(drawn)
    tops = [(boxes[edge.source].top, boxes[edge.target].top) for edge in drawn.edges]
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(tops, 2))


def test_the_same_rulebase_gives_the_same_picture() -> None:
    assert svg(graph(SMALL)) == svg(graph(replace(SMALL)))


def test_a_rulebase_with_nothing_in_it_can_be_drawn() -> None:
    assert parsed(svg(Graph({}, ())))
