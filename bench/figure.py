"""A figure: what was measured, beside its control from the same run, and what it has to reach.

Samples of the two are taken in turns (A B A B ...), because a shared machine changes its mind from
one second to the next; the value is the median of the samples, and the spread (least, most) is
printed beside it. A ratio is the median of A over the median of B.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    `reach` is what `ratio` has to reach if `of_ratio`, else what `value` has to; at the least, or
    at the most if `at_most`. None: the figure explains another one and reaches for nothing.
    `samples`, `control_samples`: in `unit`. `note`: what else belongs to it, one line.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    control: float | None = None
    reach: float | None = None
    ok: bool | None = None
    samples: list[float] = []
    control_samples: list[float] = []
    of_ratio: bool = False
    at_most: bool = False
    note: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What --json prints."""

    v: int = 1
    figures: list[Figure]


def compared(
    name: str,
    unit: str,
    samples: Sequence[float],
    control: Sequence[float],
    *,
    reach: float | None = None,
    note: str = "",
) -> Figure:
    """A figure whose ratio to its control has to be `reach` at the least."""
    value, other = median(samples), median(control)
    ratio = value / other if other else 0.0
    return Figure(
        name=name,
        value=value,
        unit=unit,
        ratio=ratio,
        control=other,
        reach=reach,
        ok=None if reach is None else ratio >= reach,
        samples=list(samples),
        control_samples=list(control),
        of_ratio=True,
        note=note,
    )


def single(
    name: str,
    unit: str,
    value: float,
    *,
    reach: float | None = None,
    at_most: bool = False,
    control: float | None = None,
    samples: Sequence[float] = (),
    control_samples: Sequence[float] = (),
    note: str = "",
) -> Figure:
    """A figure whose value itself has to reach something, if anything."""
    reached = reach is not None and (value <= reach if at_most else value >= reach)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        control=control,
        reach=reach,
        ok=None if reach is None else reached,
        samples=list(samples),
        control_samples=list(control_samples),
        at_most=at_most,
        note=note,
    )


def percentile_99(samples: Sequence[float]) -> float:
    """The value that 99 of 100 samples stay below."""
    return quantiles(samples, n=100, method="inclusive")[98]
