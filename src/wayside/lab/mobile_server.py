"""A server moves between networks; connections go on, and new ones find it by its rendezvous.

    client ── west ── core ──┬── north ──┐
                       │     └── south ──┴── server
                     meet: the rendezvous

All three boxes are default-drop gates. The server moves hard from north to south (the old link
goes first) and softly back (both are up), in the middle of a download and of flows in both
directions. Its new gate lets in what was signaled and nothing else, the old one forgets.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.address import Address, Flow, Transport
from wayside.lab import gaps, traffic
from wayside.lab.daemons import Daemon, within
from wayside.lab.firewall import relations
from wayside.lab.mobile import (
    ECHO_FROM,
    GAPS_PORT,
    Download,
    Land,
    Plan,
    check_informed,
    check_moved,
    check_new_connection,
    connected,
    goes_to,
    longest_gaps,
    set_up,
    start_download,
)
from wayside.lab.probe import Watch, arrived
from wayside.lab.scenario import Trial
from wayside.lab.world import Process

GATE_LIFETIME_S = 2.0
"""An old gate forgets within a run's patience."""

FLOW_S = 13.0
"""How long flows run: for two moves, and what is looked at after each."""

RATE_BYTES_S = 2_000_000
LARGE_BYTES = 24_000_000
"""Twelve seconds of a download, longer than both moves take."""

FLOWS = 6
"""The download, the echo, and TCP and UDP in both directions."""

ECHO_COUNT, ECHO_EVERY_S, ECHO_LIMIT_S = 900, 0.01, 1.0
SOFT_GAP_MS_MAX = 1000.0
"""Both ways are there: what a flow does without for longer, a person would call an outage."""

UDP_COUNT_MIN = FLOW_S * 1000 / 3
"""Of a datagram every millisecond: what had died at the first move would have had fewer."""


@dataclass(frozen=True, slots=True)
class _Running:
    """What passes while the server moves."""

    download: Download
    echo: Process
    flows: list[Process]


def play(trial: Trial) -> None:
    """Shut; then a hard move, and a soft one back."""
    plan = Plan(gated=("west", "north", "south"), gate_lifetime_s=GATE_LIFETIME_S)
    land = set_up(trial, plan, LARGE_BYTES)
    _check_shut(land)
    running = _start(land)
    began = _move_hard(land)
    hard = longest_gaps(land, running.flows, began)
    for name in ("tcp up", "tcp down", "udp up", "udp down"):
        trial.check(f"hard move: gap of {name}", name in hard, hard.get(name), "ms")
    _move_softly(land, running)


def _check_shut(land: Land) -> None:
    """From outside nothing gets to the server unsignaled; the same probes do reach its gate."""
    trial, gate = land.trial, land.boxes["north"]
    source = Address(land.client.node.address(trial.family), ECHO_FROM)
    kinds = ((Transport.UDP, traffic.ECHO_PORT), (Transport.TCP, traffic.HTTP_PORT))
    flows = [Flow(kind, source, Address(land.at, port)) for kind, port in kinds]
    at_gate = Watch(gate)
    reached = within(3.0, lambda: arrived(land.core, at_gate, flows) == set(flows))
    trial.check("before signaling, probes reach the gate (control)", reached)
    passed = arrived(land.core, land.stage.watch, flows)
    trial.check("before signaling, nothing passes", not passed, len(passed), "passed")
    direct = traffic.curl(land.client.node, land.at, limit_s=1.0)
    trial.check("an unsignaled curl gets nothing", direct.exit_code == 28, direct.error)


def _start(land: Land) -> _Running:
    stage, node = land.stage, land.client.node
    flows = gaps.flows_from(node, stage.to, GAPS_PORT, FLOW_S)
    download = start_download(node, land.server.node, stage.to, RATE_BYTES_S)
    echo = traffic.start_echo(
        node,
        stage.to,
        count=ECHO_COUNT,
        interval_s=ECHO_EVERY_S,
        from_port=ECHO_FROM,
        limit_s=ECHO_LIMIT_S,
    )
    up = within(5.0, lambda: len(connected(stage.client, stage.server)) >= FLOWS)
    land.trial.check("TCP and UDP flows are up", up, len(connected(stage.client, stage.server)))
    return _Running(download, echo, flows)


def _move_hard(land: Land) -> float:
    trial, stage = land.trial, land.stage
    before = land.echo_flow()
    passed = arrived(land.core, stage.watch, [before])
    trial.check("a probe of a signaled 5-tuple passes the old gate (control)", passed, str(before))
    old = str(land.at)
    _check_holds(land, "hard move", land.gates["north"], old)
    began = land.server.hard(land.boxes["south"])
    check_moved(land, "hard move", 1, FLOWS)
    _check_gate(land, "hard move")
    check_informed(land, "hard move")
    check_new_connection(land, "hard move")
    _check_forgotten(land, "hard move", land.gates["north"], old)
    return began


def _move_softly(land: Land, running: _Running) -> None:
    trial, old = land.trial, str(land.at)
    _check_holds(land, "soft move", land.gates["south"], old)
    began = land.server.soft(land.boxes["north"], 3)
    check_moved(land, "soft move", 2, FLOWS)
    land.server.leave(land.boxes["south"])
    going = not running.download.process.ended
    trial.check("the download lasted longer than both moves (control)", going)
    check_informed(land, "soft move")
    _check_gate(land, "soft move")
    check_new_connection(land, "soft move")
    _check_forgotten(land, "soft move", land.gates["south"], old)
    _check_results(land, running)
    soft = longest_gaps(land, running.flows, began)
    for name in ("tcp up", "tcp down", "udp up", "udp down"):
        over = soft.get(name, 0.0)
        said = over or f"under {gaps.THRESHOLD_MS[name[:3]]:g}"
        trial.check(f"soft move: gap of {name}", over < SOFT_GAP_MS_MAX, said, "ms")


def _check_gate(land: Land, what: str) -> None:
    """The gate where the server is now lets in exactly the signaled 5-tuple."""
    exact = land.echo_flow()
    passed = arrived(land.core, land.stage.watch, [exact, *relations(exact)])
    name = f"{what}: the new gate lets in the signaled 5-tuple (control)"
    land.trial.check(name, exact in passed, str(exact))
    strays = passed - {exact}
    said = ", ".join(map(str, strays)) or len(relations(exact))
    land.trial.check(f"{what}: and drops its near relations", not strays, said)


def _check_holds(land: Land, what: str, gate: Daemon, at: str) -> None:
    count = _rules_for(gate, at)
    land.trial.check(f"{what}: the old gate has rules (control)", count >= FLOWS, count)


def _check_forgotten(land: Land, what: str, gate: Daemon, old: str) -> None:
    """Nothing of a gate's rules is left for where the server was."""
    gone = within(3 * GATE_LIFETIME_S, lambda: not _rules_for(gate, old))
    land.trial.check(f"{what}: the old gate's rules go", gone, _rules_for(gate, old), "left")


def _rules_for(gate: Daemon, at: str) -> int:
    return sum(goes_to(one) == at for one in gate.held())


def _check_results(land: Land, running: _Running) -> None:
    """All that was there before the first move was there after the last."""
    trial = land.trial
    wrong = running.download.damage(20.0)
    trial.check("curl has the file, whole", not wrong, wrong or LARGE_BYTES / 1e6, "MB")
    echoed = traffic.echo_result(running.echo)
    fine = not echoed.errors and len(echoed.rtts_ms) == ECHO_COUNT
    said = "; ".join(echoed.errors) or echoed.answered
    trial.check("the UDP echo went on", fine, said, f"of {ECHO_COUNT} answered")
    for process in running.flows:
        process.wait(FLOW_S + 10)
    told = [line for p in (land.served, *running.flows) for line in gaps.told(p)]
    ends = {line["flow"]: line for line in told if "ended" in line}
    for name, unit, least in (
        ("tcp up", "bytes", 1),
        ("tcp down", "bytes", 1),
        ("udp down", "datagrams", UDP_COUNT_MIN),
    ):
        end = ends.get(name, {"ended": "never", "amount": 0})
        fine = end["ended"] == "end" and end["amount"] > least
        trial.check(f"{name} went on to its end", fine, end["amount"], unit)
