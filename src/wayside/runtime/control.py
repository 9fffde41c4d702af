"""The control socket: how the command line and the Python interface talk to a daemon.

A unix stream socket of mode 0660. A request is one JSON object on a line, `{"v":1,"op":...}`; the
answer is one line too, `{"v":1,"ok":true,...}` or `{"v":1,"ok":false,"error":{...}}`. Whoever
connects must be root, the daemon's own user, or in the socket's group (SO_PEERCRED, and not only
the file's mode). Lines, callers, and the time a caller may take have caps, so that a stuck program
does not hold up the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import structlog

from wayside.kernel.plan import KernelError

from .control_types import ErrorRecord, ErrorReply, Reply, Request
from .errors import AgentNotRunning, NoAnswer, Refused, WaysideError, error_of_code

R = TypeVar("R", bound=Reply)
Answer = Callable[[Request], Awaitable[Reply]]

REQUEST_BYTES_MAX = 16 * 1024
"""The longest request, an `expose` with a long list of names, has 2 KiB."""

REPLY_BYTES_MAX = 4 * 1024 * 1024
"""`status` with the most connections that it lists: 10,000 of 300 bytes."""

CALLERS_MAX = 64
"""At once; a program asks and leaves, or keeps one connection."""

IDLE_S = 60.0
"""A caller that says nothing for so long is dropped."""

_CREDENTIALS = struct.Struct("3i")
_REQUESTS = msgspec.json.Decoder(Request)
_log = structlog.get_logger()


class ControlServer:
    """Answers requests on a unix socket; `answer` turns one request into its reply.

    A WaysideError out of `answer` becomes the reply; anything else is logged and told as WS-1001.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self._answer = answer
        self._callers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises WaysideError: WS-1005 a daemon lives here, WS-1006 not allowed."""
        listener = _bound(self.path)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=REQUEST_BYTES_MAX
        )

    async def stop(self) -> None:
        """Stop listening, hang up on whoever is there, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        for task in self._callers:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._callers.add(task)
        try:
            if len(self._callers) <= CALLERS_MAX and self._is_allowed(writer):
                await self._talk(reader, writer)
        except (OSError, TimeoutError, ValueError):
            pass  # gone, silent for too long, or a line without an end
        except asyncio.CancelledError:
            pass  # stop() ends us; asyncio would log a cancelled caller as an error
        finally:
            self._callers.discard(task)
            writer.close()

    def _is_allowed(self, writer: asyncio.StreamWriter) -> bool:
        caller: socket.socket = writer.get_extra_info("socket")
        raw = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, gid = _CREDENTIALS.unpack(raw)
        if uid in (0, os.geteuid()):
            return True
        return self.path.stat().st_gid in {gid, *_groups_of(caller)}

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_S):
                line = await reader.readline()
            if not line:
                return
            writer.write(await self._reply_line(line))
            async with asyncio.timeout(IDLE_S):
                await writer.drain()

    async def _reply_line(self, line: bytes) -> bytes:
        try:
            reply = await self._answer(_REQUESTS.decode(line))
        except msgspec.MsgspecError as error:
            reply = refusal(WaysideError("not a request", why=str(error), code="WS-2001"))
        except WaysideError as error:
            reply = refusal(error)
        except KernelError as error:
            reply = refusal(WaysideError(error.what, hint=error.hint, code="WS-1002"))
        except Exception as error:
            _log.exception("request failed", request=line[:200])
            reply = refusal(WaysideError("the daemon failed", why=repr(error)))
        return msgspec.json.encode(reply) + b"\n"


def ask(path: Path, request: Request, kind: type[R], timeout_s: float = 10.0) -> R:
    """Ask a daemon one thing, and wait for the answer.

    Raises AgentNotRunning when nobody listens, NoAnswer after `timeout_s`, and whatever
    WaysideError the daemon answered with.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as stream:
        stream.settimeout(timeout_s)
        try:
            stream.connect(str(path))
            stream.sendall(msgspec.json.encode(request) + b"\n")
            with stream.makefile("rb") as file:
                line = file.readline(REPLY_BYTES_MAX)
        except TimeoutError as error:
            raise _silent(path, timeout_s) from error
        except OSError as error:
            raise unreachable(path, error) from error
    return decode_reply(path, line, kind)


async def ask_async(path: Path, request: Request, kind: type[R], timeout_s: float = 10.0) -> R:
    """As `ask`, for programs with an event loop."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=REPLY_BYTES_MAX)
            writer.write(msgspec.json.encode(request) + b"\n")
            line = await reader.readline()
    except TimeoutError as error:
        raise _silent(path, timeout_s) from error
    except OSError as error:
        raise unreachable(path, error) from error
    finally:
        if writer is not None:
            writer.close()
    return decode_reply(path, line, kind)


def decode_reply(path: Path, line: bytes, kind: type[R]) -> R:
    """Read a reply line. Raises the error that it carries."""
    if not line:
        raise _hung_up(path)
    try:
        if not msgspec.json.decode(line, type=_Head).ok:
            raise error_of(msgspec.json.decode(line, type=ErrorReply).error)
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        raise WaysideError(
            f"the daemon at {path} speaks another version",
            why=str(error),
            hint="restart it after an upgrade",
        ) from error


class _Head(msgspec.Struct):
    ok: bool
    v: Literal[1]


def refusal(error: WaysideError) -> ErrorReply:
    """An error as a reply."""
    facts = (
        {"gate": error.gate, "rule": error.rule, "reason": error.reason}
        if isinstance(error, Refused)
        else {}
    )
    return ErrorReply(
        ErrorRecord(error.what, error.why, error.hint, error.code, error.exit_code, **facts)
    )


def error_of(record: ErrorRecord) -> WaysideError:
    """The error that a reply carries, as it was raised in the daemon."""
    if record.gate:
        return Refused(
            record.what,
            gate=record.gate,
            rule=record.rule,
            reason=record.reason,
            hint=record.hint,
            code=record.code,
        )
    return error_of_code(record.code, what=record.what, why=record.why, hint=record.hint)


def unreachable(path: Path, error: OSError) -> WaysideError:
    """The error for a control socket that cannot be talked to."""
    if isinstance(error, PermissionError):
        return AgentNotRunning(
            f"the daemon at {path} does not talk to you",
            why=error.strerror or "",
            hint="join the group of the socket, or use sudo",
            code="WS-7002",
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return _hung_up(path)
    return AgentNotRunning(
        "the agent is not running",
        why=f"{path}: {error.strerror or error}",
        hint="start `wayside host --config host.toml`, or name its socket with --socket",
    )


def _hung_up(path: Path) -> AgentNotRunning:
    return AgentNotRunning(
        f"the daemon at {path} hung up",
        why="you are not in the group of its socket, or too many programs ask at once",
        code="WS-7002",
    )


def _silent(path: Path, timeout_s: float) -> NoAnswer:
    return NoAnswer(
        f"the daemon at {path} did not answer in {timeout_s:g} s", hint="wayside status"
    )


def _bound(path: Path) -> socket.socket:
    """A listening socket of mode 0660; what a killed daemon left behind is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            _refuse_if_alive(path)
            path.unlink()
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        listener.close()
        raise WaysideError(
            f"the control socket {path} cannot be made",
            why=error.strerror or str(error),
            hint="choose another with --socket or `socket` in the configuration",
            code="WS-1006",
        ) from error
    except WaysideError:
        listener.close()
        raise
    return listener


def _refuse_if_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with contextlib.suppress(OSError):
            probe.connect(str(path))
            raise WaysideError(
                f"another daemon listens on {path}",
                hint="stop it, or choose another socket with --socket",
                code="WS-1005",
            )


def _groups_of(caller: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the process at the other end (SO_PEERGROUPS, Linux 4.13)."""
    peer_groups = 59
    raw = caller.getsockopt(socket.SOL_SOCKET, peer_groups, 4096)
    return struct.unpack(f"{len(raw) // 4}I", raw)
