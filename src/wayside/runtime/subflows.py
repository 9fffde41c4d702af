"""Lets MPTCP connections of this host's applications use several paths, each asked for first.

The kernel says when a connection is up and has a token (kernel/mptcp.py); kernel/subflows.py says
by which paths it is to have further subflows; each of those is signaled as a connection of its own
(R-2.5), and when it is up the kernel is told to make the subflow. The privileged helper opens the
socket and makes the subflows. Who was asked for a connection has nothing to do but to listen: its
kernel takes subflows only while somebody does.

What an agent of a former life knew of tokens is lost: those connections keep the subflows that they
have, and get no more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal, Protocol

import structlog

from wayside.core.address import IP, Flow, Transport
from wayside.core.effects import ReportOpened, ReportRefused
from wayside.core.ends import Initiator
from wayside.core.events import OpenRequested
from wayside.core.host import Host
from wayside.core.rule import Cid
from wayside.kernel.mptcp import Happened, MptcpEvent, Subflow, read_events
from wayside.kernel.packets import Packet
from wayside.kernel.plan import KernelError
from wayside.kernel.subflows import Branch, Multipath, Standing, Wish, refuse

from .control_types import SubflowRecord
from .eventlog import EventLog

_log = structlog.get_logger()

MULTIPATHS_MAX = 4096
"""Connections that get further subflows; those beyond have their first."""


class Maker(Protocol):
    """Who makes subflows: the privileged helper."""

    def make_subflow(self, wanted: Subflow) -> Awaitable[None]:
        """Begin one. Raises KernelError."""
        ...


class Subflows:
    """`deliver`: gives the machine an event; `close`: ends a connection."""

    def __init__(
        self,
        host: Host,
        maker: Maker,
        log: EventLog,
        deliver: Callable[[OpenRequested], None],
        close: Callable[[Cid, str], None],
    ) -> None:
        self._host = host
        self._maker = maker
        self._log = log
        self._deliver = deliver
        self._close = close
        self._listening: socket.socket | None = None
        self._by_token: dict[int, Multipath] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._making: set[asyncio.Task[None]] = set()

    def start(self, listening: socket.socket) -> None:
        """Hear what the kernel says of MPTCP from now on."""
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening, self._read)

    def stop(self) -> None:
        """Hear no more. The kernel keeps the subflows that there are."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._making:
            task.cancel()
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()

    def wanted(self, packet: Packet) -> Flow | None:
        """What an application's first packet asks for; None: a subflow, unasked."""
        if self._listening is None:
            return packet.flow
        if packet.is_join:
            return None
        flow = packet.flow
        asked = Transport.MPTCP if packet.is_multipath else flow.transport
        return Flow(asked, flow.source, flow.destination)

    def records(self, cid: Cid) -> list[SubflowRecord]:
        """The further subflows of the MPTCP connection that this one stands for."""
        for one in self._by_token.values():
            if one.lead(self._host.connections) == cid:
                return [_record(one, branch) for branch in one.branches.values()]
        return []

    # --- what happened ---

    def happened(self, event: MptcpEvent) -> None:
        """The kernel says so."""
        now = time.monotonic()
        one = self._by_token.get(event.token)
        branch = one.of_flow(event.flow) if one else None
        match event.what:
            case Happened.ESTABLISHED:
                self._established(event)
            case Happened.CLOSED:
                self._by_token.pop(event.token, None)
                for left in one.branches.values() if one else ():
                    if left.cid is not None:
                        self._close(left.cid, "its MPTCP connection is closed")
            case Happened.SUBFLOW_ESTABLISHED:
                if branch is not None and branch.cid is not None:
                    branch.enter(Standing.UP, now)
                    self._tell("subflow.up", one, branch)
            case Happened.SUBFLOW_CLOSED:
                if branch is not None and branch.cid is not None:
                    self._give_up(branch, "the kernel has closed it", now)
        self.look_soon()

    def opened(self, report: ReportOpened) -> None:
        """A connection is up, or up again."""
        for one, branch in self._of(report.cid):
            if branch.standing is Standing.ASKED:
                branch.enter(Standing.ALLOWED, time.monotonic())
                task = asyncio.ensure_future(self._make(one, branch))
                self._making.add(task)
                task.add_done_callback(self._making.discard)
        self.look_soon()

    def refused(self, report: ReportRefused) -> None:
        """Somebody said no, or nobody said anything."""
        for _, branch in self._of(report.cid):
            refuse(branch, report, time.monotonic())
        self.look_soon()

    def ended(self, cid: Cid) -> None:
        """A connection is over."""
        for _, branch in self._of(cid):
            branch.enter(Standing.GONE, time.monotonic())
        self.look_soon()

    def look_soon(self, after_s: float = 0.0) -> None:
        """Something may be different now: see what is to be asked."""
        if not self._by_token:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._look)

    def _read(self) -> None:
        assert self._listening is not None
        for event in read_events(self._listening):
            self.happened(event)

    def _established(self, event: MptcpEvent) -> None:
        if event.flow is None or event.accepted or len(self._by_token) >= MULTIPATHS_MAX:
            return
        connection = self._host.by_local(event.flow)
        if isinstance(connection, Initiator):
            about = connection.agreement
            if about.wire.transport is Transport.MPTCP:
                self._by_token[event.token] = Multipath(event.token, about)

    def _of(self, cid: Cid) -> Iterator[tuple[Multipath, Branch]]:
        for one in self._by_token.values():
            branch = one.of(cid)
            if branch is not None:
                yield one, branch

    # --- what is to be done ---

    def _look(self) -> None:
        now = time.monotonic()
        self._timer = None
        over = [t for t, one in self._by_token.items() if one.is_over(self._host.connections)]
        for token in over:  # of which the kernel's news was missed
            del self._by_token[token]
        for one in self._by_token.values():
            for branch in one.branches.values():
                due = branch.due if branch.standing is Standing.ALLOWED else None
                if due is not None and due <= now:
                    self._give_up(branch, "nobody answers its SYN", now)
            for wish in one.wishes(self._host.context.own, self._host.connections, now):
                self._ask(one, wish, now)
        at = min((one.due for one in self._by_token.values() if one.due is not None), default=None)
        if at is not None and self._timer is None:
            self.look_soon(max(0.0, at - now))

    def _ask(self, one: Multipath, wish: Wish, now: float) -> None:
        about = one.first
        port = _free_port(about.local.source.ip)
        branch = one.branch(wish.path, port) if port else None
        if branch is None:
            return
        branch.enter(Standing.ASKED, now)
        branch.cid = Cid(os.urandom(16))
        wire, local = one.wire(branch), one.local(branch)
        self._deliver(
            OpenRequested(branch.cid, about.peer, about.service, wire, local, wish.signaling)
        )

    async def _make(self, one: Multipath, branch: Branch) -> None:
        self._tell("subflow.made", one, branch)
        try:
            await self._maker.make_subflow(one.subflow(branch))
        except KernelError as error:
            _log.warning("a subflow was allowed, but not made", why=error.what)
            self._give_up(branch, error.what, time.monotonic())
            branch.port = 0
            self.look_soon()

    def _tell(
        self, event: Literal["subflow.made", "subflow.up"], one: Multipath | None, branch: Branch
    ) -> None:
        if one is not None and branch.cid is not None:
            self._log.write(event, cid=branch.cid.hex(), flow=str(one.wire(branch)))

    def _give_up(self, branch: Branch, why: str, now: float) -> None:
        cid = branch.cid
        branch.enter(Standing.GONE, now)
        branch.why = why
        if cid is not None:
            self._close(cid, why)


def _free_port(ip: IP) -> int:
    """A TCP port that nobody has at an own address; 0: there is none."""
    kind = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def _record(one: Multipath, branch: Branch) -> SubflowRecord:
    wire = one.wire(branch)
    return SubflowRecord(
        wire=f"{wire.source} > {wire.destination}",
        state=branch.standing.value,
        cid=branch.cid.hex() if branch.cid else "",
        why=branch.why,
        by=branch.by,
        rule=branch.rule,
    )
