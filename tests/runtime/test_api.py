"""The Python interface without an agent: both ends signal from inside this process, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import wayside
from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text
from wayside.runtime.in_process import InProcess
from wayside.runtime.keyfile import new_key


@dataclass(frozen=True)
class Pair:
    """The configuration files of two hosts; the asking one knows the other as `server.lab`."""

    asking: Path
    answering: Path
    key: SigningKey


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    port = free_port(socket.SOCK_DGRAM)
    server = new_key(tmp_path / "server.key")
    client = new_key(tmp_path / "client.key")
    answering = tmp_path / "server.toml"
    answering.write_text(f'key = "server.key"\nlisten = {port}\n')
    asking = tmp_path / "client.toml"
    asking.write_text(
        'key = "client.key"\n[peers."server.lab"]\n'
        f'key = "{key_text(server.public)}"\naddresses = ["127.0.0.1:{port}"]\n'
    )
    return Pair(asking, answering, client)


async def with_listener(
    pair: Pair, run: Callable[[], Awaitable[None]], allow: tuple[str, ...] = ()
) -> list[str]:
    """Offer `echo` (upper-case) while `run` runs; who was connected."""
    peers: list[str] = []
    listening = wayside.listen("echo", allow=allow, config=pair.answering)

    async def serve() -> None:
        async for connection in listening:
            async with connection:
                peers.append(connection.peer)
                connection.writer.write((await connection.reader.readline()).upper())
                await connection.writer.drain()

    task = asyncio.ensure_future(serve())
    try:
        await run()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await listening.aclose()
    return peers


def test_two_programs_talk_without_an_agent_and_say_that_they_cannot_move(pair: Pair) -> None:
    async def talk() -> None:
        async with wayside.connect("server.lab", "echo", config=pair.asking) as connection:
            connection.writer.write(b"hello\n")
            assert await connection.reader.readline() == b"HELLO\n"
            assert not connection.rebinds
            assert connection.sock.getpeername()[0] == "127.0.0.1"

    assert asyncio.run(with_listener(pair, talk)) == [key_text(pair.key.public)]


def test_a_refusal_names_who_and_why_and_is_no_timeout(pair: Pair) -> None:
    async def ask(service: str) -> None:
        async with wayside.connect(service=service, name="server.lab", config=pair.asking):
            raise AssertionError("not to be let in")

    async def both() -> None:
        with pytest.raises(wayside.Refused, match="no such service") as refused:
            await ask("gopher")
        assert refused.value.exit_code == 3
        with pytest.raises(wayside.Refused) as refused:
            await ask("echo")
        assert refused.value.rule == "echo"
        assert "not for" in refused.value.reason

    assert asyncio.run(with_listener(pair, both, allow=("files.lab",))) == []


def test_a_stranger_who_was_not_signaled_is_hung_up_on(pair: Pair) -> None:
    async def knock() -> None:
        async with wayside.connect("server.lab", "echo", config=pair.asking) as connection:
            place = connection.sock.getpeername()
            reader, writer = await asyncio.open_connection(*place)
            said = b""
            with contextlib.suppress(ConnectionResetError):
                said = await reader.read()
            assert said == b""
            writer.close()

    assert len(asyncio.run(with_listener(pair, knock))) == 1


def test_an_unknown_name_and_a_silent_host_are_told_apart(pair: Pair) -> None:
    async def ask(name: str) -> None:
        async with wayside.connect(name, "echo", timeout=0.3, config=pair.asking):
            raise AssertionError("nobody is there")

    with pytest.raises(wayside.NameUnknown, match="no address is known"):
        asyncio.run(ask("nobody.lab"))
    with pytest.raises(wayside.NoAnswer):
        asyncio.run(ask("server.lab"))


def test_a_redirected_connection_goes_to_where_it_was_sent_on(tmp_path: Path) -> None:
    """R-5.7.1: the host itself says that it is elsewhere; the socket goes there."""
    first, second = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    server = new_key(tmp_path / "server.key")
    new_key(tmp_path / "client.key")
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(f'key = "server.key"\nlisten = {second}\n')
    home = tmp_path / "home.toml"
    home.write_text(
        f'key = "server.key"\nlisten = {first}\nhome = "127.0.0.2:{second}"\n'
        f'approvers = ["{key_text(server.public)}"]\n'
    )
    asking = tmp_path / "asking.toml"
    asking.write_text(
        'key = "client.key"\n[peers."server.lab"]\n'
        f'key = "{key_text(server.public)}"\naddresses = ["127.0.0.1:{first}"]\n'
    )

    async def talk() -> None:
        async with wayside.connect("server.lab", "echo", config=asking) as connection:
            connection.writer.write(b"hello\n")
            assert await connection.reader.readline() == b"HELLO\n"
            assert connection.sock.getpeername()[0] == "127.0.0.2"

    async def once_there() -> None:
        async with asyncio.timeout(20):
            while True:  # until the service is offered
                with contextlib.suppress(wayside.Refused):
                    return await talk()

    async def both() -> None:
        async with InProcess.from_config(home, answers=True):
            assert await with_listener(Pair(asking, elsewhere, server), once_there)

    asyncio.run(both())


def test_a_name_that_nobody_can_look_up_is_said_to_be_unknown(tmp_path: Path) -> None:
    asking = tmp_path / "asking.toml"
    asking.write_text("")

    async def talk() -> None:
        async with wayside.connect("server.lab", "echo", config=asking):
            raise AssertionError("not to be let in")

    with pytest.raises(wayside.NameUnknown):
        asyncio.run(talk())
