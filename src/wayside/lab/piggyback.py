"""The first datagram rides on OPEN: answered in one round trip instead of two.

    client ──100 ms── router ── server

The wire is long (a relay adds 50 ms in each direction), so round trips can be counted by time. The
control is a datagram that is too large to ride along: it has to wait for ACCEPT, and takes two.
"""

from __future__ import annotations

import json

from wayside.lab import traffic
from wayside.lab.enclosure import PYTHON
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage, set_stage

DELAY_MS = 50.0
"""One way. The first connection of two cold agents costs 20 ms of processor: a fifth of a trip."""

LOST_MS = 1e6
"""Stands for an answer that did not come."""

TOO_LARGE = 800
"""Bytes: more than may ride on an OPEN, less than a fragment."""

ATTEMPTS = 3
"""Each a new connection; the quickest counts. A busy machine adds time, never takes any away."""

ONE, TWO = (0.9, 1.5), (1.7, 2.5)
"""What counts as one and as two round trips."""


def play(trial: Trial) -> None:
    """Measure the plain round trip, then first datagrams, then a first TCP connection."""
    stage = set_stage(trial, "router", delay_ms={1: DELAY_MS})
    plain_ms = _plain_round_trip_ms(stage)
    trial.check("a plain round trip", plain_ms >= 2 * DELAY_MS, plain_ms, "ms")
    small = _asked(stage)
    large = _asked(stage, size=TOO_LARGE)
    for name, measured, (least, most) in (
        ("the first datagram is answered in 1 round trip", small[0], ONE),
        ("the second one too, as ever", small[1], ONE),
        ("a first datagram too large to ride takes 2 (control)", large[0], TWO),
        ("its second one takes 1", large[1], ONE),
    ):
        trips = measured / plain_ms
        trial.check(name, least <= trips <= most, trips, "round trips")
    delivered = [r for r in stage.server.events() if r.event == "data.delivered"]
    trial.check("the server's agent gave it to the application", delivered, len(delivered))
    connected = min(_tcp_connect_ms(stage) for _ in range(ATTEMPTS)) / plain_ms
    name = "a first TCP connect() takes 2: one to signal, one of its own"
    trial.check(name, TWO[0] <= connected <= TWO[1], connected, "round trips")


def _asked(stage: Stage, size: int = 64) -> tuple[float, float]:
    """The least round-trip times, ms, of the first and of the second datagram of a connection."""
    firsts: list[float] = []
    seconds: list[float] = []
    for _ in range(ATTEMPTS):
        asking = traffic.start_echo(stage.client.node, stage.to, count=2, size=size)
        first, second = traffic.echo_result(asking).rtts_ms
        firsts.append(LOST_MS if first is None else first)
        seconds.append(LOST_MS if second is None else second)
    return min(firsts), min(seconds)


def _plain_round_trip_ms(stage: Stage) -> float:
    """Of the same echo on the wire addresses, which no firewall forbids here."""
    to = stage.server.node.address(stage.trial.family)
    answers = traffic.echo_result(traffic.start_echo(stage.client.node, to, count=5)).rtts_ms
    return min(rtt for rtt in answers if rtt is not None)


def _tcp_connect_ms(stage: Stage) -> float:
    program = (
        "import json, socket, sys, time; started = time.monotonic(); "
        "socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close(); "
        "print(json.dumps((time.monotonic() - started) * 1000))"
    )
    words = ("-c", program, str(stage.to), str(traffic.HTTP_PORT))
    return float(json.loads(stage.client.node.run(*PYTHON, *words).stdout))
