"""A ladder in a terminal: lifelines as columns of characters, arrows between them.

0.000 ms  client            gate              server
          │                 │                 │
  0.412   ├──── OPEN ──────▶│                 │
  0.981   │                 ├──── OPEN ──────▶│
"""

from __future__ import annotations

from rich.text import Text

from wayside.lab.ladder import Arrow, Ladder, Mark, Row, Tone

GUTTER, TAIL = 11, 12
"""Characters for the time, and from the last lifeline on: its name, how long an arrow took."""

WIDTH, COLUMN_MIN = 120, 13
"""Of the drawing, and of a column: a message's name, its number and an arrow fit in it."""

STYLES = {Tone.GOOD: "green", Tone.BAD: "red", Tone.DATA: "cyan", Tone.NEUTRAL: "yellow"}


def render(ladder: Ladder, width: int = WIDTH) -> Text:
    """Draw a ladder; `width` in characters. `.plain` of the result has no colours."""
    text = Text(no_wrap=True)
    if not ladder.participants:
        return text.append("nothing happened\n", "dim")
    step = max(COLUMN_MIN, (width - GUTTER - TAIL) // max(1, len(ladder.participants) - 1))
    drawing = _Drawing(text, step, len(ladder.participants))
    for section in ladder.sections:
        drawing.heading(section.heading, ladder)
        for row in section.rows:
            drawing.row(row)
        text.append("\n")
    if ladder.left_out:
        text.append(f"{ladder.left_out} more connections are not drawn\n", "dim")
    return text


class _Drawing:
    """Writes lines of equal columns."""

    def __init__(self, text: Text, step: int, columns: int) -> None:
        self._text = text
        self._step = step
        self._columns = columns

    def heading(self, title: str, ladder: Ladder) -> None:
        self._text.append(f"{title}\n", "bold")
        names = "".join(
            f"{shortened(p.name, self._step - 1):<{self._step}}" for p in ladder.participants
        )
        self._text.append(f"{'ms':>{GUTTER - 2}}  {names.rstrip()}\n", "dim")

    def row(self, row: Row) -> None:
        self._text.append(f"{row.time_ms:>{GUTTER - 2}.1f}  ", "dim")
        if isinstance(row, Mark):
            self._mark(row)
        else:
            self._arrow(row)
        self._text.append("\n")

    def _mark(self, mark: Mark) -> None:
        """Its words stand to the right; in the last column to the left."""
        at, style = mark.column * self._step, STYLES[mark.tone]
        last = self._columns - 1
        if at and mark.column == last:
            said = shortened(words_of(mark), at - 2)
            before = "│".ljust(self._step) * mark.column
            self._text.append(before[: at - len(said) - 1], "dim")
            self._text.append(f"{said} ●", style)
            return
        self._lifelines(0, mark.column)
        said = shortened(words_of(mark), self._step * last + TAIL - at - 2)
        self._text.append(f"● {said}", style)
        beyond = (len(said) + 2) // self._step + mark.column + 1
        if beyond < self._columns:
            self._text.append(" " * (self._step * (beyond - mark.column) - len(said) - 2))
            self._lifelines(beyond, self._columns)

    def _arrow(self, arrow: Arrow) -> None:
        source, target = ends_of(arrow)
        left, right = min(source, target), max(source, target)
        self._lifelines(0, left)
        room = (right - left) * self._step - 1
        label = f" {arrow.label} "
        if arrow.source is None:
            label = f" {arrow.label} from outside "
        line = shortened(label, room - 1).center(room, "─")
        lost = arrow.target is None
        if source < target:
            shaft = "├" + (line[:-1] + "✗" if lost else line[:-1] + "▶")
            self._text.append(shaft, "red" if lost else "bold")
            self._lifelines(right, self._columns)
        else:
            shaft = "│" + (("✗" if lost else "◀") + line[1:]) + "┤"
            self._text.append(shaft, "red" if lost else "bold")
            self._text.append(" " * (self._step - 1) if right + 1 < self._columns else "")
            self._lifelines(right + 1, self._columns)
        took = _took(arrow)
        self._text.append(took, "red" if lost else "dim")

    def _lifelines(self, first: int, beyond: int) -> None:
        for column in range(first, beyond):
            last = column == self._columns - 1
            self._text.append("│" if last else "│".ljust(self._step), "dim")


def ends_of(arrow: Arrow) -> tuple[int, int]:
    """The columns that an arrow is drawn between, also where one end is not known."""
    if arrow.source is None:
        target = arrow.target or 0
        return (target - 1, target) if target else (target + 1, target)
    target = arrow.target if arrow.target is not None else arrow.towards
    if target is None or target == arrow.source:
        target = arrow.source + 1 if arrow.source == 0 else arrow.source - 1
    return arrow.source, target


def words_of(mark: Mark) -> str:
    """What is written beside a mark."""
    count = f" x{mark.count}" if mark.count > 1 else ""
    return f"{mark.text}{count}  {mark.detail}".rstrip()


def shortened(words: str, room: int) -> str:
    """Words that fit into so many characters, with an ellipsis where some are missing."""
    return words if len(words) <= room else words[: max(0, room - 1)] + "…"


def _took(arrow: Arrow) -> str:
    if arrow.target is None:
        return "  lost"
    return f"  +{arrow.flight_ms:.1f}" if arrow.flight_ms >= 1 else ""
