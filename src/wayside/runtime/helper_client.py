"""The daemon's side of the privileged helper: asyncio in, typed answers out, changes in batches.

While one transaction is on its way to the kernel, changes that turn up are collected and go
together as the next one: under load many connections share a transaction, without load nobody
waits. If a transaction fails, its callers are tried again one at a time, so that one bad change
does not sink the others, and only its own caller gets the KernelError.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self, overload

from wayside.core.address import Flow
from wayside.core.constants import SIGNALING_PORT
from wayside.kernel.doctor import Diagnosis
from wayside.kernel.mptcp import Subflow
from wayside.kernel.names import CHANGES_MAX
from wayside.kernel.plan import Change, InstalledRule, KernelError

from .helper_channel import HelperChannel
from .helper_messages import (
    Apply,
    Diagnose,
    Done,
    GateSetup,
    HostSetup,
    ListRules,
    LookUp,
    MakeSubflow,
    OpenSockets,
    Request,
    RouteBySource,
    SetupGate,
    SetupHost,
    Teardown,
    WatchMptcp,
    pack_change,
    pack_flow,
    unpack_installed,
)

__all__ = ["GateSetup", "GateSockets", "Helper", "HostSetup", "SignalingSockets", "Sockets"]

LOOK_UPS_MAX = 64
"""In one request: the helper is busy with it for 5 to 10 ms."""


@dataclass(frozen=True, slots=True)
class SignalingSockets:
    """For signaling: UDP sockets that the helper has opened, none of them blocking."""

    signaling_v4: socket.socket
    signaling_v6: socket.socket

    def close(self) -> None:
        """Close them all."""
        for field in fields(self):
            getattr(self, field.name).close()


@dataclass(frozen=True, slots=True)
class GateSockets(SignalingSockets):
    """What a gate gets: three more for each family, read only, for OPENs (kernel/lanes.py).

    And one, `aside`, to send by what answers strangers: what waits there for a neighbour that does
    not exist takes no room from anything else.
    """

    aside_v4: socket.socket
    aside_v6: socket.socket
    shown_v4: socket.socket
    shown_v6: socket.socket
    again_v4: socket.socket
    again_v6: socket.socket
    bare_v4: socket.socket
    bare_v6: socket.socket

    @property
    def lanes(self) -> tuple[socket.socket, ...]:
        """Those for OPENs."""
        known = (self.shown_v4, self.shown_v6, self.again_v4, self.again_v6)
        return *known, self.bare_v4, self.bare_v6


@dataclass(frozen=True, slots=True)
class Sockets(SignalingSockets):
    """What a host gets: the tap, raw sockets to send by, ICMP errors, ends of TCP sockets."""

    tap: socket.socket
    raw_v4: socket.socket
    raw_v6: socket.socket
    icmp_v4: socket.socket
    icmp_v6: socket.socket
    tcp_ends: socket.socket


@dataclass(frozen=True, slots=True)
class _Waiting:
    changes: Sequence[Change]
    done: asyncio.Future[None]


class Helper:
    """A helper process, and the channel to it. `start` it before giving up privileges."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = HelperChannel(channel)
        self._waiting: deque[_Waiting] = deque()
        self._drain: asyncio.Task[None] | None = None

    @classmethod
    def start(cls) -> Self:
        """Start the helper process; it has the privileges that this process has now."""
        ours, theirs = socket.socketpair()
        # -P: nothing that lies in the directory of whoever starts us is imported with privilege.
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own module, our own interpreter
                [sys.executable, "-P", "-m", "wayside.runtime.helper", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    async def setup_host(self, setup: HostSetup) -> None:
        """Make a host's links and table, or find those of a former life. Raises KernelError."""
        await self._ask(SetupHost(setup))

    async def setup_gate(self, setup: GateSetup) -> None:
        """Make a gate's routes and table, or find those of a former life. Raises KernelError."""
        await self._ask(SetupGate(setup))

    @overload
    async def open_sockets(self, role: Literal["host"], port: int = ...) -> Sockets: ...

    @overload
    async def open_sockets(self, role: Literal["gate"], port: int = ...) -> GateSockets: ...

    async def open_sockets(
        self, role: Literal["host", "gate"], port: int = SIGNALING_PORT
    ) -> Sockets | GateSockets:
        """Open a role's sockets; `port`: of signaling. Raises KernelError."""
        done, descriptors = await self._channel.exchange(OpenSockets(role, port))
        opened = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in opened:
            sock.setblocking(False)
        named = dict(zip(done.sockets, opened, strict=True))
        return Sockets(**named) if role == "host" else GateSockets(**named)

    def apply(self, changes: Sequence[Change]) -> asyncio.Future[None]:
        """Make all these changes or none, with whatever others want at the time; to be awaited.

        Raises KernelError (when awaited) when the kernel refuses these.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not changes:
            done.set_result(None)
            return done
        self._waiting.append(_Waiting(changes, done))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.ensure_future(self._drain_waiting())
        return done

    async def rules(self) -> list[InstalledRule]:
        """All rules that are in force. Raises KernelError."""
        return unpack_installed((await self._ask(ListRules())).rules)

    async def look_up(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        """Those rules that are in force for these 5-tuples, of a host or a gate alike.

        Takes 0.15 ms each, whatever else there is; more than LOOK_UPS_MAX are asked for in
        several requests, so that changes get their turn. Raises KernelError.
        """
        found: list[InstalledRule] = []
        for start in range(0, len(matches), LOOK_UPS_MAX):
            part = [pack_flow(match) for match in matches[start : start + LOOK_UPS_MAX]]
            found += unpack_installed((await self._ask(LookUp(part))).rules)
        return found

    async def route_by_source(self) -> None:
        """Let what is signaled leave by the link that has its address. Raises KernelError."""
        await self._ask(RouteBySource())

    async def watch_mptcp(self) -> socket.socket:
        """Take over MPTCP's path management; a socket that hears of it. Raises KernelError."""
        _, (descriptor,) = await self._channel.exchange(WatchMptcp())
        return socket.socket(fileno=descriptor)

    async def make_subflow(self, wanted: Subflow) -> None:
        """Begin a further subflow. Raises KernelError."""
        await self._ask(MakeSubflow(wanted.token, wanted.number, pack_flow(wanted.flow)))

    async def diagnose(self) -> list[Diagnosis]:
        """Rulesets of others that may drop what was signaled. Raises KernelError."""
        found = (await self._ask(Diagnose())).diagnoses
        return [Diagnosis(one.where, one.why, one.rule) for one in found]

    async def teardown(self) -> None:
        """Take away all that was set up, rules included. Raises KernelError."""
        await self._ask(Teardown())

    def close(self) -> None:
        """Let the helper go; the kernel keeps what is in it."""
        self._channel.close()
        try:
            self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _drain_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft()]
            size = len(batch[0].changes)
            while self._waiting and size + len(self._waiting[0].changes) <= CHANGES_MAX:
                batch.append(self._waiting.popleft())
                size += len(batch[-1].changes)
            if len(batch) > 1 and await self._try(batch) is None:
                continue
            for one in batch:
                await self._try([one])

    async def _try(self, batch: list[_Waiting]) -> KernelError | None:
        """Apply a batch in one transaction. A lone caller is told of a failure, several are not."""
        changes = [pack_change(change) for one in batch for change in one.changes]
        error: KernelError | None = None
        try:
            await self._ask(Apply(changes))
        except KernelError as failure:
            error = failure
        if error is not None and len(batch) > 1:
            return error
        for one in batch:
            if one.done.done():  # its caller was cancelled
                continue
            if error is None:
                one.done.set_result(None)
            else:
                one.done.set_exception(error)
        return error

    async def _ask(self, request: Request) -> Done:
        done, descriptors = await self._channel.exchange(request)
        for descriptor in descriptors:
            os.close(descriptor)
        return done
