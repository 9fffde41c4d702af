"""What a Python program uses: `connect`, `listen` and `stop`.

    async with wayside.connect("files.alice", "https", timeout=5) as connection:
        connection.writer.write(b"...")

Where an agent runs it does the signaling, and the connection survives what agents make a
connection survive. Where none runs, and without any privilege, the same machines signal from
inside this process and the data takes ordinary sockets on the wire 5-tuple: no rewriting, so no
moves; `Connection.rebinds` says which it is. Errors are those of `wayside.runtime.errors`: a
refusal is a `Refused` that names who, which rule and why, and never a timeout.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from wayside.core.constants import STOP_S_MAX
from wayside.runtime.config import default_socket
from wayside.runtime.control import ask_async
from wayside.runtime.control_types import (
    AddressReply,
    AddressRequest,
    ExposeRequest,
    Family,
    OpenReply,
    OpenRequest,
    Reply,
    StatusReply,
    StatusRequest,
    StopRecord,
    StopReply,
    StopRequest,
    UnexposeRequest,
)
from wayside.runtime.errors import (
    AgentNotRunning,
    ConfigError,
    NameUnknown,
    NoAnswer,
    WaysideError,
)
from wayside.runtime.in_process import InProcess

TARGET_CHARACTERS_MAX = 256

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Connection:
    """An open connection: asyncio's streams, the socket under them, and who is at the other end.

    `rebinds`: whether it goes on when hosts move (an agent's does). Closes when its `async with`
    ends.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    peer: str
    service: str
    rebinds: bool
    on_close: Callable[[], Awaitable[None]] | None = None

    @property
    def sock(self) -> socket.socket:
        """The kernel's socket."""
        return self.writer.get_extra_info("socket")

    async def close(self) -> None:
        """Close the socket, and tell everyone on the way."""
        self.writer.close()
        with suppress(OSError):  # the other end was faster
            await self.writer.wait_closed()
        if self.on_close is not None:
            await self.on_close()

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


@asynccontextmanager
async def connect(
    name: str,
    service: str,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 the interface that design and conventions promise
    config: Path | None = None,
) -> AsyncGenerator[Connection, None]:
    """Open a TCP connection to a service of a host. `timeout`: seconds, for signaling and connect.

    `config`: host.toml, for where no agent runs. Raises Refused, NameUnknown, NoAnswer,
    IdentityError and other WaysideErrors.
    """
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(timeout):
                if config is None and (control := _agent_socket()):
                    connection = await _connect_by_agent(control, name, service)
                else:
                    signaling = await stack.enter_async_context(InProcess.from_config(config))
                    connection = await _connect_in_process(signaling, name, service)
        except TimeoutError as error:
            raise NoAnswer(f"{name} did not answer for {service} in {timeout:g} s") from error
        async with connection:
            yield connection


async def listen(
    service: str, port: int = 0, *, allow: tuple[str, ...] = (), config: Path | None = None
) -> AsyncGenerator[Connection, None]:
    """Offer a service and yield its connections as they come, for as long as one iterates.

    `port`: local TCP port, 0: any. `allow`: patterns of names and keys, empty: anyone who can
    sign. `config`: host.toml, for where no agent runs.
    """
    async with AsyncExitStack() as stack:
        if config is None and (control := _agent_socket()):
            accepted = _listen_by_agent(control, service, port, allow)
        else:
            in_process = InProcess.from_config(config, answers=True)
            signaling = await stack.enter_async_context(in_process)
            accepted = _listen_in_process(signaling, service, port, allow)
        async for connection in accepted:
            yield connection


async def stop(
    target: str, lifetime_s: float = 60.0, *, control: Path | None = None
) -> list[StopRecord]:
    """Have packets to this host dropped on the way, as near to their source as a gate stands.

    `target`: a peer (name, key or address), for all that it has opened to this host; or one
    connection: its flow as `wayside status` shows it, or the beginning of its cid. `lifetime_s`: 1
    to 3,600 seconds; `control`: the agent's socket, where it is not the usual one. Returns what
    was stopped and by whom. Raises NameUnknown, NoAnswer when nobody on the path has answered,
    ConfigError, AgentNotRunning and other WaysideErrors. Spec: R-5.8.
    """
    if not 1 <= lifetime_s <= STOP_S_MAX or not 0 < len(target) <= TARGET_CHARACTERS_MAX:
        what = f"cannot stop {target[:TARGET_CHARACTERS_MAX]!r} for {lifetime_s:g} s"
        hint = f"a peer or a flow, for 1 to {STOP_S_MAX:g} s"
        raise ConfigError(what, hint=hint, code="WS-2001")
    request = StopRequest(target=target, lifetime_s=lifetime_s)
    reply = await ask_async(control or default_socket("host", os.environ), request, StopReply)
    if not any(one.by or one.closed for one in reply.stopped):
        boxes = max((one.boxes for one in reply.stopped), default=0)
        why = f"{boxes} boxes on the path" if boxes else "no box on the path takes part"
        hint = "say it again; is this host's clock right?" if boxes else "filter on this host"
        raise NoAnswer(f"nobody has answered the STOP for {target}", why=why, hint=hint)
    return reply.stopped


def _agent_socket() -> Path | None:
    path = default_socket("host", os.environ)
    return path if path.is_socket() else None


async def _connect_by_agent(control: Path, name: str, service: str) -> Connection:
    """Signal first, with the source port that the socket already has; then connect."""
    family = await _family_of(control, name)
    sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(("", 0))
        request = OpenRequest(
            name=name, service=service, source_port=sock.getsockname()[1], family=family
        )
        opened = await ask_async(control, request, OpenReply)
        await _connected(sock, opened.address, opened.port)
    except BaseException:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock)
    return Connection(reader, writer, name, service, rebinds=True)


async def _family_of(control: Path, name: str) -> Family:
    try:
        await ask_async(control, AddressRequest(name=name, family=4), AddressReply)
        return 4
    except NameUnknown:
        await ask_async(control, AddressRequest(name=name, family=6), AddressReply)
        return 6


async def _connected(sock: socket.socket, address: str, port: int) -> None:
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except OSError as error:
        raise WaysideError(
            "the connection was allowed, but did not come up",
            why=error.strerror or str(error),
            hint="does the service listen on the other host?",
            code="WS-1007",
        ) from error


async def _connect_in_process(signaling: InProcess, name: str, service: str) -> Connection:
    peer = await signaling.peer(name)
    source = signaling.source_towards(peer)
    kind = socket.AF_INET if source.family == 4 else socket.AF_INET6
    sock = socket.socket(kind, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind((str(source.ip), 0))
        opened = await signaling.open(peer, service, source.with_port(sock.getsockname()[1]))
        await _connected(sock, str(opened.wire.destination.ip), opened.wire.destination.port)
    except BaseException:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock)

    async def tell() -> None:
        signaling.close(opened.cid)

    return Connection(reader, writer, name, service, rebinds=False, on_close=tell)


async def _listen_by_agent(
    control: Path, service: str, port: int, allow: tuple[str, ...]
) -> AsyncGenerator[Connection, None]:
    """Listen where only what was signaled can arrive: on this host's virtual addresses."""
    queue: asyncio.Queue[Connection] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        await queue.put(Connection(reader, writer, peer, service, rebinds=True))

    status = await ask_async(control, StatusRequest(limit=0), StatusReply)
    server = await _serve(accept, list(status.addresses), port)
    try:
        place = server.sockets[0].getsockname()[1]
        request = ExposeRequest(service=service, port=place, allow=list(allow))
        await ask_async(control, request, Reply)
        while True:
            yield await queue.get()
    finally:
        server.close()
        await _hang_up(queue)
        with suppress(AgentNotRunning):
            await ask_async(control, UnexposeRequest(service=service), Reply)


async def _serve(accept: Accept, hosts: list[str] | None, port: int) -> asyncio.Server:
    """Listen on all these addresses; where any port will do (0), on the same one for all."""
    server = await asyncio.start_server(accept, hosts, port)
    places = {sock.getsockname()[1] for sock in server.sockets}
    if len(places) == 1:
        return server
    server.close()
    await server.wait_closed()
    return await asyncio.start_server(accept, hosts, min(places))


async def _hang_up(queue: asyncio.Queue[Connection]) -> None:
    """Who has connected, and is taken by nobody any more, does not wait in vain."""
    while not queue.empty():
        await queue.get_nowait().close()


async def _listen_in_process(
    signaling: InProcess, service: str, port: int, allow: tuple[str, ...]
) -> AsyncGenerator[Connection, None]:
    """Ordinary sockets: whoever was not signaled is hung up on."""
    queue: asyncio.Queue[Connection] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = signaling.accepted(writer.get_extra_info("socket"))
        if found is None:
            writer.transport.abort()
            return

        async def tell() -> None:
            signaling.close(found.agreement.cid)

        peer = str(found.agreement.peer)
        await queue.put(Connection(reader, writer, peer, service, rebinds=False, on_close=tell))

    server = await _serve(accept, None, port)
    try:
        signaling.expose(service, server.sockets[0].getsockname()[1], allow)
        while True:
            yield await queue.get()
    finally:
        server.close()
        await _hang_up(queue)
