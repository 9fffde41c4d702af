"""All agents are killed and started again while data flows: iperf3 never notices.

    client ──inside── gate ──outside── server

The kernel carries the data and holds the rules; an agent that comes back reads them. Afterwards it
knows the connection, and ends it as if nothing had been.
"""

from __future__ import annotations

import time

from wayside.lab import firewall, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, launch, within
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage, set_stage

STALLED_SHARE = 0.1
"""An interval with a tenth of the usual rate would be a stall; starting three daemons on two busy
cores costs less than half."""


SECONDS_MIN = 10.0
"""Room for a start, an absence, and a look around while data still flows: iperf3 leaves three
starting daemons little of two cores."""

BEFORE_S, ABSENT_S = 1.0, 0.5
"""How long iperf3 runs before the agents are killed, and how long nobody is there."""


def play(trial: Trial) -> None:
    """Start iperf3, kill and restart everything in its midst, look at it from both sides."""
    stage = set_stage(trial, "gate", gate="gate", inside="client")
    daemons = trial.daemons.all
    seconds = max(trial.bulk_s, SECONDS_MIN)
    running = traffic.start_iperf(stage.client.node, stage.to, seconds)
    stage.wait_events(stage.server, "connection.opened")
    time.sleep(BEFORE_S)
    for daemon in daemons:
        daemon.kill()
    down_at = time.monotonic()
    time.sleep(ABSENT_S)
    launch(daemons)
    trial.check("all agents are back", True, time.monotonic() - down_at, "s without any")
    _check_known(stage)
    bulk = traffic.iperf_result(running, seconds + 10)
    trial.check(
        "iperf3 ends well", not bulk.error and bulk.gbit_s, bulk.error or bulk.gbit_s, "Gbit/s"
    )
    name = "no interval stalls: the slowest one's share of the median rate"
    trial.check(name, bulk.slowest_share > STALLED_SHARE, bulk.slowest_share)
    _check_closes(stage)


def _check_known(stage: Stage) -> None:
    """`status` of every agent shows iperf3's connections, as the kernel has them."""
    for daemon in stage.trial.daemons.all:
        connections = within(SEEN_LIMIT_S, daemon.held)
        transports = [connection["transport"] for connection in connections]
        name = f"{daemon.name} knows the connections again"
        stage.trial.check(name, transports == ["tcp", "tcp"], len(transports), "connections")


def _check_closes(stage: Stage) -> None:
    """The restarted agents still see the programs close, and still say CLOSE to each other."""
    trial = stage.trial
    for daemon in trial.daemons.all:
        left = within(SEEN_LIMIT_S, lambda daemon=daemon: not daemon.held())
        trial.check(f"{daemon.name} has closed them", left)
    gate = trial.daemons.gates[0]
    closes = [r for r in gate.events() if r.event == "datagram.received" and r.type == "CLOSE"]
    trial.check("by CLOSE, through the gate", closes, len(closes))
    again = traffic.curl(stage.client.node, stage.to)
    trial.check(
        "a new connection opens as before", again.bytes == traffic.FILE_BYTES, again.seconds, "s"
    )
    firewall.check_gone_after_close(stage, gate)
