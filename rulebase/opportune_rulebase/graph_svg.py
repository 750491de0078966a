"""A graph as a picture: columns from left to right, few crossings, SVG that browsers show light or dark."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from opportune_rulebase.graph import Edge, Graph, Node, NodeKind

_COLUMN = {
    **dict.fromkeys((NodeKind.EVENT, NodeKind.TRIGGER, NodeKind.ATTRIBUTE), 0),
    **dict.fromkeys((NodeKind.METRIC, NodeKind.PATTERN, NodeKind.FACT), 1),
    **dict.fromkeys((NodeKind.IMPORTED, NodeKind.BEHAVIOUR, NodeKind.SCENE), 2),
    NodeKind.CAMPAIGN: 3,
}
_SWEEPS = 12
"""Passes over the columns; after a dozen the order hardly changes any more."""

_HEIGHT, _GAP, _CHANNEL, _MARGIN, _HEAD = 40, 12, 110, 24, 56
"""Of a box, between boxes, between columns (for the arrows), around it all, of the legend; in pixels."""

_MOST_CELLS = 34
"""A label is cut there; the whole of it is in the tooltip. A wide character takes two cells."""

_CELL = 7.2
_STYLE = """\
svg{--ground:#fff;--text:#1c2430;--faint:#5b6675;--line:#a9b4c2;--trigger:#c2410c;background:var(--ground)}
text{font:13px system-ui,"Noto Sans","Noto Sans CJK SC",sans-serif;fill:var(--text)}
.name{font-size:10.5px;fill:var(--faint)}
rect{stroke-width:1.4;fill:var(--ground);stroke:var(--line)}
path{fill:none;stroke:var(--line);stroke-width:1.2;opacity:.75}
path.triggers{stroke:var(--trigger)}
.event rect,.trigger rect{stroke:#c2410c}.attribute rect{stroke:#64748b}.metric rect{stroke:#0369a1}
.pattern rect{stroke:#b45309}.fact rect{stroke:#7c3aed}.behaviour rect,.imported rect{stroke:#15803d}
.imported rect,.trigger rect{stroke-dasharray:5 3}.scene rect{stroke:#0f766e}
.campaign rect{stroke:#be123c;stroke-width:2}
@media (prefers-color-scheme:dark){
svg{--ground:#12161c;--text:#e6eaf0;--faint:#98a4b3;--line:#56616f;--trigger:#fb923c}
}
"""


@dataclass(frozen=True, slots=True)
class Box:
    """Where a node stands, in pixels from the top left."""

    left: float
    top: float
    width: float
    height: float


def layout(graph: Graph) -> dict[str, Box]:
    """A box for each node; no two touch. The same graph gives the same picture."""
    columns = _ordered(_columns(graph), graph.edges)
    tallest = max((len(column) for column in columns), default=0)
    boxes: dict[str, Box] = {}
    left: float = _MARGIN
    for column in columns:
        width = max(_width(graph.nodes[each]) for each in column)
        top = _MARGIN + _HEAD + (tallest - len(column)) * (_HEIGHT + _GAP) / 2
        for number, each in enumerate(column):
            boxes[each] = Box(left, top + number * (_HEIGHT + _GAP), width, _HEIGHT)
        left += width + _CHANNEL
    return boxes


def svg(graph: Graph) -> str:
    """The graph as one SVG document, with a legend. Labels may hold anything."""
    boxes = layout(graph)
    width = max((box.left + box.width for box in boxes.values()), default=0) + _MARGIN
    width = max(width, 760)
    height = max((box.top + box.height for box in boxes.values()), default=_HEAD) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}">',
        f"<style>{_STYLE}</style>",
        *_legend(graph),
        *(_arrow(boxes[e.source], boxes[e.target], e) for e in graph.edges),
        *(_drawn(node, boxes[node.id]) for node in graph.nodes.values()),
        "</svg>",
    ]
    return "\n".join([*parts, ""])


def _columns(graph: Graph) -> list[list[str]]:
    """Nodes by column. Within metrics and patterns, and within definitions, what reads another stands to
    the right of it."""
    within: dict[str, list[str]] = {}
    for edge in graph.edges:
        if _COLUMN[graph.nodes[edge.source].kind] == _COLUMN[graph.nodes[edge.target].kind]:
            within.setdefault(edge.target, []).append(edge.source)
    depths: dict[str, int] = {}

    def depth(node_id: str) -> int:
        if node_id not in depths:
            depths[node_id] = 0  # ends even if the graph goes in a circle, which no rulebase does
            depths[node_id] = max((depth(each) + 1 for each in within.get(node_id, ())), default=0)
        return depths[node_id]

    placed: dict[tuple[int, int], list[str]] = {}
    for node in graph.nodes.values():
        placed.setdefault((_COLUMN[node.kind], depth(node.id)), []).append(node.id)
    return [placed[each] for each in sorted(placed)]


def _ordered(columns: list[list[str]], edges: Iterable[Edge]) -> list[list[str]]:
    """Each column in the order of what its nodes are joined to, to and fro, so that few arrows cross."""
    neighbours: dict[str, list[str]] = {}
    for edge in edges:
        neighbours.setdefault(edge.source, []).append(edge.target)
        neighbours.setdefault(edge.target, []).append(edge.source)
    at = {each: place / len(column) for column in columns for place, each in enumerate(column)}
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            column.sort(key=lambda each: (_barycentre(each, neighbours, at), at[each]))
            at |= {each: place / len(column) for place, each in enumerate(column)}
    return columns


def _barycentre(node_id: str, neighbours: Mapping[str, list[str]], at: Mapping[str, float]) -> float:
    joined = neighbours.get(node_id)
    return sum(at[each] for each in joined) / len(joined) if joined else at[node_id]


def _drawn(node: Node, box: Box) -> str:
    x, y = box.left, box.top
    label, name = _cut(node.label), _cut(node.name if node.name != node.label else node.kind)
    return (
        f'<g class="{node.kind}" id={quoteattr(_printable(node.id))}>'
        f"<title>{escape(_printable(f'{node.kind} {node.name}: {node.label}'))}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{box.width:g}" height="{box.height:g}" rx="6"/>'
        f'<text x="{x + 10:g}" y="{y + 17:g}">{escape(label)}</text>'
        f'<text class="name" x="{x + 10:g}" y="{y + 32:g}">{escape(name)}</text></g>'
    )


def _arrow(source: Box, target: Box, edge: Edge) -> str:
    x1, y1 = source.left + source.width, source.top + source.height / 2
    x2, y2 = target.left, target.top + target.height / 2
    bend = max(50.0, abs(x2 - x1) / 2)
    curve = f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
    said = escape(
        _printable(f"{edge.source} {'triggers' if edge.kind == 'triggers' else 'is read by'} {edge.target}")
    )
    return f'<path class="{edge.kind}" d="{curve}m-6-4l6 4l-6 4"><title>{said}</title></path>'


def _legend(graph: Graph) -> list[str]:
    kinds = [kind for kind in NodeKind if any(node.kind is kind for node in graph.nodes.values())]
    drawn, left = [], _MARGIN
    for kind in kinds:
        drawn.append(
            f'<g class="{kind}"><rect x="{left}" y="{_MARGIN}" width="14" height="14" rx="3"/>'
            f'<text x="{left + 20}" y="{_MARGIN + 12}">{kind}</text></g>'
        )
        left += 36 + int(len(kind) * _CELL)
    return drawn


def _width(node: Node) -> float:
    return 24 + _CELL * max(_cells(_cut(node.label)), _cells(_cut(node.name)) * 0.85)


def _cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cut(text: str) -> str:
    """The text on one line, in so many cells."""
    text = " ".join(_printable(text).split())
    if _cells(text) <= _MOST_CELLS:
        return text
    while _cells(text) > _MOST_CELLS - 1:
        text = text[:-1]
    return f"{text}…"


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(c if c.isprintable() else " " for c in text)
