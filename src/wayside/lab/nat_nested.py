"""Two NATs of different owners in a row, in both directions: out through both, and in by name.

    home ── inner ── outer ── router ── away
                                │
                              meet: the rendezvous, where home registers and away asks for it

The outer NAT is a provider's: its policy is its own, knows no names, and lends one address to the
inner one, which is the household's. Beyond each NAT nobody has a route to what is behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wayside.core.address import Transport
from wayside.core.identity import key_text
from wayside.lab import nat, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.probe import Watch
from wayside.lab.scenario import Trial
from wayside.lab.stage import SERVICES, Stage, kept, serve_all

ECHO_FROM = 40_001

HOUSEHOLD = """
default = "reject"

[[rule]]
name = "lab-may"
from = ["*.lab"]
action = "allow"

[[rule]]
name = "location"
service = ["location", "name"]
direction = "out"
action = "allow"
"""

PROVIDER = """
default = "reject"

[[rule]]
name = "customers-may-leave"
direction = "out"
action = "allow"

[[rule]]
name = "guests-of-customers"
direction = "in"
transport = ["tcp", "udp"]
action = "allow"
"""


@dataclass(frozen=True, slots=True)
class _Nested:
    """The same world as seen from both ends."""

    out: Stage
    into: Stage
    inner: Daemon
    outer: Daemon


def play(trial: Trial) -> None:
    """Out through both, then in through both."""
    world = _set_up(trial)
    family = trial.family
    outermost = world.outer.node.address(family, "router")
    hearing = nat.Hearing(world.out.server.node)
    flows = [world.out.wire(Transport.UDP, ECHO_FROM, traffic.ECHO_PORT)]
    nat.check_shut(world.out, Watch(world.inner.node), flows)
    _check_direction(world.out, [world.inner, world.outer])
    _check_direction(world.into, [world.outer, world.inner])
    heard = hearing.sources(family)
    here = {outermost, world.outer.node.address(family, "router")}
    here.add(trial.daemons.rendezvous[0].node.address(family))
    said = ", ".join(map(str, heard))
    trial.check("away has heard of no address behind a NAT", heard == here, said)


def _set_up(trial: Trial) -> _Nested:
    world, daemons = trial.world, trial.daemons
    families = [trial.family]
    nats = {"inner": "home", "outer": "inner"}
    nodes = world.chain("home", "inner", "outer", "router", "away", nats=nats)
    home, inner, outer, router, away = nodes
    meet, net = world.beside("meet", router)
    for node, neighbour in ((away, router), (outer, router), (inner, outer), (home, inner)):
        world.route(node, net, neighbour)
    there = daemons.rendezvous_at(meet)
    host = daemons.host(home, SERVICES, rendezvous=there, families=families)
    peer = daemons.host(away, SERVICES, rendezvous=there, registers=False)
    daemons.introduce(host, peer)
    for node in (home, away):
        serve_all(node)
    household = daemons.gate(inner, inside=home, outside=outer, policy=HOUSEHOLD, nat=True)
    provider = daemons.gate(outer, inside=inner, outside=router, policy=PROVIDER, nat=True)
    daemons.start(introduce=False)
    known = within(SEEN_LIMIT_S, lambda: kept(there))
    trial.check("the host behind both registers through them", known, len(known))
    out_to = host.address(peer.name, trial.family)
    in_to = peer.address(host.name, trial.family)
    out = Stage(trial, host, peer, nodes, out_to, Watch(away))
    return _Nested(out, Stage(trial, peer, host, nodes, in_to, Watch(home)), household, provider)


def _check_direction(stage: Stage, boxes: list[Daemon]) -> None:
    """From one end to the other: the names of a flow, the boxes on its way, files, and iperf3."""
    trial, node, server = stage.trial, stage.client.node, stage.server.node
    trial.check(f"--- from {stage.client.name} to {stage.server.name}", True)
    nat.check_flow(stage, ECHO_FROM, nat.all_relations)
    via = [_boxes(end) for end in (stage.client, stage.server)]
    expected = [(key_text(box.public), "nat") for box in boxes]
    said = " ".join(box.name for box in boxes)
    trial.check("both ends know both NATs", via == [expected, expected[::-1]], said)
    for name, carry in (("there", traffic.sftp_puts), ("back", traffic.sftp_gets)):
        wrong = carry(node, server, stage.to)
        said = wrong or traffic.FILE_BYTES / 1e6
        trial.check(f"sftp carries a file {name}, whole", not wrong, said, "MB")
    nat.check_bulk(stage)


def _boxes(end: Daemon) -> list[tuple[str, str]]:
    """Key and role of the boxes on the way of the newest UDP flow, as `status` has them."""
    flows: list[dict[str, Any]] = [one for one in end.held() if one["transport"] == "udp"]
    return [(hop["key"], hop["role"]) for hop in flows[-1]["via"]] if flows else []
