"""Both ends move at the same moment, ten times; their rendezvous lets them find each other again.

    client ── west ──┐        ┌── north ── server
       └───── east ──┴─ core ─┴── south ─────┘
                         │
                       meet: the rendezvous

Each move is hard, and to an address that was never used. Neither end is where the other one says
OPEN to: only the rendezvous, which both have told, knows the way. One TCP connection lives through
all of it, while one that goes without wayside dies of the first move.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from wayside.lab import traffic
from wayside.lab.daemons import within
from wayside.lab.mobile import (
    MOVED_LIMIT_S,
    Land,
    Plan,
    check_informed,
    check_new_connection,
    comes_from,
    connected,
    goes_to,
    set_up,
    start_download,
)
from wayside.lab.roaming import Roamer
from wayside.lab.scenario import Trial
from wayside.runtime.names import service_of

MOVES = 10
FIRST_NUMBER = 3
"""Addresses with the number 2 are those that the ends have at first."""

RATE_BYTES_S = 1_000_000
LARGE_BYTES = 18_000_000
"""Of a download that lasts longer than ten moves, and no longer than a run's patience."""

LOOK_AFTER_S = 0.8
"""The rendezvous is asked with the third OPEN, 0.75 s after the move: no need to look before."""


def play(trial: Trial) -> None:
    """A download, ten moves of both ends, and the file is whole."""
    land = set_up(trial, Plan(both=True), LARGE_BYTES)
    stage, node = land.stage, land.client.node
    plain = start_download(node, land.server.node, land.at, RATE_BYTES_S)
    download = start_download(node, land.server.node, stage.to, RATE_BYTES_S)
    up = within(5.0, lambda: _download(land))
    trial.check("the download is under way", up, str(up[0]["wire"]) if up else "")
    known = within(5.0, lambda: plain.received.exists() and plain.received.stat().st_size)
    trial.check("and a plain one, without wayside (control)", known)
    gaps_ms: list[float] = []
    for number in range(FIRST_NUMBER, FIRST_NUMBER + MOVES):
        gaps_ms.append(_move(land, number))
        if not gaps_ms[-1]:
            return  # who has lost the other once needs no more moves
    going = not download.process.ended
    trial.check("the download lasted longer than all moves (control)", going)
    trial.check("the client's gap, median", all(gaps_ms), sorted(gaps_ms)[MOVES // 2], "ms")
    trial.check("and at most", all(gaps_ms), max(gaps_ms), "ms")
    check_informed(land, "after ten moves")
    check_new_connection(land, "after ten moves")
    wrong = download.damage(30.0)
    trial.check("curl has the file, whole", not wrong, wrong or LARGE_BYTES / 1e6, "MB")
    got = plain.received.stat().st_size
    trial.check("the plain download has died (control)", got < LARGE_BYTES / 2, got / 1e6, "MB")


def _move(land: Land, number: int) -> float:
    """Both go at once, and find each other; the client's gap in ms, 0 if they do not."""
    ends = (land.client, land.server)
    movers = [threading.Thread(target=_elsewhere, args=(land, one, number)) for one in ends]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    time.sleep(LOOK_AFTER_S)
    found = within(MOVED_LIMIT_S, lambda: _on_new_way(land))
    name = f"move {number - FIRST_NUMBER + 1}: the connection is on its new way"
    land.trial.check(name, found, str(found["wire"]) if found else _said(_download(land)))
    return float(found["gap_ms"] or 0.0) if found else 0.0


def _said(listed: list[dict[str, Any]]) -> str:
    return ", ".join(str(one["wire"]) for one in listed) or "there is none"


def _elsewhere(land: Land, host: Roamer, number: int) -> None:
    other = next(access for access in host.links.values() if not access.number)
    host.hard(land.boxes[other.box.name], number)


def _download(land: Land) -> list[dict[str, Any]]:
    """The client's connection for the web with the server."""
    web = service_of(traffic.HTTP_PORT)
    listed = connected(land.stage.client, land.stage.server)
    return [c for c in listed if c["service"] == web]


def _on_new_way(land: Land) -> dict[str, Any] | None:
    """That connection, if it is between the addresses that both ends have now."""
    here = land.client.node.address(land.trial.family)
    for one in _download(land):
        if one["moves"] and (comes_from(one), goes_to(one)) == (str(here), str(land.at)):
            return one
    return None
