"""Texts as a terminal may show them."""

from __future__ import annotations


def plain(text: str) -> str:
    """Without control characters: what a gate says must not steer somebody's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def span(seconds: float) -> str:
    """A time span with one unit: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def short(key: str) -> str:
    """The beginning of a key: 60 bits, enough to tell two apart."""
    return f"{key[:13]}..."
