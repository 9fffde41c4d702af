"""A ladder as a mermaid sequence diagram, for documents that draw those themselves."""

from __future__ import annotations

from wayside.lab.ladder import Arrow, Ladder, Row
from wayside.lab.ladder_text import ends_of, words_of


def render(ladder: Ladder) -> str:
    """The diagram's source."""
    lines = ["sequenceDiagram"]
    lines += [f"  participant P{n} as {_safe(p.name)}" for n, p in enumerate(ladder.participants)]
    last = len(ladder.participants) - 1
    for section in ladder.sections:
        lines.append(f"  Note over P0,P{last}: {_safe(section.heading)}")
        lines += [f"  {_line(row)}" for row in section.rows]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    if not isinstance(row, Arrow):
        return f"Note over P{row.column}: {row.time_ms:.1f} ms {_safe(words_of(row))}"
    source, target = ends_of(row)
    head = "-x" if row.target is None else "->>"
    lost = " (lost)" if row.target is None else ""
    return f"P{source}{head}P{target}: {row.time_ms:.1f} ms {_safe(row.label)}{lost}"


def _safe(words: str) -> str:
    """Mermaid reads `#`, `;` and line ends as its own; entities stand for them."""
    flat = " ".join(words.split())
    return "".join({"#": "#35;", ";": "#59;"}.get(letter, letter) for letter in flat)
