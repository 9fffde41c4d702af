"""A host's MPTCP connections, and what is to be done for them to have the subflows they may. Pure.

In comes what the kernel says of them (mptcp.py), and what became of what was asked for; out comes
what is to be done: something for the host's machine, or a subflow for the kernel. subflows.py has
one connection each. Who was asked for a connection has nothing to do here.

    the kernel: established ─► look: ask ─► opened: make ─► the kernel: subflow up
                                  └─► refused, ended, closed by the kernel ─► later, again

Of a connection that is up, and of which the kernel says nothing, it is asked: it may have fallen
back to TCP, or the news was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from wayside.core.address import IP, Flow, Transport
from wayside.core.effects import ReportRefused
from wayside.core.ends import Initiator
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.host import Host
from wayside.core.rule import Cid

from .mptcp import Happened, MptcpEvent, Subflow
from .mptcp_sockets import ListedMptcp
from .packets import Packet
from .subflows import Branch, Multipath, Standing, Wish, refuse

MULTIPATHS_MAX = 4096
"""Connections that get further subflows; those beyond have their first."""

NEWS_S, NEWS_MAX_S = 2.0, 60.0
"""How long the kernel's news of a connection is waited for before the kernel is asked; from then on
twice as long each time: an application may connect long after its connection was agreed."""

FreePort = Callable[[IP], int]
"""A TCP port that nobody has at an own address; 0: there is none."""


@dataclass(frozen=True, slots=True)
class MakeSubflow:
    """Have the kernel make it: all on its path, `wire`, have agreed."""

    cid: Cid
    wire: Flow
    wanted: Subflow


@dataclass(frozen=True, slots=True)
class SubflowUp:
    """Nothing to be done: the subflow of this connection carries data now, by `wire`."""

    cid: Cid
    wire: Flow


@dataclass(frozen=True, slots=True)
class _Awaited:
    """News of a connection: when the kernel is asked, and how long was waited before."""

    due: float
    wait_s: float


ToDo = OpenRequested | CloseRequested | MakeSubflow | SubflowUp


def asked_by(packet: Packet) -> Flow | None:
    """What an application's first packet asks for; None: a subflow, for which nobody has asked."""
    if packet.is_join:
        return None
    flow = packet.flow
    asked = Transport.MPTCP if packet.is_multipath else flow.transport
    return Flow(asked, flow.source, flow.destination)


class Multipaths:
    """Those of one host. `entropy`: so many random bytes, for the ids of connections."""

    def __init__(self, host: Host, entropy: Callable[[int], bytes]) -> None:
        self._host = host
        self._entropy = entropy
        self._by_token: dict[int, Multipath] = {}
        self._awaited: dict[Cid, _Awaited] = {}
        self._fallen: set[Cid] = set()

    @property
    def known(self) -> list[Multipath]:
        """Those that somebody here has asked for."""
        return list(self._by_token.values())

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to look at."""
        return not self._by_token and not self._awaited

    def due_after(self, now: float) -> float | None:
        """When to look again after a look `now`, if nothing happens; monotonic seconds."""
        found = [one.due_after(now) for one in self._by_token.values()]
        found += [one.due for one in self._awaited.values()]
        return min((at for at in found if at is not None), default=None)

    def is_fallen(self, cid: Cid) -> bool:
        """Whether this connection was to be MPTCP, and is plain TCP: it has one path."""
        return cid in self._fallen

    def led_by(self, cid: Cid) -> Multipath | None:
        """The one that this connection stands for."""
        known = self._by_token.values()
        return next((one for one in known if one.lead(self._host.connections) == cid), None)

    # --- what happened ---

    def happened(self, event: MptcpEvent, now: float) -> list[ToDo]:
        """The kernel says so."""
        one = self._by_token.get(event.token)
        branch = one.of_flow(event.flow) if one else None
        match event.what:
            case Happened.ESTABLISHED:
                self._established(event)
            case Happened.CLOSED:
                self._by_token.pop(event.token, None)
                cids = [left.cid for left in one.branches.values()] if one else []
                why = "its MPTCP connection is closed"
                return [CloseRequested(cid, why) for cid in cids if cid is not None]
            case Happened.SUBFLOW_ESTABLISHED:
                if one is not None and branch is not None and branch.cid is not None:
                    branch.enter(Standing.UP, now)
                    return [SubflowUp(branch.cid, one.wire(branch))]
            case Happened.SUBFLOW_CLOSED:
                if branch is not None and branch.cid is not None:
                    return _give_up(branch, "the kernel has closed it", now)
                if one is not None and one.first.local.on_the_wire == event.flow:
                    # Its path is free for another, as long as the others carry the connection on.
                    return [CloseRequested(one.first.cid, "the kernel has closed its subflow")]
        return []

    def opened(self, cid: Cid, now: float) -> list[ToDo]:
        """A connection is up, or up again."""
        made: list[ToDo] = []
        for one, branch in self._of(cid):
            if branch.standing is Standing.ASKED:
                branch.enter(Standing.ALLOWED, now)
                made.append(MakeSubflow(cid, one.wire(branch), one.subflow(branch)))
        return made

    def expect(self, cid: Cid, now: float) -> None:
        """A connection is up for the first time: the kernel will say so, or is to be asked."""
        connection = self._host.connections.get(cid)
        if not isinstance(connection, Initiator) or any(self._of(cid)):
            return
        is_multipath = connection.agreement.wire.transport is Transport.MPTCP
        if is_multipath and len(self._awaited) < MULTIPATHS_MAX:
            self._awaited[cid] = _Awaited(now + NEWS_S, NEWS_S)

    def is_unheard(self, now: float) -> bool:
        """Whether the kernel is to be asked for what it has (`listed`)."""
        return any(one.due <= now for one in self._awaited.values())

    def listed(self, there: Iterable[ListedMptcp], now: float) -> list[Cid]:
        """What the kernel has; those of which it should have said so and that are plain TCP."""
        flows = {one.flow: one for one in there}
        fallen: list[Cid] = []
        for cid, awaited in list(self._awaited.items()):
            if awaited.due > now:
                continue
            del self._awaited[cid]
            connection = self._host.connections.get(cid)
            local = connection.agreement.local.on_the_wire if connection else None
            found = flows.get(local) if local else None
            if connection is not None and found is None:
                wait_s = min(NEWS_MAX_S, 2 * awaited.wait_s)
                self._awaited[cid] = _Awaited(now + wait_s, wait_s)
            elif found is not None and found.fallback:
                fallen.append(cid)
            elif found is not None:
                self._established(MptcpEvent(Happened.ESTABLISHED, found.token, found.flow))
        self._fallen = {cid for cid in self._fallen if cid in self._host.connections} | {*fallen}
        return fallen

    def refused(self, report: ReportRefused, now: float) -> None:
        """Somebody said no, or nobody said anything."""
        for _, branch in self._of(report.cid):
            refuse(branch, report, now)

    def ended(self, cid: Cid, now: float) -> None:
        """A connection is over."""
        self._awaited.pop(cid, None)
        self._fallen.discard(cid)
        for _, branch in self._of(cid):
            branch.enter(Standing.GONE, now)

    def not_made(self, cid: Cid, why: str, now: float) -> list[ToDo]:
        """The kernel would not make the subflow of this connection; another port is taken next."""
        left: list[ToDo] = []
        for _, branch in self._of(cid):
            left += _give_up(branch, why, now)
            branch.port = 0
        return left

    def _established(self, event: MptcpEvent) -> None:
        if event.flow is None or event.accepted or len(self._by_token) >= MULTIPATHS_MAX:
            return
        connection = self._host.by_local(event.flow)
        if isinstance(connection, Initiator):
            about = connection.agreement
            if about.wire.transport is Transport.MPTCP:
                self._awaited.pop(about.cid, None)
                self._by_token[event.token] = Multipath(event.token, about)

    def _of(self, cid: Cid) -> Iterator[tuple[Multipath, Branch]]:
        for one in self._by_token.values():
            branch = one.of(cid)
            if branch is not None:
                yield one, branch

    # --- what is to be done ---

    def look(self, now: float, free_port: FreePort) -> list[ToDo]:
        """See what is to be given up, and what to be asked for."""
        connections = self._host.connections
        over = [token for token, one in self._by_token.items() if one.is_over(connections)]
        for token in over:  # of which the kernel's news was missed
            del self._by_token[token]
        found: list[ToDo] = []
        for one in self._by_token.values():
            for branch in one.branches.values():
                due = branch.due if branch.standing is Standing.ALLOWED else None
                if due is not None and due <= now:
                    found += _give_up(branch, "nobody answers its SYN", now)
            for wish in one.wishes(self._host.context.own, connections, now):
                found += self._ask(one, wish, free_port, now)
        return found

    def _ask(self, one: Multipath, wish: Wish, free_port: FreePort, now: float) -> list[ToDo]:
        about = one.first
        port = free_port(about.local.source.ip)
        branch = one.branch(wish.path, port) if port else None
        if branch is None:
            return []
        branch.enter(Standing.ASKED, now)
        cid = branch.cid = Cid(self._entropy(16))
        flows = one.wire(branch), one.local(branch)
        return [OpenRequested(cid, about.peer, about.service, *flows, wish.signaling)]


def _give_up(branch: Branch, why: str, now: float) -> list[ToDo]:
    cid = branch.cid
    branch.enter(Standing.GONE, now)
    branch.why = why
    return [CloseRequested(cid, why)] if cid is not None else []
