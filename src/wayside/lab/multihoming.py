"""A path dies without a sign, inside the network; TCP and UDP go on by another, on their sockets.

    client ──┬── west ──┐         ┌── north ──┬── server
             └── east ──┴── core ─┴── south ──┘

Each host has two links, both up all the time, behind a default-drop gate each, and no routing rules
of its own: a network lets nobody speak with another's address. First the core drops whatever comes
from west or goes there: the client's path is dead, and nobody is told. Then it is back, and
the one of the server that is used dies. Both ends have TCP and UDP flows in both directions.
Before all that the same happens to hosts that have no connection yet which could tell them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wayside.core.address import Address, Flow, Transport
from wayside.lab import gaps, traffic
from wayside.lab.daemons import within
from wayside.lab.firewall import relations
from wayside.lab.mobile import BUFFER_BYTES, comes_from, connected, goes_to
from wayside.lab.probe import Watch, arrived
from wayside.lab.roaming import crossroads
from wayside.lab.scenario import Trial
from wayside.lab.stage import LAB_MAY_ENTER, SERVICES, Stage, serve_all
from wayside.lab.world import Node, Process, World
from wayside.runtime.names import service_of

PORT = 7070
ECHO_FROM = 40_001
FLOW_S = 14.0
"""How long flows run: for two deaths, and what is looked at after each."""

FLOWS = 5
"""TCP and UDP in both directions, and the echo."""

ECHO_COUNT, ECHO_EVERY_S, ECHO_LIMIT_S = 900, 0.01, 2.0

MOVED_LIMIT_S = 5.0
QUIET_S = 2.0
"""So long nothing moves once all is well."""

SETTLED_S = 1.0
"""Flows have flowed so long before a path dies that both ends know how long answers take."""

GAP_MS_MAX = {"udp": 2000.0, "tcp": 4000.0}
"""By when a dead path is left, however busy this machine is. TCP tries again when its own timer
ends, which doubles each time: no later than after as long again."""

NEAR_S = 0.5
METRICS = {"west": 100, "east": 200, "north": 100, "south": 200}


@dataclass(frozen=True, slots=True)
class Site:
    """Two multihomed hosts and what is between them."""

    stage: Stage
    core: Node
    client: Node
    server: Node
    served: Process

    @property
    def trial(self) -> Trial:
        """Where checks go."""
        return self.stage.trial

    def at(self, host: Node, box: str) -> str:
        """A host's address behind a box."""
        return str(host.address(self.trial.family, box))


def multihomed(world: World, name: str, core: Node, boxes: Sequence[Node]) -> Node:
    """A host with a link to each box, and a default route by each: by metric, and no rules."""
    host = world.node(name)
    for box in boxes:
        net = world.link(host, box)
        world.route(core, net, box)
        four, six = box.addresses[name]
        device, metric = f"to-{box.name}", str(METRICS[box.name.rpartition("-")[2]])
        host.run(*("ip", "route", "add", "default", "via", str(four)), *("metric", metric))
        more = ("via", str(six), "dev", device, "metric", metric)
        host.run("ip", "-6", "route", "add", "default", *more)
    host.run(
        *("sysctl", "-qw", f"net.ipv4.tcp_rmem=4096 65536 {BUFFER_BYTES}"),
        f"net.ipv4.tcp_wmem=4096 65536 {BUFFER_BYTES}",
    )
    return host


def build(trial: Trial) -> Site:
    """Build it, start services and daemons."""
    world, daemons = trial.world, trial.daemons
    core = world.node("core")
    boxes = {name: world.node(name) for name in METRICS}
    crossroads(world, core, list(boxes.values()))
    client = multihomed(world, "client", core, [boxes["west"], boxes["east"]])
    server = multihomed(world, "server", core, [boxes["north"], boxes["south"]])
    serve_all(server)
    served = gaps.serve_on(server, PORT)
    for name, box in boxes.items():
        inside = client if name in client.addresses else server
        daemons.gate(box, inside=inside, outside=core, policy=LAB_MAY_ENTER)
    host = daemons.host(client)
    peer = daemons.host(server, {**SERVICES, service_of(PORT): PORT})
    daemons.start()
    to = host.address(peer.name, trial.family)
    stage = Stage(trial, host, peer, [client, core, server], to, Watch(server))
    return Site(stage, core, client, server, served)


def silence(core: Node, box: str) -> float:
    """Let nothing pass between the core and a box, links stay up. When that began."""
    began = time.monotonic()
    core.run(
        "nft",
        "-f",
        "-",
        stdin="table inet dead { chain forward { type filter hook forward priority -300;"
        f' iifname "to-{box}" drop; oifname "to-{box}" drop; }}; }}',
    )
    return began


def revive(core: Node) -> None:
    """Let everything pass again."""
    core.run("nft", "delete table inet dead")


def play(trial: Trial) -> None:
    """The client's path dies, then the server's."""
    site = build(trial)
    stage, client = site.stage, site.client
    _check_shut(site)
    for box in ("west", "north"):
        silence(site.core, box)
        fetched = traffic.curl(client, stage.to)
        whole = fetched.bytes == traffic.FILE_BYTES
        said = fetched.error or fetched.seconds
        trial.check(f"with {box} dead, a first connection goes the other way", whole, said)
        revive(site.core)
    flows = gaps.flows_from(client, stage.to, PORT, FLOW_S)
    echo = traffic.start_echo(
        client,
        stage.to,
        count=ECHO_COUNT,
        interval_s=ECHO_EVERY_S,
        from_port=ECHO_FROM,
        limit_s=ECHO_LIMIT_S,
    )
    up = within(5.0, lambda: len(_live(site)) >= FLOWS)
    trial.check("TCP and UDP flows are up", up, len(_live(site)))
    _check_named(site)
    time.sleep(SETTLED_S)
    _die(site, flows, "the client's path", client)
    fetched = traffic.curl(client, stage.to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("a new connection takes the living path", whole, fetched.error or fetched.seconds)
    _check_gate(site)
    revive(site.core)
    _check_stays(site, "the dead path is back")
    _die(site, flows, "the server's path", site.server)
    fetched = traffic.curl(client, stage.to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("a new connection finds the server", whole, fetched.error or fetched.seconds)
    _check_gate(site)
    _check_stays(site, "the other is still dead")
    _check_results(site, flows, echo)


def _live(site: Site) -> list[dict[str, Any]]:
    return connected(site.stage.client, site.stage.server)


def _check_shut(site: Site) -> None:
    """Nothing that was not signaled gets in by any of the gates."""
    trial = site.trial
    for box in ("north", "south"):
        there = site.server.address(trial.family, box)
        source = site.client.address(trial.family, "west")
        flow = Flow(Transport.UDP, Address(source, ECHO_FROM), Address(there, traffic.ECHO_PORT))
        passed = arrived(site.core, site.stage.watch, [flow])
        trial.check(f"before signaling, nothing passes {box}", not passed, len(passed))


def _check_named(site: Site) -> None:
    """Each end knows where else the other is."""
    trial, stage = site.trial, site.stage
    for daemon, peer, host, box in (
        (stage.client, stage.server, site.server, "south"),
        (stage.server, stage.client, site.client, "east"),
    ):
        named = [one["alternatives"] for one in connected(daemon, peer)]
        fine = bool(named) and all(one == [site.at(host, box)] for one in named)
        trial.check(f"{daemon.name} knows the alternative of {peer.name}", fine, str(named[:1]))


def _die(site: Site, flows: list[Process], what: str, host: Node) -> None:
    """The path that a host uses dies; every connection takes another, and goes on."""
    trial = site.trial
    end = comes_from if host is site.client else goes_to
    before = {one["cid"]: one for one in _live(site)}
    used = {end(one) for one in before.values()}
    box = next((name for name in host.addresses if site.at(host, name) in used), "")
    trial.check(f"{what}: all take one path (control)", len(used) == 1 and box, ", ".join(used))
    began = silence(site.core, box)

    def moved() -> bool:
        ends = [end(one) for one in _live(site)]
        return len(ends) >= FLOWS and not used & set(ends)

    fine = within(MOVED_LIMIT_S, moved)
    took = time.monotonic() - began
    trial.check(f"{what}: all connections take a living one", fine, took, "s")
    after = {one["cid"]: one for one in _live(site)}
    same = all(cid in after and after[cid]["flow"] == one["flow"] for cid, one in before.items())
    trial.check(f"{what}: no connection and no socket is another", same, len(after))
    time.sleep(SETTLED_S)
    longest = _longest(site, flows, began)
    for name in ("tcp up", "tcp down", "udp up", "udp down"):
        gap = longest.get(name)
        fine = gap is not None and gap < GAP_MS_MAX[name[:3]]
        trial.check(f"{what}: gap of {name}", fine, gap, "ms")


def _longest(site: Site, flows: Sequence[Process], began: float) -> dict[str, float]:
    """By flow, the longest gap (ms) that this death may have caused."""
    longest: dict[str, float] = {}
    for process in (site.served, *flows):
        for line in gaps.told(process):
            if "gap_ms" in line and abs(line["at"] - began) <= NEAR_S:
                longest[line["flow"]] = max(longest.get(line["flow"], 0.0), line["gap_ms"])
    return longest


def _check_gate(site: Site) -> None:
    """The gates of the living path let in exactly the signaled 5-tuple."""
    trial = site.trial
    echo = next(one for one in _live(site) if one["service"] == service_of(traffic.ECHO_PORT))
    here, there = (Address.parse(text) for text in echo["wire"].split(" > "))
    exact = Flow(Transport.UDP, here, there)
    passed = arrived(site.core, site.stage.watch, [exact, *relations(exact)])
    trial.check("the gate lets in the signaled 5-tuple (control)", exact in passed, str(exact))
    trial.check("and drops its near relations", not passed - {exact}, len(passed - {exact}))


def _check_stays(site: Site, when: str) -> None:
    """Nothing moves any more."""
    before = {one["cid"]: one["wire"] for one in _live(site)}
    time.sleep(QUIET_S)
    after = {one["cid"]: one["wire"] for one in _live(site)}
    moved = sum(after.get(cid, wire) != wire for cid, wire in before.items())
    site.trial.check(f"{when}: no connection moves to and fro", not moved, moved)


def _check_results(site: Site, flows: list[Process], echo: Process) -> None:
    """What was there before the first death was there after the last."""
    trial = site.trial
    for process in flows:
        process.wait(FLOW_S + 10)
    told = [line for p in (site.served, *flows) for line in gaps.told(p)]
    ends = {line["flow"]: line for line in told if "ended" in line}
    for name in ("tcp up", "tcp down", "udp down"):
        end = ends.get(name, {"ended": "never", "amount": 0})
        trial.check(f"{name} went on to its end", end["ended"] == "end", end["amount"])
    echoed = traffic.echo_result(echo)
    least = ECHO_COUNT * 8 // 10
    fine = not echoed.errors and echoed.answered >= least
    said = "; ".join(echoed.errors) or echoed.answered
    trial.check("the UDP echo went on", fine, said, f"of {ECHO_COUNT} answered")
