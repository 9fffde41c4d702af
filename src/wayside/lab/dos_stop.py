"""A flooded server says STOP, and of three gates in a row the one nearest to the source filters.

    flooder ── gate1 ── gate2 ── gate3 ── box ── server
    client ─────┘

The flooder was allowed in, has floods of small datagrams for thanks, and listens to nobody: its
agent is killed. Others try STOP first: the box, which is on the path and sees everything; the
client, which has a good key and an address of its own; and any number of them. Then the server
says it. The client's datagrams pass all the while, and when its time is over the filter is gone.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise

from wayside.core.address import IP
from wayside.core.identity import key_text
from wayside.lab import flood, traffic
from wayside.lab.adversary_stage import MODULE as ADVERSARY
from wayside.lab.adversary_stage import status_of
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.enclosure import PYTHON
from wayside.lab.flood import Arriving
from wayside.lab.scenario import Trial
from wayside.lab.stage import ALLOW_LAB, SERVICES
from wayside.lab.world import Node, Process
from wayside.runtime.control_types import FilterRecord
from wayside.runtime.names import service_of

SINK_PORT, FLOOD_FROM, ECHO_FROM = 7009, 40_009, 40_001

RATE, FLOOD_S = 2_000, 28.0
"""Datagrams a second, and how long at the most: 56,000 in all. More shows nothing more."""

ECHO_COUNT, ECHO_EVERY_S = 1_500, 0.01
"""The client's datagrams: fifteen seconds of them, each to be answered."""

STOP_S = 6.0
STOPS = 500
"""Of them at once: a flood of STOPs."""

LOOK_S = 0.5

RULE_LIMIT_MS = 1000.0
"""What a STOP may take to the farthest of three gates, however busy the machine; it takes some
20 ms, and script/bench measures it."""

POLICY = ALLOW_LAB.replace("DIRECTION", "out")


@dataclass(frozen=True, slots=True)
class Flooded:
    """The stage: `box` is on the path and no gate; `arriving` counts at the server."""

    trial: Trial
    flooder: Daemon
    client: Daemon
    server: Daemon
    gates: list[Daemon]
    box: Node
    arriving: Arriving
    to: IP

    @property
    def seen(self) -> str:
        """The file of what passes the box."""
        return str(self.box.state / "seen")

    def filters(self) -> list[list[FilterRecord]]:
        """What each gate filters, as `wayside status` shows it."""
        return [status_of(gate).filters for gate in self.gates]

    def dropped(self) -> dict[str, int]:
        """Datagrams that the gates dropped, by reason."""
        found: dict[str, int] = {}
        for gate in self.gates:
            for reason, count in status_of(gate).dropped.items():
                found[reason] = found.get(reason, 0) + count
        return found


def play(trial: Trial) -> None:
    """The flood arrives; STOPs by others change nothing; the server's ends it, for its time."""
    stage = _set_up(trial)
    echo = traffic.start_echo(
        stage.client.node,
        stage.client.address(stage.server.name, trial.family),
        count=ECHO_COUNT,
        interval_s=ECHO_EVERY_S,
        from_port=ECHO_FROM,
    )
    running = _flood(stage)
    _check_refused(stage)
    _check_stopped(stage)
    _check_over(stage)
    running.popen.terminate()
    result = traffic.echo_result(echo)
    name = "the client's datagrams are answered all the while"
    trial.check(name, result.answered == ECHO_COUNT, result.answered, f"of {ECHO_COUNT}")


def _set_up(trial: Trial) -> Flooded:
    world, daemons = trial.world, trial.daemons
    nodes = world.chain("flooder", "gate1", "gate2", "gate3", "box", "server")
    far, first, *_, box, near = nodes
    beside, net = world.beside("client", first)
    for before, node in pairwise(nodes[1:]):
        world.route(node, net, before)
    traffic.serve_echo(near)
    flood.serve_sink(near, SINK_PORT)
    flooder, client = daemons.host(far), daemons.host(beside)
    server = daemons.host(near, SERVICES | {service_of(SINK_PORT): SINK_PORT})
    for number in (1, 2, 3):
        inside = [far, beside] if number == 1 else nodes[number - 1]
        daemons.gate(nodes[number], inside=inside, outside=nodes[number + 1], policy=POLICY)
    daemons.start()
    stage = Flooded(
        *(trial, flooder, client, server, daemons.gates, box, Arriving(near, SINK_PORT)),
        flooder.address(server.name, trial.family),
    )
    (box.state / "seen").touch()
    words = ("listen", stage.seen, "to-gate3", "to-server")
    box.spawn_python(ADVERSARY, *words, ready="ready")
    return stage


def _flood(stage: Flooded) -> Process:
    """One datagram, which is signaled for; then no agent any more, and very many."""
    trial, where = stage.trial, (stage.to, SINK_PORT, FLOOD_FROM)
    opened = flood.ask_first(stage.flooder, *where)
    trial.check("the flooder's connection is opened, by three gates", opened, opened)
    running = flood.start(stage.flooder, *where, RATE, FLOOD_S)
    started = within(SEEN_LIMIT_S, lambda: stage.arriving.packets() > RATE / 4)
    rate = stage.arriving.rate(LOOK_S)
    trial.check("its flood arrives (control)", started and rate > RATE / 2, rate, "packets/s")
    return running


def _check_refused(stage: Flooded) -> None:
    """Who is not the receiver: the box in the server's name, the client in its own, thousands."""
    trial, client = stage.trial, stage.client
    there = str(client.node.address(trial.family))
    for who, node, words, reasons in (
        ("a box on the path", stage.box, ("stop", stage.seen, "2"), {"address", "signature"}),
        (
            "a good key that was not asked, with its own address",
            client.node,
            ("stop", stage.seen, "2", f"{client.node.state}/host.key", there),
            {"address"},
        ),
        ("a flood of STOPs", stage.box, ("stop", stage.seen, str(STOPS)), {"address", "signature"}),
    ):
        before = stage.dropped()
        said = json.loads(node.run(*PYTHON, "-m", ADVERSARY, *words).stdout)["sent"]
        within(SEEN_LIMIT_S, lambda before=before: stage.dropped() != before)
        after = stage.dropped()
        more = {reason for reason, count in after.items() if count > before.get(reason, 0)}
        made = [one for gate in stage.filters() for one in gate]
        rate = stage.arriving.rate(LOOK_S)
        trial.check(f"STOP by {who}: refused", said and more >= reasons and not made, said, "said")
        trial.check(f"STOP by {who}: the flood arrives", rate > RATE / 2, rate, "packets/s")


def _check_stopped(stage: Flooded) -> None:
    """The server says it: one gate filters, no other, and nothing arrives any more."""
    trial, first = stage.trial, stage.gates[0]
    command = ("stop", stage.flooder.name, "--for", f"{STOP_S:g}s", "--json")
    said = json.loads(stage.server.command(*command))
    (told,) = said["stopped"]
    trial.check("STOP: the server is told who filters", told["by"] == key_text(first.public))
    alone = within(SEEN_LIMIT_S, lambda: [len(found) for found in stage.filters()] == [1, 0, 0])
    where = ", ".join(str(len(found)) for found in stage.filters())
    trial.check("the gate nearest to the source filters, and no other", alone, where)
    took_ms = flood.filtered_after_ms(stage.server, first)
    fast = took_ms is not None and took_ms < RULE_LIMIT_MS
    trial.check("from STOP to that filter", fast, took_ms, "ms")
    counted = sum(one.packets for one in stage.filters()[0])
    rate = stage.arriving.rate(LOOK_S)
    trial.check("nothing of the flood arrives", rate == 0, rate, "packets/s")
    more = sum(one.packets for one in stage.filters()[0]) - counted
    trial.check("meanwhile the filter counts it", more > RATE * LOOK_S / 2, more, "packets")


def _check_over(stage: Flooded) -> None:
    """When its time is over the filter is gone; and what was said once makes no second one."""
    trial = stage.trial
    made = [r for r in stage.gates[0].events() if (r.event, r.action) == ("rule.installed", "drop")]
    gone = within(STOP_S + SEEN_LIMIT_S, lambda: not any(stage.filters()))
    lasted_s = time.monotonic() - made[0].time if made else None
    in_time = lasted_s is not None and STOP_S - 0.1 < lasted_s < STOP_S + 2
    trial.check("the filter is gone when its time is over", gone and in_time, lasted_s, "s")
    rate = stage.arriving.rate(LOOK_S)
    trial.check("and the flood arrives again (control)", rate > RATE / 2, rate, "packets/s")
    stage.box.run(*PYTHON, "-m", ADVERSARY, "replay", stage.seen, "2")
    rate = stage.arriving.rate(LOOK_S)
    again = [one for gate in stage.filters() for one in gate]
    name = "the same STOP once more makes no filter"
    trial.check(name, not again and rate > RATE / 2, len(again), "filters")
