"""The control socket: a line in, a line out, and nothing that a caller does harms the daemon."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from wayside.kernel.plan import KernelError
from wayside.runtime import control
from wayside.runtime.control import ControlServer, ask, ask_async, error_of, refusal
from wayside.runtime.control_types import (
    AddressReply,
    AddressRequest,
    CloseRequest,
    ConnectionRecord,
    ErrorReply,
    ExposeRequest,
    OpenReply,
    OpenRequest,
    RefusalRecord,
    ReloadRequest,
    Reply,
    Request,
    ServiceRecord,
    StatusReply,
    StatusRequest,
    UnexposeRequest,
    WhyReply,
    WhyRequest,
)
from wayside.runtime.errors import AgentNotRunning, NameUnknown, NoAnswer, Refused, WaysideError


async def answer(request: Request) -> Reply:
    match request:
        case AddressRequest(name="server.lab", family=family):
            return AddressReply(address="198.18.0.2" if family == 4 else "fd00::2")
        case AddressRequest(name=name):
            raise NameUnknown(f"{name} is not known", hint="add it to [peers]")
        case OpenRequest():
            raise Refused.by("gate1", 1, rule="no-telnet", reason="not encrypted")
        case ReloadRequest():
            raise ZeroDivisionError
        case UnexposeRequest():
            raise KernelError("nftables refused", "look at the ruleset")
        case CloseRequest():
            await asyncio.Event().wait()
        case _:
            pass
    return Reply()


def served(tmp_path: Path, talk: Callable[[Path], Awaitable[None]]) -> None:
    """Run a conversation with a server on a socket of its own."""

    async def run() -> None:
        server = ControlServer(tmp_path / "run" / "host.sock", answer)
        await server.start()
        try:
            async with asyncio.timeout(10):
                await talk(server.path)
        finally:
            await server.stop()

    asyncio.run(run())


async def raw(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    try:
        return await reader.readline()
    except ConnectionResetError:  # hung up on before our line was read
        return b""
    finally:
        writer.close()


def test_a_request_is_answered_on_one_line(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        line = await raw(path, b'{"v":1,"op":"address","name":"server.lab"}\n')
        assert json.loads(line) == {"v": 1, "ok": True, "address": "198.18.0.2"}

    served(tmp_path, talk)


def test_both_clients_get_the_reply(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        request = AddressRequest(name="server.lab", family=6)
        assert (await ask_async(path, request, AddressReply)).address == "fd00::2"
        assert (await asyncio.to_thread(ask, path, request, AddressReply)).address == "fd00::2"

    served(tmp_path, talk)


def test_an_error_comes_out_as_what_it_was(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        with pytest.raises(NameUnknown) as unknown:
            await ask_async(path, AddressRequest(name="x.lab"), AddressReply)
        assert (unknown.value.what, unknown.value.hint) == (
            "x.lab is not known",
            "add it to [peers]",
        )
        with pytest.raises(Refused) as refused:
            await ask_async(path, OpenRequest(name="server.lab", service="telnet"), OpenReply)
        assert (refused.value.gate, refused.value.rule) == ("gate1", "no-telnet")
        assert refused.value.exit_code == 3

    served(tmp_path, talk)


def test_a_bug_in_the_daemon_is_told_and_the_daemon_goes_on(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        with pytest.raises(WaysideError, match="the daemon failed") as caught:
            await ask_async(path, ReloadRequest(), Reply)
        assert caught.value.exit_code == 1
        await ask_async(path, StatusRequest(), Reply)

    served(tmp_path, talk)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"no json\n",
        b"[]\n",
        b'{"v":1,"op":"dance"}\n',
        b'{"v":2,"op":"status"}\n',
        b'{"v":1,"op":"status","extra":1}\n',
        b'{"v":1,"op":"close","cid":"../x"}\n',
        b'{"v":1,"op":"expose","service":"x","port":0}\n',
        b'{"v":1,"op":"address","name":"' + b"x" * 300 + b'"}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_request_is_refused_as_one(tmp_path: Path, line: bytes) -> None:
    async def talk(path: Path) -> None:
        reply = msgspec.json.decode(await raw(path, line), type=ErrorReply)
        assert (reply.ok, reply.error.code, reply.error.exit_code) == (False, "WS-2001", 2)

    served(tmp_path, talk)


def test_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        assert await raw(path, b"x" * (2 * control.REQUEST_BYTES_MAX)) == b""
        await ask_async(path, StatusRequest(), Reply)

    served(tmp_path, talk)


def test_a_silent_caller_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_S", 0.01)

    async def talk(path: Path) -> None:
        assert await raw(path, b"") == b""

    served(tmp_path, talk)


def test_callers_have_a_cap_and_leaving_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CALLERS_MAX", 1)
    line = b'{"v":1,"op":"status"}\n'

    async def talk(path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(line)
        await reader.readline()
        assert await raw(path, line) == b""
        writer.close()
        while not await raw(path, line):
            await asyncio.sleep(0)

    served(tmp_path, talk)


def refuse(*_: object) -> bool:
    return False


def no_groups(_: socket.socket) -> tuple[int, ...]:
    return ()


def test_a_stranger_is_not_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlServer, "_is_allowed", refuse)

    async def talk(path: Path) -> None:
        with pytest.raises(AgentNotRunning) as caught:
            await ask_async(path, StatusRequest(), Reply)
        assert caught.value.code == "WS-7002"

    served(tmp_path, talk)


def test_another_user_is_let_in_by_the_group_of_the_socket_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.geteuid(), os.getegid()
    monkeypatch.setattr(control, "_groups_of", no_groups)

    def verdict(uid: int, gid: int) -> bool:
        caller = Mock(spec=socket.socket)
        caller.getsockopt.return_value = control._CREDENTIALS.pack(1, uid, gid)
        writer = Mock(spec=asyncio.StreamWriter)
        writer.get_extra_info.return_value = caller
        path = tmp_path / "socket"
        path.touch()
        return ControlServer(path, answer)._is_allowed(writer)

    assert verdict(0, 77)
    assert verdict(ours[0], 77)
    assert verdict(77, ours[1])
    assert not verdict(77, 77)


def test_the_socket_is_for_its_owner_and_group_and_goes_with_the_daemon(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

    served(tmp_path, talk)
    assert not (tmp_path / "run" / "host.sock").exists()


def test_a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run" / "host.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def talk(path: Path) -> None:
        await ask_async(path, StatusRequest(), Reply)
        with pytest.raises(WaysideError, match="another daemon") as caught:
            await ControlServer(path, answer).start()
        assert caught.value.code == "WS-1005"
        await ask_async(path, StatusRequest(), Reply)

    served(tmp_path, talk)


def test_nobody_there_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(AgentNotRunning) as caught:
        ask(tmp_path / "none.sock", StatusRequest(), Reply)
    assert caught.value.exit_code == 7
    assert "wayside host" in caught.value.hint


def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        with pytest.raises(NoAnswer):
            await ask_async(path, CloseRequest(cid="0" * 32), Reply, timeout_s=0.01)
        with pytest.raises(NoAnswer):
            await asyncio.to_thread(ask, path, CloseRequest(cid="0" * 32), Reply, 0.01)

    served(tmp_path, talk)


def test_errors_survive_the_journey_whole() -> None:
    for error in (
        NameUnknown("what", why="why", hint="hint"),
        Refused("what", gate="g", rule="r", reason="why", hint="hint", code="WS-3006"),
    ):
        back = error_of(refusal(error).error)
        assert type(back) is type(error)
        assert str(back) == str(error)


def test_the_shape_of_every_reply_is_what_programs_rely_on() -> None:
    """A snapshot: a change here needs a new `v`, unless it only adds a field."""
    connection = ConnectionRecord(
        cid="0" * 32, peer="p", service="s", transport="tcp", state="CONNECTED", flow="f", wire="w"
    )
    status = StatusReply(
        role="host",
        name="n",
        key="k",
        pid=1,
        uptime_s=1.0,
        connections_total=1,
        connections=[connection],
        services=[ServiceRecord(service="s", port=1)],
    )
    said = {"target": "t", "service": "s", "transport": "tcp", "by": "g", "rule": "r"}
    why = WhyReply(refusals=[RefusalRecord(age_s=1.0, reason="why", code="WS-3001", **said)])
    assert shape(status) == {
        "v": "int",
        "ok": "bool",
        "role": "str",
        "name": "str",
        "key": "str",
        "pid": "int",
        "uptime_s": "float",
        "connections_total": "int",
        "connections": [
            dict.fromkeys(["cid", "peer", "service", "transport", "state", "flow", "wire"], "str")
            | {
                "expires_s": "NoneType",
                "packets": "int",
                "bytes": "int",
                "there": "str",
                "via": [],
                "redirected_by": [],
                "hidden": "bool",
                "moves": "int",
                "gap_ms": "NoneType",
                "stands": "str",
                "alternatives": [],
                "subflows": [],
            }
        ],
        "services": [{"service": "str", "port": "int", "allow": []}],
        **{key: [] for key in ("addresses", "registrations", "filters")},
        **{"dropped": {}, "refused_total": "int", "tickets": "int"},
    }
    assert shape(why)["refusals"] == [
        dict.fromkeys(["target", "service", "transport", "by", "rule"], "str")
        | {"age_s": "float", "reason": "str", "code": "str", "hint": "str"}
    ]
    assert set(shape(WhyRequest())) == {"v", "op", "target"}
    assert set(shape(ExposeRequest(service="s", port=1))) == {"v", "op", "service", "port", "allow"}


def shape(value: object) -> dict[str, object]:
    def kinds(item: object) -> object:
        if isinstance(item, dict):
            return {key: kinds(part) for key, part in item.items()}
        if isinstance(item, list):
            return [kinds(part) for part in item]
        return type(item).__name__

    found = kinds(json.loads(msgspec.json.encode(value)))
    assert isinstance(found, dict)
    return found


def test_what_the_kernel_refused_is_told_as_that_with_its_hint(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        with pytest.raises(WaysideError) as caught:
            await ask_async(path, UnexposeRequest(service="x"), Reply)
        told = caught.value
        assert (told.what, told.hint, told.code) == (
            "nftables refused",
            "look at the ruleset",
            "WS-1002",
        )

    served(tmp_path, talk)
