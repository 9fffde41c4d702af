"""Commands that use connections: address, connect, listen, expose, forward."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import click

from .options import FILE, daemon_socket, family_option, socket_option

PAUSE_S = 0.5
"""Stdin that has had nothing for so long is one that stays open, and not a file being read."""

CHUNK_BYTES = 64 * 1024
"""A pipe's size on Linux: more is never read at once."""


_CONFIG = click.option("--config", type=FILE, help="host.toml, to signal without an agent.")
_TIMEOUT = click.option(
    "--timeout", default=5.0, show_default=True, help="Seconds to wait for an answer."
)
_ALLOW = click.option("--allow", multiple=True, metavar="PATTERN", help="Only these names or keys.")


@click.command()
@click.argument("name")
@family_option
@socket_option
def address(name: str, family: int, socket_path: Path | None) -> None:
    """Print the virtual address of NAME; any program that connects to it is signaled for.

    \b
    curl https://$(wayside address files.lab)/
    """
    from wayside.runtime.control import ask
    from wayside.runtime.control_types import AddressReply, AddressRequest

    request = AddressRequest(name=name, family=6 if family == 6 else 4)
    click.echo(ask(daemon_socket(socket_path), request, AddressReply).address)


@click.command()
@click.argument("name")
@click.argument("service")
@_TIMEOUT
@_CONFIG
def connect(name: str, service: str, timeout: float, config: Path | None) -> None:
    """Connect stdin and stdout to SERVICE of NAME, as ssh's ProxyCommand wants it.

    \b
    ssh -o ProxyCommand='wayside connect %h ssh' files.lab
    """
    from wayside import api

    async def talk() -> None:
        async with api.connect(name, service, timeout=timeout, config=config) as connection:
            await _join_terminal(connection.reader, connection.writer)

    asyncio.run(talk())


@click.command()
@click.argument("service")
@click.argument("port", type=click.IntRange(0, 65535), default=0)
@_ALLOW
@_CONFIG
def listen(service: str, port: int, allow: tuple[str, ...], config: Path | None) -> None:
    """Wait for one connection to SERVICE, and connect it to stdin and stdout.

    PORT is the local port that is used; without it the system chooses one.
    """
    from wayside import api

    async def serve() -> None:
        async with aclosing(api.listen(service, port, allow=allow, config=config)) as incoming:
            async for connection in incoming:
                async with connection:
                    await _join_terminal(connection.reader, connection.writer)
                return

    asyncio.run(serve())


@click.command()
@click.argument("service")
@click.argument("port", type=click.IntRange(0, 65535))
@_ALLOW
@click.option("--remove", is_flag=True, help="No longer offer it.")
@socket_option
def expose(
    service: str, port: int, allow: tuple[str, ...], remove: bool, socket_path: Path | None
) -> None:
    """Offer the local PORT as SERVICE until the agent stops (for good: [services] in host.toml).

    \b
    wayside expose https 8443 --allow '*.lab'
    """
    from wayside.runtime.control import ask
    from wayside.runtime.control_types import ExposeRequest, Reply, UnexposeRequest

    socket = daemon_socket(socket_path)
    if remove:
        ask(socket, UnexposeRequest(service=service), Reply)
        click.echo(f"{service} is no longer offered", err=True)
        return
    ask(socket, ExposeRequest(service=service, port=port, allow=list(allow)), Reply)
    click.echo(f"{service} is port {port} here, for {', '.join(allow) or 'anyone'}", err=True)


@click.command()
@click.argument("local_port", type=click.IntRange(0, 65535))
@click.argument("name")
@click.argument("service")
@click.option("--bind", default="127.0.0.1", show_default=True, help="Local address.")
@_TIMEOUT
@_CONFIG
def forward(
    local_port: int, name: str, service: str, bind: str, timeout: float, config: Path | None
) -> None:
    """Carry every connection to LOCAL_PORT of this machine to SERVICE of NAME.

    For programs that cannot be told an address; others do better with `wayside address`, whose
    data stays in the kernel.
    """
    from wayside import api
    from wayside.runtime.errors import WaysideError

    from .main import tell

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with api.connect(name, service, timeout=timeout, config=config) as connection:
                await asyncio.gather(
                    _pump(reader, connection.writer), _pump(connection.reader, writer)
                )
        except WaysideError as error:
            tell(error)
        finally:
            writer.close()

    async def serve() -> None:
        try:
            server = await asyncio.start_server(carry, bind, local_port)
        except OSError as error:
            raise WaysideError(
                f"{bind}:{local_port} cannot be listened on",
                why=error.strerror or str(error),
                hint="0 takes any free port",
                code="WS-1005",
            ) from error
        place = server.sockets[0].getsockname()
        click.echo(f"{place[0]}:{place[1]} leads to {service} of {name}", err=True)
        async with server:
            await server.serve_forever()

    asyncio.run(serve())


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one stream to another, and the end as well."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        writer.close()


async def _join_terminal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stdin to the writer, the reader to stdout; over when the other end has said all it has.

    Stdout is closed then, so that who reads it (ssh) knows. What comes out of stdin without a
    pause, such as the rest of a file, still goes out.
    """
    sent = _Sent()
    outgoing = asyncio.create_task(_send_stdin(writer, sent))
    try:
        while data := await reader.read(CHUNK_BYTES):
            # In a thread: stdout may block, and must not hold up what we send.
            await asyncio.to_thread(_write_all, sys.stdout.fileno(), data)
        _close_stdout()
        before = -1
        while not outgoing.done() and sent.bytes != before:
            before = sent.bytes
            await asyncio.wait({outgoing}, timeout=PAUSE_S)
    finally:
        outgoing.cancel()
        await asyncio.gather(outgoing, return_exceptions=True)


@dataclass(slots=True)
class _Sent:
    bytes: int = 0


async def _send_stdin(writer: asyncio.StreamWriter, sent: _Sent) -> None:
    fd = sys.stdin.fileno()
    while data := await _read_ready(fd):
        writer.write(data)
        await writer.drain()
        sent.bytes += len(data)
    if writer.can_write_eof():
        writer.write_eof()


async def _read_ready(fd: int) -> bytes:
    """Read when there is something; files, which epoll does not take, always have something."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    wake: Callable[[], None] = ready.set
    try:
        loop.add_reader(fd, wake)
    except PermissionError:
        return os.read(fd, CHUNK_BYTES)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, CHUNK_BYTES)


def _close_stdout() -> None:
    """Let the reader of our stdout see its end, and keep the descriptor in use."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
