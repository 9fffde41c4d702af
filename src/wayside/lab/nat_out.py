"""A NAT that reserves a mapping and says so: both ends know both 5-tuples.

    client ──┐
    second ──┼── nat ── router ──1300── far ── server
    guest ───┘

Nobody beyond the NAT has a route to client and second, whom it serves; the guest's packets are
masqueraded by another table of the same box, which knows of no signaling. The link to the far
router is narrow. Ports run out, and the box loses all that it knew: each has a clear end.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from wayside.core.address import Address, Flow, Transport
from wayside.lab import nat, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, launch, within
from wayside.lab.probe import Watch, seen_after
from wayside.lab.scenario import Trial
from wayside.lab.stage import ALLOW_LAB, SERVICES, Stage, serve_all
from wayside.lab.world import Node, Process
from wayside.runtime.names import service_of

LIFETIME_S = 3.0
"""Of everything: a third of it is how soon hosts put a mapping right, all of it is silence."""

ECHO_FROM, DRAWN_FROM, FOREIGN_FROM = 40_001, 40_010, 50_500
GAPS_PORT, GAPS_S = 7100, 30.0
"""Flows that last longer than a box needs to be back, however busy the machine is."""

NARROW_MTU = 1300
PORTS, FEW_PORTS = "1024-49999", "45000-45001"
"""What the NAT lends; the masquerade beside it has the ports above."""

NO_PORT = "no port is free"
"""What the NAT says when there is none."""

MASQUERADE = """
table inet lab_masquerade {
    chain leaving {
        type nat hook postrouting priority srcnat; policy accept;
        iifname "to-guest" oifname "to-router" meta l4proto { tcp, udp } masquerade to :50000-50999
    }
}
"""

OWN_DOOR = """
table inet lab_own_door {
    chain to_itself {
        type filter hook input priority 0; policy accept;
        iifname "to-router" meta l4proto { tcp, udp } th dport != 4747 drop
    }
}
"""
"""As any box's firewall: else its own kernel would reset what it has forgotten to pass on."""

STRICT = """
table inet lab_strict {
    chain arriving {
        type filter hook prerouting priority -490; policy accept;
        iifname "to-nat" meta l4proto { tcp, udp } fib saddr . iif oif missing drop
    }
}
"""
"""RFC 2827: nobody beyond takes a source that is not there, such as one that no NAT renames."""

TOO_LARGE = """
table inet lab_errors {
    counter too_large {}
    chain arriving {
        type filter hook prerouting priority -490; policy accept;
        iifname "to-nat" icmp type destination-unreachable icmp code 4 counter name too_large
        iifname "to-nat" icmpv6 type packet-too-big counter name too_large
    }
}
"""


@dataclass(frozen=True, slots=True)
class _Nat:
    """The stage, its NAT, and who else is behind that."""

    stage: Stage
    gate: Daemon
    second: Daemon
    guest: Node

    @property
    def family(self) -> int:
        return self.stage.trial.family


def play(trial: Trial) -> None:
    """Shut, open for what was signaled, shut; then what goes wrong with NATs."""
    world = _set_up(trial)
    stage, gate = world.stage, world.gate
    hearing = nat.Hearing(stage.server.node)
    flows = [stage.wire(Transport.UDP, ECHO_FROM, traffic.ECHO_PORT)]
    flows.append(stage.wire(Transport.TCP, ECHO_FROM, traffic.HTTP_PORT))
    nat.check_shut(stage, Watch(gate.node), flows)
    nat.check_flow(stage, ECHO_FROM, nat.all_relations)
    _check_same_port_twice(world)
    nat.check_gone_after_close(stage, gate, LIFETIME_S / 2)
    _check_large_packets(world)
    nat.check_bulk(stage)
    said = traffic.ssh_says(stage.client.node, stage.server.node, stage.to)
    trial.check("ssh runs a command", said == "hello", said)
    _check_masquerade_beside(world)
    here = {gate.node.address(trial.family, "router")}
    heard = hearing.sources(trial.family)
    trial.check(
        "the server has heard of nobody but the NAT", heard == here, ", ".join(map(str, heard))
    )
    _check_heals(world)
    _check_ports_run_out(world)
    _check_gone_after_silence(world)


def _set_up(trial: Trial) -> _Nat:
    world, daemons = trial.world, trial.daemons
    nodes = world.chain("client", "nat", "router", "far", "server", nats={"nat": "client"})
    client, box, router, far, server = nodes
    second, _ = world.beside("second", box)
    guest, _ = world.beside("guest", box)
    for node, other in ((router, far), (far, router)):
        node.run("ip", "link", "set", f"to-{other.name}", "mtu", str(NARROW_MTU))
    box.run("nft", "-f", "-", stdin=MASQUERADE + OWN_DOOR)
    router.run("nft", "-f", "-", stdin=STRICT)
    serve_all(server)
    host = daemons.host(client)
    other = daemons.host(second)
    peer = daemons.host(server, {**SERVICES, service_of(GAPS_PORT): GAPS_PORT})
    gate = daemons.gate(
        box,
        inside=[client, second],
        outside=router,
        policy=ALLOW_LAB.replace("DIRECTION", "out"),
        lifetime_s=LIFETIME_S,
        nat=True,
        ports=PORTS,
    )
    daemons.start()
    to = host.address(peer.name, trial.family)
    return _Nat(Stage(trial, host, peer, nodes, to, Watch(server)), gate, other, guest)


def _check_same_port_twice(world: _Nat) -> None:
    """Two hosts inside with the same source port towards the same service."""
    stage = world.stage
    there = world.second.address(stage.server.name, world.family)
    first = traffic.start_echo(
        stage.client.node, stage.to, count=50, interval_s=0.02, from_port=ECHO_FROM + 1
    )
    within(SEEN_LIMIT_S, lambda: nat.names_of(stage, traffic.ECHO_PORT, ECHO_FROM + 1))
    second = traffic.start_echo(world.second.node, there, count=20, from_port=ECHO_FROM + 1)
    answered = [traffic.echo_result(one).answered for one in (first, second)]
    name = "two hosts inside with the same port to the same service"
    stage.trial.check(name, answered == [50, 20], ", ".join(map(str, answered)))
    wires = [one["wire"] for one in stage.server.held() if one["transport"] == "udp"]
    peers = {one["peer"] for one in stage.server.held() if one["transport"] == "udp"}
    apart = len(peers) == 2 and len(wires) == len(set(wires))
    stage.trial.check("the server tells them apart", apart, "; ".join(wires))


def _check_large_packets(world: _Nat) -> None:
    """Path MTU discovery: the error about a renamed packet names what the sender knows.

    A host that fetched nothing yet: to others the server has offered small segments by now.
    """
    trial, node = world.stage.trial, world.second.node
    node.run("nft", "-f", "-", stdin=TOO_LARGE)
    there = world.second.address(world.stage.server.name, world.family)
    wrong = traffic.sftp_puts(node, world.stage.server.node, there)
    said = wrong or traffic.FILE_BYTES / 1e6
    trial.check("through a narrow link beyond the NAT sftp carries a file", not wrong, said, "MB")
    came = node.counted("lab_errors", "too_large")
    trial.check("because 'too large' reaches the host inside", came, came, "errors")


def _check_masquerade_beside(world: _Nat) -> None:
    """The box masquerades its guest's packets as it always has, at the same time."""
    stage, family = world.stage, world.family
    guest = traffic.curl(world.guest, stage.server.node.address(family))
    ours = traffic.curl(stage.client.node, stage.to)
    both = guest.bytes == ours.bytes == traffic.FILE_BYTES
    said = guest.error or ours.error or ours.seconds
    stage.trial.check("another table masquerades a guest beside it", both, said, "s")
    asking = traffic.start_echo(stage.client.node, stage.to, from_port=FOREIGN_FROM)
    answered = traffic.echo_result(asking).answered
    crossing = nat.names_of(stage, traffic.ECHO_PORT, FOREIGN_FROM)
    port = crossing.far.source.port if crossing else 0
    name = "a port that is the other table's is not lent"
    stage.trial.check(name, answered and 0 < port < 50_000, port)


def _check_heals(world: _Nat) -> None:
    """The box forgets everything: hosts make their mappings anew, by themselves."""
    stage, gate = world.stage, world.gate
    server = stage.server.node
    serving = server.spawn_python("wayside.lab.gaps", "serve", str(GAPS_PORT), ready="ready")
    words = ("ask", str(stage.to), str(GAPS_PORT))
    client = stage.client.node
    up = client.spawn_python("wayside.lab.gaps", *words, "udp", "up", f"{GAPS_S:g}")
    down = client.spawn_python("wayside.lab.gaps", *words, "tcp", "down", f"{GAPS_S:g}")
    within(SEEN_LIMIT_S, lambda: len(_mappings(gate)) == 2)
    before = _mappings(gate)
    gate.kill()
    within(SEEN_LIMIT_S, lambda: _forgets(gate.node))
    gone = time.monotonic()
    launch([gate])
    ready = time.monotonic()
    trial = stage.trial
    trial.check("the NAT is back with an empty table", len(before) == 2, ready - gone, "s")
    third_s = LIFETIME_S / 3
    for name, heard, limit_s in (
        ("UDP goes on within a third of the lifetime", serving, third_s),
        ("TCP when its timer says, which had doubled meanwhile", down, ready - gone + 2 * third_s),
    ):
        resumed = within(limit_s + SEEN_LIMIT_S, lambda heard=heard: _resumed(heard, gone))
        after = resumed - ready
        trial.check(name, resumed > 0 and after < limit_s, after, "s after")
    for flow in (up, down):
        flow.popen.kill()


def _mappings(gate: Daemon) -> set[str]:
    return {one["wire"] for one in gate.held() if one["flow"].rpartition(":")[2] == str(GAPS_PORT)}


def _forgets(node: Node) -> bool:
    return not node.run("nft", "delete", "table", "inet", "wayside", check=False).returncode


def _resumed(heard: Process, gone: float) -> float:
    """When the gap was over in which a moment lies, monotonic seconds; 0: not yet."""
    told = [json.loads(line) for line in heard.text().splitlines() if "gap_ms" in line]
    ends = [(gap["at"], gap["at"] + gap["gap_ms"] / 1000) for gap in told]
    return next((end for began, end in ends if began <= gone < end), 0.0)


def _check_ports_run_out(world: _Nat) -> None:
    """With two ports to lend, the third connection to a host is refused, and says why.

    What was asked for before is over by then: a mapping that is put right takes a port, too.
    """
    stage, gate = world.stage, world.gate
    trial, node = stage.trial, stage.client.node
    within(3 * LIFETIME_S, lambda: not (stage.client.held() or world.second.held() or gate.held()))
    path = gate.node.state / "gate.toml"
    path.write_text(path.read_text().replace(PORTS, FEW_PORTS))
    gate.kill()
    launch([gate])
    answered = [
        traffic.echo_result(
            traffic.start_echo(node, stage.to, from_port=DRAWN_FROM + number, limit_s=1.0)
        ).answered
        for number in range(3)
    ]
    trial.check("of three flows two get a port of two", answered == [1, 1, 0], str(answered))
    why = (stage.client.why() or [{}])[0]
    said = f"{why.get('by')}: {why.get('reason')} ({why.get('code')})"
    told = NO_PORT in said and gate.name in said
    trial.check("`wayside why` has it from the NAT", told, said)
    other = traffic.curl(node, stage.to)
    whole = other.bytes == traffic.FILE_BYTES
    trial.check(
        "another transport has its own ports (control)", whole, other.error or other.seconds
    )


def _check_gone_after_silence(world: _Nat) -> None:
    """When both ends vanish without a word, the mappings go when their lifetime is over."""
    stage, gate = world.stage, world.gate
    trial, node = stage.trial, stage.client.node
    traffic.echo_result(traffic.start_echo(node, stage.to, from_port=DRAWN_FROM))
    held = gate.held()
    near = Flow(
        Transport.UDP,
        Address(node.address(world.family), DRAWN_FROM),
        Address(stage.server.node.address(world.family), traffic.ECHO_PORT),
    )
    passed = seen_after(node, stage.watch, [near])
    trial.check("before silence a probe passes (control)", passed, len(held), "held")
    for host in trial.daemons.hosts:
        host.kill()
    silent_since = time.monotonic()
    gone = within(2 * LIFETIME_S, lambda: not gate.held())
    took_s = time.monotonic() - silent_since
    trial.check("after silence the NAT holds nothing", gone, took_s, "s")
    passed = seen_after(node, stage.watch, [near])
    trial.check("after silence the probe is dropped", not passed, str(near))
