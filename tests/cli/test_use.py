"""connect and listen join a connection to stdin and stdout, whatever those are."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from wayside import api
from wayside.cli.main import run
from wayside.runtime.errors import Refused

BYTES = os.urandom(1_000_000)


class File:
    """Stands for sys.stdin or sys.stdout: all that is asked of it is its number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def flush(self) -> None: ...


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Generator[int]:
    """A TCP server for one connection, in a thread; the port it is on."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        thread.join(timeout=10)
        assert not thread.is_alive()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def joined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve: Callable[[socket.socket], None], fd: int
) -> bytes:
    """What `wayside connect` writes to stdout, with stdin from a descriptor."""
    with peer(serve) as port, (tmp_path / "out").open("w+b") as out:

        @asynccontextmanager
        async def connect(name: str, service: str, **_: Any) -> AsyncGenerator[api.Connection]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with api.Connection(reader, writer, name, service, rebinds=False) as connection:
                yield connection

        monkeypatch.setattr(api, "connect", connect)
        monkeypatch.setattr(sys, "stdin", File(fd))
        monkeypatch.setattr(sys, "stdout", File(out.fileno()))
        assert run(["connect", "server.lab", "echo"]) == 0
    return (tmp_path / "out").read_bytes()


def test_a_file_goes_out_and_comes_back_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(BYTES)
    with (tmp_path / "in").open("rb") as source:
        assert joined(monkeypatch, tmp_path, echo, source.fileno()) == BYTES


def test_a_pipe_goes_out_and_comes_back_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, sink = os.pipe()

    def write() -> None:
        with os.fdopen(sink, "wb") as file:
            file.write(BYTES)

    thread = threading.Thread(target=write)
    thread.start()
    assert joined(monkeypatch, tmp_path, echo, source) == BYTES
    thread.join(timeout=10)
    os.close(source)


def test_it_ends_when_the_other_end_has_said_all_though_stdin_stays_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, sink = os.pipe()
    said = joined(monkeypatch, tmp_path, lambda connection: connection.sendall(b"bye"), source)
    assert said == b"bye"
    os.close(source)
    os.close(sink)


def test_listen_joins_one_connection_and_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed: list[str] = []

    with peer(lambda connection: connection.sendall(b"hello")) as port:

        async def listen(service: str, *_: object, **__: object) -> AsyncGenerator[api.Connection]:
            try:
                for _attempt in range(2):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    yield api.Connection(reader, writer, "a.lab", service, rebinds=False)
            finally:
                closed.append(service)

        monkeypatch.setattr(api, "listen", listen)
        with (tmp_path / "in").open("w+b") as source, (tmp_path / "out").open("w+b") as out:
            monkeypatch.setattr(sys, "stdin", File(source.fileno()))
            monkeypatch.setattr(sys, "stdout", File(out.fileno()))
            assert run(["listen", "greeting"]) == 0
    assert (tmp_path / "out").read_bytes() == b"hello"
    assert closed == ["greeting"]


def test_a_refusal_is_exit_3_and_names_who_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def connect(*_: object, **__: object) -> AsyncGenerator[api.Connection]:
        raise Refused.by("gate1", 1, rule="no-telnet", reason="not \x1b[31mencrypted")
        yield

    monkeypatch.setattr(api, "connect", connect)
    assert run(["connect", "server.lab", "telnet"]) == 3
    assert capsys.readouterr().err == (
        "error: refused by policy: gate1, rule no-telnet: not ?[31mencrypted [WS-3001]\n"
        "hint: wayside explain WS-3001\n"
    )


def test_forward_says_when_its_port_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["forward", str(port), "server.lab", "echo"]) == 1
    assert "[WS-1005]\nhint: " in capsys.readouterr().err
