"""connect() of an unmodified application until it is established, and plain connect().

Every connection is the first of its kind: a new 5-tuple, nothing held for it anywhere, no cookie,
no ticket. A plain connect() takes one round trip, so the round trip is known; signaling may add one
more and 5 ms. Once without delay, where the 5 ms are all that counts, and once over a long wire.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median

from figure import Figure, percentile_99, single
from place import HERE, PORTS, Bench, Way

from wayside.lab.enclosure import PYTHON

REACH_MS = 5.0
PORT = PORTS[1]
FAMILY = 4
ONE_WAY_MS = 20.0
REST_MS = 20.0
"""After each connection, and a round trip more: a CLOSE has gone over both agents and the gate
by then, so what is timed is a first connection between quiet hosts."""

BLOCK = 25
"""Connections of one kind in a row, then as many of the other."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Median and 99th percentile, without delay."""
    return compare(bench, 0.0)


def measure_far(bench: Bench) -> Iterator[Figure]:
    """The same over a long wire."""
    return compare(bench, ONE_WAY_MS)


def compare(bench: Bench, delay_ms: float) -> Iterator[Figure]:
    """Take turns; what a signaled connect() takes beyond twice a plain one."""
    line = bench.line(delay_ms=delay_ms)
    rest_ms = REST_MS + 2 * delay_ms
    serving = (*PYTHON, str(HERE / "connecting.py"), "serve", str(PORT))
    for node in line.receivers:
        node.spawn(*serving, ready="ready")
    signaled: list[float] = []
    plain: list[float] = []
    for _ in range(bench.rounds(8, 1)):
        plain += ask(line.plain(FAMILY), rest_ms)
        signaled += ask(line.signaled(FAMILY), rest_ms)
    trip_ms = median(plain)
    for what, of in (("median", median), ("99th percentile", percentile_99)):
        extra = of(signaled) - 2 * trip_ms
        wire = f"{2 * delay_ms:g} ms round trip" if delay_ms else "no delay"
        yield single(
            f"connect(), {wire}, {what}: beyond one more trip",
            "ms",
            extra,
            reach=REACH_MS,
            at_most=True,
            control=of(plain),
            note=f"signaled {of(signaled):.2f} ms ({min(signaled):.2f} to {max(signaled):.2f}), "
            f"plain {of(plain):.2f} ms, {len(signaled)} of each",
            samples=[one - 2 * trip_ms for one in signaled],
            control_samples=plain,
        )


def ask(way: Way, rest_ms: float) -> list[float]:
    """A block of connections."""
    words = (str(HERE / "connecting.py"), "ask", str(way.to), str(PORT), str(BLOCK), str(rest_ms))
    return json.loads(way.sender.run(*PYTHON, *words).stdout)
