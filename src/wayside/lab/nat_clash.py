"""A port that a NAT has lent twice, or that is not its own to lend: a clear no, and another port.

    client ──┐
    second ──┼── nat ── server
    guest ───┘

A NAT keeps nothing of an OPEN. So client and second, who ask at the same moment from the same port,
are given the same one. (The server's agent is stopped until both have asked.) Towards one service
the server sees that the addresses are in use; towards two services the NAT does, when the second
ACCEPT comes back. The guest's packets leave by another table's masquerade, with a port that is
the NAT's to lend, too: the kernel's connection tracking has it when the client's rules are made.
Each time who comes second hears REJECT 6, and its agent asks again, as a new connection: the
application is told of none of this, and has its answers. The server had agreed to the very 5-tuple
of the guest's packets: until its pending rule is over, 5 s later, it takes those for the client's.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from wayside.core.messages import Code
from wayside.lab import nat, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.probe import Watch
from wayside.lab.scenario import Trial
from wayside.lab.stage import ALLOW_LAB, SERVICES, Stage, serve_all
from wayside.lab.world import Node
from wayside.runtime.codes import reject_code
from wayside.runtime.names import service_of

SAME_FROM, BOTH_FROM, FOREIGN_FROM = 41_001, 41_002, 41_003
OTHER_PORT = traffic.ECHO_PORT + 1
COUNT, EVERY_S = 100, 0.02
GUEST_LOSES_MAX = 4
"""It waits 2 s for each answer, and three such waits are more than 5 s."""

MASQUERADE = """
table inet lab_masquerade {
    counter mapped {}
    chain leaving {
        type nat hook postrouting priority srcnat; policy accept;
        iifname "to-guest" oifname "to-server" meta l4proto udp counter name mapped masquerade
    }
}
"""
"""It keeps a port that connection tracking has not lent. Only a new mapping's packet gets here."""

IN_USE, MEANWHILE, SOMEBODY_ELSE = "in use", "at the same moment", "somebody else"
"""What the server says, the NAT, and the NAT for its kernel."""


@dataclass(frozen=True, slots=True)
class _World:
    """The stage, and who else is behind its NAT."""

    stage: Stage
    gate: Daemon
    second: Daemon
    guest: Node


def play(trial: Trial) -> None:
    """Two hosts at once to one service, to two; then beside another table's mapping."""
    world = _set_up(trial)
    port = traffic.ECHO_PORT
    _check_at_once(world, "one service", SAME_FROM, port, IN_USE)
    _check_at_once(world, "two services", BOTH_FROM, OTHER_PORT, MEANWHILE)
    _check_foreign(world)


def _set_up(trial: Trial) -> _World:
    world, daemons = trial.world, trial.daemons
    nodes = world.chain("client", "nat", "server", nats={"nat": "client"})
    client, box, server = nodes
    second, _ = world.beside("second", box)
    guest, _ = world.beside("guest", box)
    box.run("nft", "-f", "-", stdin=MASQUERADE)
    serve_all(server)
    traffic.serve_echo(server, OTHER_PORT)
    host = daemons.host(client)
    other = daemons.host(second)
    peer = daemons.host(server, {**SERVICES, service_of(OTHER_PORT): OTHER_PORT})
    gate = daemons.gate(
        box,
        inside=[client, second],
        outside=server,
        policy=ALLOW_LAB.replace("DIRECTION", "out"),
        nat=True,
    )
    daemons.start()
    to = host.address(peer.name, trial.family)
    return _World(Stage(trial, host, peer, nodes, to, Watch(server)), gate, other, guest)


def _check_at_once(world: _World, what: str, from_port: int, other_port: int, why: str) -> None:
    """Both ask from one port before either is answered; then the server's agent goes on."""
    stage, trial = world.stage, world.stage.trial
    there = world.second.address(stage.server.name, trial.family)
    before = _asked(world.gate)
    ask = partial(traffic.start_echo, count=COUNT, interval_s=EVERY_S, from_port=from_port)
    with _stopped(stage.server):
        first = ask(stage.client.node, stage.to)
        asked = within(SEEN_LIMIT_S, lambda: len(_asked(world.gate) - before) == 1)
        second = ask(world.second.node, there, port=other_port)
        asked = asked and within(SEEN_LIMIT_S, lambda: len(_asked(world.gate) - before) == 2)
    trial.check(f"{what}: both have asked before anybody answered (control)", asked)
    _check_again(trial, what, [stage.client, world.second], why)
    crossings = within(SEEN_LIMIT_S, lambda: _sources(world, from_port))
    apart = len(crossings) == len(set(crossings)) == 2
    said = ", ".join(crossings)
    trial.check(f"{what}: the NAT has lent two ports, its own and another", apart, said)
    answered = [traffic.echo_result(one).answered for one in (first, second)]
    said = ", ".join(map(str, answered))
    trial.check(f"{what}: every datagram of both is answered", answered == [COUNT] * 2, said)


def _check_foreign(world: _World) -> None:
    """Another table's mapping has the port; the client's flow gets another, and both go on."""
    stage, trial = world.stage, world.stage.trial
    at = stage.server.node.address(trial.family)
    ask = partial(traffic.start_echo, interval_s=EVERY_S, from_port=FOREIGN_FROM)
    guest = ask(world.guest, at, count=2 * COUNT)
    tracked = within(SEEN_LIMIT_S, lambda: _maps(world.gate.node))
    trial.check("another table has mapped the guest's port (control)", tracked)
    asking = ask(stage.client.node, stage.to, count=COUNT)
    _check_again(trial, "a port that is another table's", [stage.client], SOMEBODY_ELSE)
    crossing = within(SEEN_LIMIT_S, lambda: nat.names_of(stage, traffic.ECHO_PORT, FOREIGN_FROM))
    port = crossing.far.source.port if crossing else 0
    trial.check("the client's flow has got another port", port not in (0, FOREIGN_FROM), port)
    answered = [traffic.echo_result(one).answered for one in (guest, asking)]
    name = "every datagram of the client's is answered"
    trial.check(name, answered[1] == COUNT, answered[1], f"of {COUNT}")
    fine = answered[0] >= 2 * COUNT - GUEST_LOSES_MAX
    trial.check("and the guest's go on after a pending rule's 5 s", fine, answered[0])


def _check_again(trial: Trial, what: str, hosts: list[Daemon], why: str) -> None:
    """One host was refused, with code 6 and this reason; and has it all the same."""
    code = reject_code(Code.BUSY)

    def refused() -> list[dict[str, object]]:
        told = [one for host in hosts for one in host.why()]
        return [one for one in told if one["code"] == code and why in str(one["reason"])]

    found = within(SEEN_LIMIT_S, refused)
    said = f"{found[0]['by']}: {found[0]['reason']} ({found[0]['code']})" if found else "nobody"
    trial.check(f"{what}: one is refused, and told why", found, said)


@contextmanager
def _stopped(daemon: Daemon) -> Generator[None]:
    """While this lasts a daemon does nothing; what comes meanwhile waits in its socket."""
    assert daemon.process is not None
    daemon.process.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.process.popen.send_signal(signal.SIGCONT)


def _asked(gate: Daemon) -> set[str]:
    """The connections whose OPEN has passed a gate, by cid."""
    sent = [one for one in gate.events() if one.event == "datagram.sent" and one.type == "OPEN"]
    return {one.cid for one in sent}


def _sources(world: _World, from_port: int) -> list[str]:
    """What the NAT has lent to flows from this port, once it is two."""
    held = [one for one in world.gate.held() if _port(one["flow"].partition(" > ")[0]) == from_port]
    lent = [str(one["wire"]).partition(" > ")[0] for one in held if one["state"] == "live"]
    return lent if len(lent) >= 2 else []


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _maps(node: Node) -> bool:
    """Whether another table has made a mapping."""
    return node.counted("lab_masquerade", "mapped") > 0
