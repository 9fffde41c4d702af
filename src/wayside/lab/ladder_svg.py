"""A ladder as one SVG of 1,200 px, with no script, font or style from elsewhere.

It is light on dark-mode pages too: a drawing has a background of its own.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from wayside.lab.ladder import Arrow, Ladder, Mark, Row, Section, Tone
from wayside.lab.ladder_text import ends_of, shortened

WIDTH = 1200
GUTTER, MARGIN = 96, 120
"""Left of the first lifeline: the times. Right of the last one, and left of the first: names."""

COLUMNS_MAX = 8
"""Names of more would run into each other: then a connection has the columns that it needs."""

ROW, HEADING, TOP = 26, 78, 56
"""Heights in px."""

SLANT = 8
"""How far an arrow falls: time runs downwards."""

LETTER, SMALL_LETTER = 7.3, 6.7
"""Mean width of a character of the two sizes, for what fits on a line; px, generous."""

COLOURS = {
    Tone.GOOD: "#1a7f37",
    Tone.BAD: "#cf222e",
    Tone.DATA: "#0969da",
    Tone.NEUTRAL: "#6e7781",
}

STYLE = """
  text { font: 13px "DejaVu Sans", Verdana, sans-serif; fill: #1f2328; }
  .halo { paint-order: stroke; stroke: #fff; stroke-width: 5px; stroke-linejoin: round; }
  .title { font-size: 17px; font-weight: bold; }
  .name { font-weight: bold; text-anchor: middle; }
  .section { font-weight: bold; }
  .time, .detail { font-size: 12px; fill: #57606a; }
  .time { text-anchor: end; }
  .label { text-anchor: middle; }
  .end { text-anchor: end; }
  .life { stroke: #d0d7de; stroke-width: 2; }
  .arrow { stroke: #1f2328; stroke-width: 1.6; }
  .lost { stroke: #cf222e; stroke-width: 1.6; stroke-dasharray: 5 4; }
  .cross { stroke: #cf222e; stroke-width: 2.2; }
  .band { fill: #f6f8fa; }
"""


def render(ladder: Ladder, title: str) -> str:
    """The whole document."""
    height = TOP + sum(HEADING + ROW * len(s.rows) for s in ladder.sections) + ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label={quoteattr(title)}>',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="20" y="34">{escape(title)}</text>',
    ]
    y = TOP
    for section in ladder.sections:
        shown = _columns(ladder, section)
        drawing = _Drawing(shown)
        parts += drawing.heading(section, [ladder.participants[n].name for n in shown], y)
        y += HEADING
        for row in section.rows:
            parts += drawing.row(row, y - 12)
            y += ROW
    if not ladder.sections:
        parts.append(f'<text x="20" y="{TOP + 10}">nothing happened</text>')
    if ladder.left_out:
        said = f"{ladder.left_out} more connections are not drawn"
        parts.append(f'<text class="detail" x="20" y="{y + 16}">{said}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _columns(ladder: Ladder, section: Section) -> list[int]:
    """All, if there is room for them; else those where something happens."""
    everybody = range(len(ladder.participants))
    if len(everybody) <= COLUMNS_MAX:
        return list(everybody)
    rows = section.rows
    used = {n for row in rows for n in ((row.column,) if isinstance(row, Mark) else ends_of(row))}
    return [n for n in everybody if n in used]


class _Drawing:
    """Where columns are, and how rows look there."""

    def __init__(self, columns: list[int]) -> None:
        room = WIDTH - GUTTER - 2 * MARGIN
        gaps = max(1, len(columns) - 1)
        self._last = columns[-1] if len(columns) > 1 else -1
        self._xs = {n: GUTTER + MARGIN + room * at / gaps for at, n in enumerate(columns)}

    def heading(self, section: Section, names: list[str], y: float) -> list[str]:
        """A band with what the connection is, and the names of the columns below it."""
        bottom = y + HEADING + ROW * len(section.rows)
        parts = [
            f'<rect class="band" x="0" y="{y}" width="{WIDTH}" height="28"/>',
            f'<text class="section" x="20" y="{y + 19}">{escape(section.heading)}</text>',
        ]
        for x, name in zip(self._xs.values(), names, strict=True):
            parts.append(f'<text class="name" x="{x:.0f}" y="{y + 48}">{escape(name)}</text>')
            parts.append(_line("life", x, y + 54, x, bottom - 14))
        return parts

    def row(self, row: Row, y: float) -> list[str]:
        """One arrow or mark, with its time."""
        time = f'<text class="time" x="{GUTTER}" y="{y + 17}">{row.time_ms:.1f} ms</text>'
        drawn = self._mark(row, y + 13) if isinstance(row, Mark) else self._arrow(row, y + 12)
        return [time, *drawn]

    def _arrow(self, arrow: Arrow, y: float) -> list[str]:
        source, target = ends_of(arrow)
        x1 = self._x(source)
        lost = arrow.target is None
        x2 = x1 + (self._x(target) - x1) * (0.6 if lost else 1.0)
        way = 1 if x2 > x1 else -1
        parts = [_line("lost" if lost else "arrow", x1, y, x2 - way * 2, y + SLANT)]
        label = arrow.label + (" (lost)" if lost else "")
        if arrow.source is None:
            label += " (from outside)"
        took = f"+{arrow.flight_ms:.1f} ms" if arrow.flight_ms >= 1 else ""
        if len(label + took) * LETTER > abs(x2 - x1):
            took = ""
        share = min(1.0, len(label + took) * LETTER / abs(x2 - x1))
        above = y + SLANT / 2 * (1 - share) - 4  # where the line is highest below the words
        parts.append(_label((x1 + x2) / 2, above, label, took, f"{arrow.bytes} bytes"))
        if lost:
            for up in (-5, 5):
                parts.append(_line("cross", x2 - 5, y + SLANT - up, x2 + 5, y + SLANT + up))
            return parts
        tip = f"{x2:.1f},{y + SLANT} {x2 - way * 10:.1f},{y + SLANT - 5}"
        return [*parts, f'<polygon points="{tip} {x2 - way * 10:.1f},{y + SLANT + 3}"/>']

    def _mark(self, mark: Mark, y: float) -> list[str]:
        """Its words stand to the right, or to the left where only that has room for them."""
        x, colour = self._x(mark.column), COLOURS[mark.tone]
        words = mark.text + (f" ×{mark.count}" if mark.count > 1 else "")
        left, right = x - GUTTER - 24, WIDTH - x - 24
        wanted = len(words) * LETTER + (len(mark.detail) + 1) * SMALL_LETTER
        leftwards = left > right and (wanted > right or mark.column == self._last)
        room = left if leftwards else right
        words = shortened(words, int(room / LETTER))
        detail = shortened(mark.detail, int((room - len(words) * LETTER) / SMALL_LETTER))
        inner = f'<tspan fill="{colour}">{escape(words)}</tspan>'
        if len(detail) > 1:
            inner += f'<tspan class="detail" dx="8">{escape(detail)}</tspan>'
        anchor, at = ("halo end", x - 12) if leftwards else ("halo", x + 12)
        return [
            f'<circle cx="{x:.0f}" cy="{y}" r="5" fill="{colour}"/>',
            f'<text class="{anchor}" x="{at:.0f}" y="{y + 5}">{inner}'
            f"<title>{escape(mark.detail)}</title></text>",
        ]

    def _x(self, column: int) -> float:
        """Beyond the columns there is outside: the edges of the drawing."""
        if column in self._xs:
            return self._xs[column]
        return GUTTER + 20 if column < 0 else WIDTH - 20


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _label(x: float, y: float, words: str, took: str, title: str) -> str:
    aside = f'<tspan class="detail" dx="8">{took}</tspan>' if took else ""
    inner = f"{escape(words)}{aside}<title>{title}</title>"
    return f'<text class="label halo" x="{x:.1f}" y="{y:.1f}">{inner}</text>'
