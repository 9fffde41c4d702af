"""By which paths an MPTCP connection has subflows, and by which it is to have more. Pure.

The first subflow is what its application has asked for. Each address of either end that no other
uses yet is worth one more: those of the two ends in pairs, so that paths share as little as can be.
A further subflow is asked for first, as a connection of its own (R-2.5); the kernel is
told to make it when all on its path have agreed. Who is refused, or loses it, waits and asks again.
What is tried again has the same ports: of a path the kernel never learns but one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from wayside.core.address import Address, Flow
from wayside.core.connection import Agreement, Connection, State
from wayside.core.constants import SIGNALING_PORT
from wayside.core.effects import ReportRefused
from wayside.core.rule import Cid

from .mptcp import ADDRESS_ID_MAX, Subflow
from .paths import Path

SUBFLOWS_MAX = 8
"""Of one connection; as many as an end can have paths (R-5.4.7)."""

AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
"""Until a path that was refused is asked about again; twice as long each time."""

UP_S = 10.0
"""A subflow that is not up by then, several repetitions of its SYN, will not be."""


class Standing(Enum):
    """How a further subflow is."""

    ASKED = "asked"
    ALLOWED = "allowed"
    UP = "up"
    REFUSED = "refused"
    GONE = "gone"


@dataclass(slots=True)
class Branch:
    """A further subflow, or what became of it. Times are monotonic seconds.

    `number`: its address id; `port`: its own, at both the socket and the wire, 0: to be found anew;
    `cid`: of the connection that was signaled for it, while there is one; `since`: when it came to
    stand so.
    """

    path: Path
    number: int
    port: int
    standing: Standing = Standing.GONE
    cid: Cid | None = None
    since: float = 0.0
    wait_s: float = 0.0
    why: str = ""
    by: str = ""
    rule: str = ""

    @property
    def due(self) -> float | None:
        """When something has to be done about it, if nothing happens."""
        if self.standing in (Standing.REFUSED, Standing.GONE):
            return self.since + self.wait_s
        return self.since + UP_S if self.standing is Standing.ALLOWED else None

    def enter(self, standing: Standing, now: float) -> None:
        """It is so now."""
        if standing in (Standing.REFUSED, Standing.GONE):
            lasted = self.standing is Standing.UP and now - self.since > AGAIN_MAX_S
            self.wait_s = AGAIN_S if lasted else min(AGAIN_MAX_S, max(AGAIN_S, 2 * self.wait_s))
            self.cid = None
        if standing is Standing.UP:
            self.why = self.by = self.rule = ""
        self.standing, self.since = standing, now


@dataclass(frozen=True, slots=True)
class Wish:
    """Ask for a subflow by this path; `signaling`: where its other end is asked."""

    path: Path
    signaling: Address


@dataclass(slots=True)
class Multipath:
    """An MPTCP connection that somebody here has asked for. `token`: the kernel's name for it."""

    token: int
    first: Agreement
    branches: dict[Path, Branch] = field(default_factory=dict[Path, Branch])

    def wishes(
        self, own: Sequence[Address], connections: Mapping[Cid, Connection], now: float
    ) -> list[Wish]:
        """What is to be asked for now. `own`: where this host is, best first."""
        self._follow(connections)
        about = next(iter(self._live(connections)), None)
        if about is None or about.stands:
            return []
        taken = [_path_of(one.wire) for one in self._live(connections)]
        taken += [one.path for one in self.branches.values() if one.standing is Standing.ASKED]
        family, there = about.wire.family, about.wire.destination
        ports = {there.ip: SIGNALING_PORT} | {
            one.ip: one.port or SIGNALING_PORT for one in about.alternatives
        }
        here = [one.ip for one in own if one.family == family]
        free = [ip for ip in here if all(ip != path.own for path in taken)]
        theirs = [ip for ip in ports if all(ip != path.theirs for path in taken)]
        pairs = [Path(*pair) for pair in zip(free, theirs, strict=False)]
        pairs += [Path(ip, there.ip) for ip in free[len(theirs) :]]
        pairs += [Path(about.wire.source.ip, ip) for ip in theirs[len(free) :]]
        room = SUBFLOWS_MAX - len(taken)
        due = [path for path in pairs[: max(0, room)] if self._is_due(path, now)]
        return [Wish(path, Address(path.theirs, ports[path.theirs])) for path in due]

    def branch(self, path: Path, port: int) -> Branch | None:
        """The one by this path; a new one has this port. None: no address id is left."""
        known = self.branches.get(path)
        if known is None:
            used = {one.number for one in self.branches.values()}
            number = next((n for n in range(1, ADDRESS_ID_MAX + 1) if n not in used), None)
            if number is None:
                return None
            known = self.branches[path] = Branch(path, number, port)
        known.port = known.port or port
        return known

    def local(self, branch: Branch) -> Flow:
        """A further subflow as its socket sees it."""
        about = self.first.local
        return Flow(about.transport, about.source.with_port(branch.port), about.destination)

    def wire(self, branch: Branch) -> Flow:
        """A further subflow as it is asked for."""
        port = self.first.local.destination.port
        source = Address(branch.path.own, branch.port)
        return Flow(self.first.wire.transport, source, Address(branch.path.theirs, port))

    def subflow(self, branch: Branch) -> Subflow:
        """What the kernel is told to make."""
        return Subflow(self.token, branch.number, self.local(branch).on_the_wire)

    def of(self, cid: Cid) -> Branch | None:
        """The further subflow for which this connection was signaled."""
        return next((one for one in self.branches.values() if one.cid == cid), None)

    def of_flow(self, flow: Flow | None) -> Branch | None:
        """The further subflow with this 5-tuple, as its socket sees it."""
        known = self.branches.values()
        return next((one for one in known if self.local(one).on_the_wire == flow), None)

    def lead(self, connections: Mapping[Cid, Connection]) -> Cid:
        """The connection that stands for all: the first, or one that is left of the others."""
        live = [one.cid for one in self._live(connections)]
        return self.first.cid if self.first.cid in live or not live else live[0]

    def is_over(self, connections: Mapping[Cid, Connection]) -> bool:
        """Whether nothing is left that could carry it."""
        cids = (self.first.cid, *(one.cid for one in self.branches.values()))
        return not any(cid in connections for cid in cids)

    def due_after(self, now: float) -> float | None:
        """When something has to be done, if nothing happens.

        What was due before `now` is by a path that is not wanted now: another subflow has it, or
        an end is not there any more.
        """
        found = (branch.due for branch in self.branches.values())
        return min((at for at in found if at is not None and at > now), default=None)

    def _follow(self, connections: Mapping[Cid, Connection]) -> None:
        """A subflow whose own address is gone has moved: the path that it had is free again."""
        for path, branch in list(self.branches.items()):
            known = connections.get(branch.cid) if branch.cid else None
            now_at = _path_of(known.agreement.wire) if known else path
            if now_at != path and now_at not in self.branches:
                del self.branches[path]
                branch.path = now_at
                self.branches[now_at] = branch

    def _is_due(self, path: Path, now: float) -> bool:
        branch = self.branches.get(path)
        return branch is None or (branch.due is not None and branch.due <= now)

    def _live(self, connections: Mapping[Cid, Connection]) -> Iterable[Agreement]:
        cids = (self.first.cid, *(one.cid for one in self.branches.values() if one.cid))
        known = (connections.get(cid) for cid in cids)
        return [one.agreement for one in known if one and one.state is State.CONNECTED]


def refuse(branch: Branch, report: ReportRefused, now: float) -> None:
    """Somebody on its path said no, or nobody said anything."""
    branch.enter(Standing.REFUSED, now)
    branch.why, branch.by, branch.rule = report.reason, report.by, report.rule


def _path_of(wire: Flow) -> Path:
    return Path(wire.source.ip, wire.destination.ip)
