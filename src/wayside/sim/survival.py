"""Established connections survive moves: in peace, hosts move, and every open socket goes on.

    all is well ── move ── every socket that was open is answered again ── move ── ...

Some move hard (the old address is gone first), some softly, some together, and servers to another
network and back. What an application has open at that moment must go on with the same socket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from wayside.core.address import IP
from wayside.core.connection import State

from .application import Client
from .clock import Clock
from .host import HostBox
from .mishaps import Mishaps, changed
from .topology import Layout
from .watch import Violation

ROUNDS = 2

SURVIVE_S_MAX = 16.0
"""An OPEN's patience three times: the mover's first, to where the peer is no more, and again. A
socket's is 19 s."""

STEP_S = 0.5


def survive(
    layout: Layout, mishaps: Mishaps, let_pass: Callable[[float], None], clock: Clock
) -> None:
    """Move some hosts, some times. Raises Violation."""
    chance = mishaps.place.chance.stream("moves in peace")
    movers = layout.clients if "c" in layout.spec.mobile else []
    movers = [*movers, *(layout.servers if "s" in layout.spec.mobile else [])]
    for _ in range(ROUNDS):
        let_pass(clock.now + chance.uniform(0.0, 3.0))
        chosen = [host for host in movers if host.settings.virtual and chance.random() < 0.8]
        open_now = [client for client in layout.wanted if _is_up(client, layout)]
        for host in chosen:
            _move(host, mishaps, chance, clock)
        go_on(open_now, "by a move", let_pass, clock)


def endure(
    layout: Layout, mishaps: Mishaps, let_pass: Callable[[float], None], clock: Clock
) -> None:
    """Cut links in use, one at a time, without a sign; every open socket goes on. Violation."""
    chance = mishaps.place.chance.stream("links that die in peace")
    for _ in range(ROUNDS):
        let_pass(clock.now + chance.uniform(2.0, 5.0))
        hosts = [one for one in (*layout.clients, *layout.servers) if one.settings.virtual]
        ways = [way for host in hosts for way in host.interfaces if _is_used(host, way.address)]
        if not ways:
            continue
        link = chance.choice(ways).link
        open_now = [client for client in layout.wanted if _is_up(client, layout)]
        link.conditions.cut = True
        go_on(open_now, "because a link has died", let_pass, clock)
        mishaps.mend_link(link)


def _is_up(client: Client, layout: Layout) -> bool:
    """Whether it talks to its server, and its server's machine knows of what its own believes in.

    Where a fault took the CONFIRM, or the server's memory, one end is alone with a connection until
    the next refresh; and a kernel without rules answers plainly.
    """
    if not client.is_open or not client.can_survive:
        return False
    host, flow = client.host, client.flow
    ours = host.by_local(flow) if host is not None and flow is not None else None
    if ours is None or ours.state is not State.CONNECTED:
        return True
    known = [one.host.connections.get(ours.agreement.cid) for one in layout.servers if one.host]
    return any(one is not None and one.state is not State.ENDED for one in known)


def _is_used(host: HostBox, ip: IP) -> bool:
    known = host.host.connections.values() if host.host else ()
    return any(one.agreement.wire.source.ip == ip for one in known)


def go_on(
    open_now: Sequence[Client], why: str, let_pass: Callable[[float], None], clock: Clock
) -> None:
    """Wait until each of these has been answered again, or is done. Raises Violation."""
    began, waiting = clock.now, list(open_now)
    while waiting := [client for client in waiting if not client.went_on(began)]:
        broken = [client for client in waiting if client.progress.failed_at > began]
        if broken:
            raise Violation("survival", f"{broken[0].wanted}: its socket broke {why}")
        if clock.now > began + SURVIVE_S_MAX:
            raise Violation("survival", f"{waiting[0].wanted} stands still {why}")
        let_pass(clock.now + STEP_S)


def _move(host: HostBox, mishaps: Mishaps, chance: Random, clock: Clock) -> None:
    network, interface = mishaps.network, host.interfaces[0]
    if len(host.interfaces) > 1 and chance.random() < 0.5:
        network.switch(interface, not interface.up)
    else:
        network.readdress(interface, keeps=chance.random() < 0.5)
        clock.after(chance.uniform(1.0, 5.0), lambda: _drop_former(host, mishaps))
    changed(host)


def _drop_former(host: HostBox, mishaps: Mishaps) -> None:
    mishaps.network.drop_former(host.interfaces[0])
    changed(host)
