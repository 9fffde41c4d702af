"""MPTCP's promises: subflows go only where they were signaled, and by every path that allows them.

In peace (`branch_out`) each connection has to have a subflow by each of its host's links, or its
agent to know who has refused that, and why. Then links die, one at a time: as long as one path of
a connection works, it goes on. At last those gates that refused allow, and all paths are used.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from wayside.core.address import IP, Flow, Transport
from wayside.core.effects import Effect, ReportClosed, ReportOpened
from wayside.core.rule import Cid
from wayside.kernel.subflows import AGAIN_MAX_S, UP_S, Branch, Multipath, Standing

from .application import Client
from .clock import Clock
from .gate import GateBox
from .mishaps import Mishaps
from .multipath import MultipathClient
from .said import Said
from .survival import go_on
from .topology import ALLOWING, NO_SECOND_PATH, Layout
from .watch import Site, Violation, Watcher
from .wire import five_tuple

ROUNDS = 2

SPREAD_S_MAX = AGAIN_MAX_S + UP_S + 20.0
"""Until all paths are used: who was refused waits for a minute at most, a subflow that nobody
answers is given up, and a socket that breaks is opened again."""

DEAD_S = 25.0
"""Longer than a subflow's patience, 19 s: it is closed, and has to be made again."""

STEP_S = 0.5


class SubflowCheck(Watcher):
    """A further subflow's packets leave a host only while its own signaled agreement is up.

    One that is about MPTCP, as policies and people are to see, and that this end has not closed: it
    says so when its kernel has taken the rules out. The other end may have it opened once more.
    """

    name = "subflows"

    def __init__(self, said: Said) -> None:
        self._said = said
        self._closed: dict[tuple[str, Cid], None] = {}

    def on_report(self, site: Site, effect: Effect, now: float) -> None:
        """An end is done with a connection, or has it again."""
        if isinstance(effect, ReportClosed):
            self._closed[site.name, effect.cid] = None
        elif isinstance(effect, ReportOpened):
            self._closed.pop((site.name, effect.cid), None)

    def on_subflow(self, site: Site, flow: Flow, now: float) -> None:
        """One leaves."""
        cids = self._said.consent(site.name, five_tuple(flow))
        live = [cid for cid in cids if (site.name, cid) not in self._closed]
        if not live:
            self.fail(f"{site.name} sends {flow} for a subflow whose agreement is over")
        asked = [self._said.asked[cid].terms.transport for cid in live if cid in self._said.asked]
        if asked and Transport.MPTCP not in asked:
            self.fail(f"{site.name} sends {flow} for a subflow that nobody asked for as such")


def branch_out(
    layout: Layout, mishaps: Mishaps, let_pass: Callable[[float], None], clock: Clock
) -> None:
    """Use all paths; cut some, one at a time; let those that refuse allow. Raises Violation."""
    chance = mishaps.place.chance.stream("paths of MPTCP in peace")
    for client in layout.wanted:  # of what it had before, a restarted agent does not know
        if isinstance(client, MultipathClient) and _multipath(client) is None:
            client.start_again()
    _spread(layout, let_pass, clock)
    for _ in range(ROUNDS):
        let_pass(clock.now + chance.uniform(0.0, 3.0))
        _cut(layout, mishaps, chance, let_pass, clock)
        _spread(layout, let_pass, clock)
    refusing = [gate for gate in layout.second.values() if _refuses(gate)]
    for gate in refusing:
        gate.take_policy(ALLOWING)
    if refusing:
        _spread(layout, let_pass, clock)


def _spread(layout: Layout, let_pass: Callable[[float], None], clock: Clock) -> None:
    """Each application has to be seen with all its paths in use, or refused."""
    began, waiting = clock.now, layout.wanted
    while waiting := [client for client in waiting if not _is_spread(client, layout)]:
        if clock.now > began + SPREAD_S_MAX:
            raise Violation("subflows", _missing(waiting[0]))
        let_pass(clock.now + STEP_S)


def _is_spread(client: Client, layout: Layout) -> bool:
    if not isinstance(client, MultipathClient) or not client.is_open:
        return False
    known = _multipath(client)
    if known is None:
        return False
    used = {wire.source.ip for wire in _wires(client)}
    for branch in known.branches.values():
        if branch.standing is Standing.REFUSED and _is_refused(client, branch, layout):
            used.add(branch.path.own)
    return all(one.address in used for one in client.box.interfaces)


def _missing(client: Client) -> str:
    """What a client does not use."""
    known = _multipath(client) if isinstance(client, MultipathClient) else None
    found = [f"{client.wanted} does not use all its paths"]
    for one in known.branches.values() if known else ():
        reason = f", {one.by or 'nobody'} says {one.why!r}" if one.why else ""
        found.append(f"{one.path.own} to {one.path.theirs} is {one.standing.value}{reason}")
    return "; ".join(found)


def _is_refused(client: MultipathClient, branch: Branch, layout: Layout) -> bool:
    """Whether a gate on its path refuses it, and its host knows which and why.

    What somebody else has refused, while something was wrong, is asked for again.
    """
    refusing = [gate for gate in _gates(client, branch, layout) if _refuses(gate)]
    known = branch.why == NO_SECOND_PATH.reason and branch.rule == NO_SECOND_PATH.name
    return bool(refusing) and known and branch.by.startswith(refusing[0].name)


def _gates(client: MultipathClient, branch: Branch, layout: Layout) -> list[GateBox]:
    """Those on its path that are before a second link, in the order in which they are asked."""
    ends = [(client.box, branch.path.own)]
    ends += [(server, branch.path.theirs) for server in layout.servers]
    there = [host.name for host, ip in ends if host.interfaces[1].has(ip.packed)]
    return [layout.second[name] for name in there]


def _refuses(gate: GateBox) -> bool:
    return NO_SECOND_PATH in gate.settings.policy.rules


def _multipath(client: MultipathClient) -> Multipath | None:
    """What the agent knows of a client's connection; None: nothing, since it was restarted."""
    keeper, socket = client.box.subflows.multipaths, client.socket
    if keeper is None or socket is None:
        return None
    return next((one for one in keeper.known if one.token == socket.token), None)


def _wires(client: MultipathClient) -> list[Flow]:
    """Of the subflows that a client's connection has, as they leave its host."""
    host, socket = client.host, client.socket
    if host is None or socket is None:
        return []
    found = [host.by_local(one.flow) for one in socket.subflows if one.is_up and not one.stale]
    return [one.agreement.wire for one in found if one is not None]


def _cut(
    layout: Layout,
    mishaps: Mishaps,
    chance: Random,
    let_pass: Callable[[float], None],
    clock: Clock,
) -> None:
    """Cut a link without a sign: who has another path goes on."""
    ways = [way for host in (*layout.clients, *layout.servers) for way in host.interfaces]
    link = chance.choice(ways).link
    dead = [way.address for way in ways if way.link is link]
    open_now = [
        client
        for client in layout.wanted
        if isinstance(client, MultipathClient) and client.is_open and _has_another(client, dead)
    ]
    link.conditions.cut = True
    held = [(client, client.socket) for client in open_now]
    go_on(open_now, "though a path of it works", let_pass, clock)
    until = clock.now + chance.choice((0.0, DEAD_S))
    while clock.now < until:
        let_pass(clock.now + STEP_S)
        for client, socket in held:
            if socket is not None and client.lost is socket:
                why = "its socket broke, though a path of it works"
                raise Violation("survival", f"{client.wanted}: {why}")
    mishaps.mend_link(link)


def _has_another(client: MultipathClient, dead: list[IP]) -> bool:
    ends = [(wire.source.ip, wire.destination.ip) for wire in _wires(client)]
    return any(here not in dead and there not in dead for here, there in ends)
