"""A campaign report as a picture: the funnel of each campaign, and uplift with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

STAGES = ("matched", "decided", "sent", "delivered", "answered", "converted")
"""Of the funnel, from the widest."""

_MARGIN, _NAME, _BAR, _ROW, _GAP = 24, 240, 420, 18, 14
"""Around it all, width of names, of the longest bar, height of a bar, between campaigns; in pixels."""

_MOST_LETTERS = 24
"""Of a name; a Chinese one is as wide as two others."""
_STYLE = """\
svg{--ground:#fff;--text:#1c2430;--faint:#5b6675;--line:#a9b4c2;--good:#15803d;--bad:#b91c1c;--bar:#0369a1;
background:var(--ground)}
text{font:12px system-ui,"Noto Sans","Noto Sans CJK SC",sans-serif;fill:var(--text)}
.head{font-size:15px;font-weight:600}.faint{fill:var(--faint)}
rect{fill:var(--bar)}line{stroke:var(--line)}
.up{stroke:var(--good)}.down{stroke:var(--bad)}.open{stroke:var(--faint)}
circle.up{fill:var(--good)}circle.down{fill:var(--bad)}circle.open{fill:var(--faint)}
@media (prefers-color-scheme:dark){
svg{--ground:#12161c;--text:#e6eaf0;--faint:#98a4b3;--line:#56616f;--good:#4ade80;--bad:#f87171;--bar:#38bdf8}}
"""


@dataclass(frozen=True, slots=True)
class Pictured:
    """One campaign of the picture. `stages`: how many at each of `STAGES`. `uplift`: (value, low, high) as
    shares, None if it cannot be told."""

    name: str
    stages: Sequence[int]
    uplift: tuple[float, float, float] | None


def report_svg(campaigns: Sequence[Pictured], title: str) -> str:
    """The picture as SVG text; light or dark as the browser is. Funnels share one scale."""
    parts: list[str] = [f'<text class="head" x="{_MARGIN}" y="{_MARGIN + 6}">{escape(title)}</text>']
    top = _MARGIN + 28
    widest = max((max(each.stages) for each in campaigns), default=0)
    for each in campaigns:
        parts.append(f'<text x="{_MARGIN}" y="{top + 13}">{escape(_short(each.name))}</text>')
        for stage, count in zip(STAGES, each.stages, strict=True):
            width = _BAR * count / widest if widest else 0
            left = _MARGIN + _NAME
            parts += (
                f'<text class="faint" x="{left - 8}" y="{top + 13}" text-anchor="end">{stage}</text>',
                f'<rect x="{left}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 5}" rx="2"/>',
                f'<text class="faint" x="{left + width + 6:.1f}" y="{top + 13}">{count:,}</text>',
            )
            top += _ROW
        top += _GAP
    drawn = [(each.name, each.uplift) for each in campaigns if each.uplift is not None]
    if drawn:
        top = _draw_uplift(parts, drawn, top + 22)
    width, height = 2 * _MARGIN + _NAME + _BAR + 80, top + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def _draw_uplift(
    parts: list[str], drawn: Sequence[tuple[str, tuple[float, float, float]]], top: int
) -> int:
    heading = "Uplift over the control group, in percentage points, with 95 % intervals"
    parts.append(f'<text class="head" x="{_MARGIN}" y="{top}">{heading}</text>')
    top += 14
    farthest = max(max(abs(low), abs(high)) for _, (_, low, high) in drawn) or 1.0
    middle, scale = _MARGIN + _NAME + _BAR / 2, _BAR / 2 / farthest
    bottom = top + _ROW * len(drawn) + 4
    parts.append(f'<line x1="{middle}" y1="{top}" x2="{middle}" y2="{bottom}"/>')
    for name, (value, low, high) in drawn:
        kind = "up" if low > 0 else "down" if high < 0 else "open"
        y = top + _ROW / 2 + 2
        parts += (
            f'<text x="{_MARGIN}" y="{y + 4}">{escape(_short(name))}</text>',
            f'<line class="{kind}" stroke-width="2" x1="{middle + low * scale:.1f}" y1="{y}" '
            f'x2="{middle + high * scale:.1f}" y2="{y}"/>',
            f'<circle class="{kind}" cx="{middle + value * scale:.1f}" cy="{y}" r="4"/>',
            f'<text class="faint" x="{middle + _BAR / 2 + 10}" y="{y + 4}">{100 * value:+.1f}</text>',
        )
        top += _ROW
    parts.append(f'<text class="faint" x="{middle}" y="{bottom + 14}" text-anchor="middle">0</text>')
    return bottom + 18


def _short(name: str) -> str:
    width = 0
    for place, letter in enumerate(name):
        width += 2 if east_asian_width(letter) in "FW" else 1
        if width > _MOST_LETTERS:
            return f"{name[: place - 1]}…"
    return name
