"""The table that people read."""

from __future__ import annotations

from collections.abc import Sequence

from figure import Figure
from rich.console import Console
from rich.table import Table


def show(figures: Sequence[Figure]) -> None:
    """Print all figures with their targets."""
    table = Table(title="wayside bench: medians (least to most)", title_justify="left")
    for column in ("figure", "value", "control", "ratio", "reach", ""):
        table.add_column(column, justify="left" if column in ("figure", "") else "right")
    for figure in figures:
        table.add_row(
            figure.name,
            _with_spread(figure.value, figure.samples, figure.unit),
            "" if figure.control is None else _with_spread(figure.control, figure.control_samples),
            "" if figure.ratio is None else f"{figure.ratio:.3f}",
            _reach(figure),
            _mark(figure),
        )
        if figure.note:
            table.add_row(f"  [dim]{figure.note}[/dim]")
    Console(width=max(Console().width, 132)).print(table)


def _with_spread(value: float, samples: Sequence[float], unit: str = "") -> str:
    said = f"{number(value)} {unit}".rstrip()
    return f"{said} ({number(min(samples))} to {number(max(samples))})" if samples else said


def _reach(figure: Figure) -> str:
    if figure.reach is None:
        return ""
    return f"{'<=' if figure.at_most else '>='} {number(figure.reach)}"


def _mark(figure: Figure) -> str:
    if figure.ok is None:
        return ""
    return "[green]ok[/green]" if figure.ok else "[red]short[/red]"


def number(value: float) -> str:
    """Three figures that count, and thousands apart."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
