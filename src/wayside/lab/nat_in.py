"""Hosts behind a NAT are asked for by name; the NAT finds them by their keys.

    client ── router ── nat ──┬── server        by a rendezvous, where it registers through the NAT
                │             └── cellar        by the NAT's own file; it registers nowhere
              meet: the rendezvous

Both have the NAT's one address, and the same services at the same ports. Nobody outside has a route
to them, and what is not signaled does not get in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wayside.core.address import Address, Flow, Transport
from wayside.lab import firewall, nat, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.probe import Watch, seen_after
from wayside.lab.scenario import Trial
from wayside.lab.stage import LAB_MAY_ENTER, SERVICES, Stage, kept, serve_all
from wayside.lab.world import Node

ECHO_FROM, OTHER_FROM = 40_001, 40_003


@dataclass(frozen=True, slots=True)
class _Inside:
    """The stage whose server registers, and the host that does not."""

    stage: Stage
    gate: Daemon
    meet: Node
    cellar: Stage


def play(trial: Trial) -> None:
    """Shut, then by way of the rendezvous, then by way of the NAT's own file."""
    world = _set_up(trial)
    stage, family = world.stage, trial.family
    client, box = stage.client.node, world.gate.node
    hearing = nat.Hearing(client)
    outside = box.address(family, "router")
    nat.check_shut(stage, Watch(box), _guesses(stage, Address(outside, traffic.ECHO_PORT)))
    direct = traffic.curl(client, outside, limit_s=1.0)
    trial.check("an unsignaled curl of the NAT gets nothing", direct.exit_code, direct.error)
    _check_a_neighbour_has_no_way_in(world)
    crossing = nat.check_flow(stage, ECHO_FROM, nat.all_relations)
    if crossing is not None:
        _check_named(stage, crossing, outside)
    told = [r for r in stage.client.events() if r.event == "datagram.received"]
    redirects = [r for r in told if r.type == "REDIRECT"]
    trial.check("the rendezvous redirected the client", redirects, len(redirects), "REDIRECT")
    nat.check_gone_after_close(stage, world.gate, SEEN_LIMIT_S)
    firewall.check_services(stage)
    _check_cellar(world, outside)
    heard = hearing.sources(family)
    here = {outside, world.meet.address(family)}
    said = ", ".join(map(str, heard))
    trial.check("the client has heard of no address inside", heard == here, said)


def _set_up(trial: Trial) -> _Inside:
    world, daemons = trial.world, trial.daemons
    nodes = world.chain("client", "router", "nat", "server", nats={"nat": "server"})
    client, router, box, server = nodes
    meet, net = world.beside("meet", router)
    cellar, _ = world.beside("cellar", box)
    for node in (client, box):
        world.route(node, net, router)
    world.route(server, net, box)
    there = daemons.rendezvous_at(meet)
    host = daemons.host(client, rendezvous=there, registers=False)
    peer = daemons.host(server, SERVICES, rendezvous=there, families=[trial.family])
    other = daemons.host(cellar, SERVICES)
    for node in (server, cellar):
        serve_all(node)
    other.behind = (box, router)
    gate = daemons.gate(
        box,
        inside=[server, cellar],
        outside=router,
        policy=LAB_MAY_ENTER,
        nat=True,
        hosts={other.public: cellar.address(trial.family)},
    )
    daemons.introduce(host, other)
    daemons.start(introduce=False)
    known = within(SEEN_LIMIT_S, lambda: kept(there))
    trial.check("the server registers through the NAT", known, len(known))
    to = host.address(peer.name, trial.family)
    stage = Stage(trial, host, peer, nodes, to, Watch(server))
    to = host.address(other.name, trial.family)
    return _Inside(stage, gate, meet, replace(stage, server=other, to=to, watch=Watch(cellar)))


def _guesses(stage: Stage, at: Address) -> list[Flow]:
    """Probes of the NAT's own address: there is no other to send them to."""
    source = Address(stage.client.node.address(stage.trial.family), ECHO_FROM)
    kinds = (Transport.UDP, Transport.TCP)
    return [Flow(kind, source, at) for kind in kinds]


def _check_a_neighbour_has_no_way_in(world: _Inside) -> None:
    """Not even with a route to the inside, which only a neighbour of the NAT can make use of."""
    stage, family = world.stage, world.stage.trial.family
    router, box, server = stage.nodes[1], world.gate.node, stage.server.node
    to, via = server.address(family), box.address(family, router.name)
    router.run("ip", "route", "add", str(to), "via", str(via))
    source = Address(router.address(family, box.name), ECHO_FROM)
    flow = Flow(Transport.UDP, source, Address(to, traffic.ECHO_PORT))
    reached = seen_after(router, Watch(box), [flow])
    passed = seen_after(router, stage.watch, [flow])
    router.run("ip", "route", "del", str(to))
    dropped = reached == {flow} and not passed
    stage.trial.check("a neighbour that makes a route gets no further than the NAT", dropped)


def _check_named(stage: Stage, crossing: nat.Crossing, outside: object) -> None:
    """The client talks to the NAT; the server sees the client itself."""
    own = stage.server.node.address(stage.trial.family)
    renamed = crossing.near.destination.ip == outside and crossing.far.destination.ip == own
    kept = crossing.near.source == crossing.far.source
    said = f"{crossing.near.destination} is {crossing.far.destination}"
    stage.trial.check("the NAT's address stands for the server's", renamed and kept, said)


def _check_cellar(world: _Inside, outside: object) -> None:
    """A host that the NAT knows from its file: same address, same ports, another host."""
    stage = world.cellar
    trial, node = stage.trial, stage.client.node
    running = traffic.start_echo(node, stage.to, count=50, interval_s=0.02, from_port=OTHER_FROM)
    crossing = within(SEEN_LIMIT_S, lambda: nat.names_of(stage, traffic.ECHO_PORT, OTHER_FROM))
    trial.check("a host in the NAT's file is found without a rendezvous", crossing)
    if crossing is not None:
        _check_named(stage, crossing, outside)
        passed = seen_after(node, stage.watch, [crossing.near])
        trial.check("a probe of its flow gets to it", passed == {crossing.far}, str(crossing.far))
        passed = seen_after(node, world.stage.watch, [crossing.near])
        trial.check("and not to the other host", not passed, len(passed), "passed")
    answered = traffic.echo_result(running).answered
    trial.check("its UDP flow passes", answered == 50, answered, "of 50 answered")
    fetched = traffic.curl(node, stage.to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("and TCP", whole, fetched.error or fetched.seconds, "s")
