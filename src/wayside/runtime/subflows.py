"""Lets MPTCP connections of this host's applications use several paths, each asked for first.

The kernel says when a connection is up and has a token (kernel/mptcp.py); kernel/multipaths.py says
by which paths it is to have further subflows; each of those is signaled as a connection of its own
(R-2.5), and when it is up the kernel is told to make the subflow. The privileged helper opens the
socket and makes the subflows. Who was asked for a connection has nothing to do but to listen: its
kernel takes subflows only while somebody does.

The kernel's news may be lost, and of a connection that has fallen back to TCP there is none: two
seconds after a connection is up the kernel is asked for what it has (kernel/mptcp_sockets.py).

What an agent of a former life knew of tokens is lost: those connections keep the subflows that they
have, and get no more. The simulator's part of this is sim/subflows.py: change the two together.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

import structlog

from wayside.core.address import IP, Flow
from wayside.core.effects import ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.host import Host
from wayside.core.rule import Cid
from wayside.kernel.mptcp import MptcpEvent, Subflow, read_events
from wayside.kernel.mptcp_sockets import list_sockets
from wayside.kernel.multipaths import MakeSubflow, Multipaths, SubflowUp, ToDo, asked_by
from wayside.kernel.packets import Packet
from wayside.kernel.plan import KernelError
from wayside.kernel.subflows import Branch, Multipath

from .control_types import SubflowRecord
from .eventlog import EventLog

FALLEN_BACK = "its kernel has fallen back from MPTCP to TCP: one path"

_log = structlog.get_logger()


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
        self._multipaths = Multipaths(host, os.urandom)
        self._maker = maker
        self._log = log
        self._deliver = deliver
        self._close = close
        self._listening: socket.socket | None = None
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
        return packet.flow if self._listening is None else asked_by(packet)

    def records(self, cid: Cid) -> list[SubflowRecord]:
        """The further subflows of the MPTCP connection that this one stands for."""
        one = self._multipaths.led_by(cid)
        return [_record(one, branch) for branch in one.branches.values()] if one else []

    def stands(self, cid: Cid) -> str:
        """How a connection is that was to have several paths, if it cannot."""
        return FALLEN_BACK if self._multipaths.is_fallen(cid) else ""

    # --- what happened ---

    def happened(self, event: MptcpEvent) -> None:
        """The kernel says so."""
        self._do(self._multipaths.happened(event, time.monotonic()))
        self.look_soon()

    def opened(self, report: ReportOpened) -> None:
        """A connection is up, or up again."""
        now = time.monotonic()
        self._do(self._multipaths.opened(report.cid, now))
        if self._listening is not None and not report.refreshed:
            self._multipaths.expect(report.cid, now)
        self.look_soon()

    def refused(self, report: ReportRefused) -> None:
        """Somebody said no, or nobody said anything."""
        self._multipaths.refused(report, time.monotonic())
        self.look_soon()

    def ended(self, cid: Cid) -> None:
        """A connection is over."""
        self._multipaths.ended(cid, time.monotonic())
        self.look_soon()

    def look_soon(self, after_s: float = 0.0) -> None:
        """Something may be different now: see what is to be asked."""
        if self._multipaths.is_idle:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._look)

    def _read(self) -> None:
        assert self._listening is not None
        for event in read_events(self._listening):
            self.happened(event)

    # --- what is to be done ---

    def _look(self) -> None:
        now = time.monotonic()
        self._timer = None
        if self._multipaths.is_unheard(now):
            self._ask_kernel(now)
        self._do(self._multipaths.look(now, _free_port))
        due = self._multipaths.due_after(now)
        if due is not None and self._timer is None:
            self.look_soon(due - now)

    def _ask_kernel(self, now: float) -> None:
        try:
            there = list_sockets()
        except KernelError as error:
            _log.warning("whether MPTCP has fallen back is not known", why=error.what)
            there = []
        for cid in self._multipaths.listed(there, now):
            _log.warning("MPTCP has fallen back to TCP: one path", cid=cid.hex())

    def _do(self, found: list[ToDo]) -> None:
        for one in found:
            match one:
                case OpenRequested():
                    self._deliver(one)
                case CloseRequested():
                    self._close(one.cid, one.reason)
                case MakeSubflow():
                    task = asyncio.ensure_future(self._make(one))
                    self._making.add(task)
                    task.add_done_callback(self._making.discard)
                case SubflowUp():
                    self._log.write("subflow.up", cid=one.cid.hex(), flow=str(one.wire))
                case _:
                    assert_never(one)

    async def _make(self, made: MakeSubflow) -> None:
        self._log.write("subflow.made", cid=made.cid.hex(), flow=str(made.wire))
        try:
            await self._maker.make_subflow(made.wanted)
        except KernelError as error:
            _log.warning("a subflow was allowed, but not made", why=error.what)
            self._do(self._multipaths.not_made(made.cid, error.what, time.monotonic()))
            self.look_soon()


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
