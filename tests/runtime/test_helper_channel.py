import asyncio
import os
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wayside.kernel.plan import KernelError
from wayside.runtime import helper as helper_process
from wayside.runtime.helper_channel import HelperChannel
from wayside.runtime.helper_client import Helper
from wayside.runtime.helper_messages import (
    LENGTH,
    Done,
    Failed,
    HostSetup,
    ListRules,
    PackedDiagnosis,
    RouteBySource,
)


def frame(answer: Done | Failed) -> bytes:
    body = msgspec.msgpack.Encoder().encode(answer)
    return LENGTH.pack(len(body)) + body


def named(name: str, sockets: list[str] | None = None) -> Done:
    return Done(sockets=sockets or [], diagnoses=[PackedDiagnosis(name, "", "")])


def name_of(done: Done) -> str:
    return done.diagnoses[0].where


def played(play: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(play, 5.0))


async def asked(channel: HelperChannel, count: int) -> list[asyncio.Task[tuple[Done, list[int]]]]:
    tasks = [asyncio.create_task(channel.exchange(ListRules())) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_requests_do_not_wait_for_each_other_and_answers_come_in_order() -> None:
    async def play() -> None:
        ours, theirs = socket.socketpair()
        channel = HelperChannel(ours)
        tasks = await asked(channel, 3)
        sent = theirs.recv(1000)
        assert sent.count(b"ListRules") == 3
        data = b"".join(frame(named(name)) for name in "abc")
        theirs.send(data[:7])
        await asyncio.sleep(0)
        theirs.send(data[7:])
        assert [name_of(done) for done, _ in await asyncio.gather(*tasks)] == ["a", "b", "c"]
        channel.close()
        theirs.close()

    played(play())


def test_a_failure_is_for_its_own_caller() -> None:
    async def play() -> None:
        ours, theirs = socket.socketpair()
        channel = HelperChannel(ours)
        tasks = await asked(channel, 2)
        theirs.send(frame(Failed("no such thing", "look again")) + frame(named("b")))
        bad, good = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, KernelError)
        assert (bad.what, bad.hint) == ("no such thing", "look again")
        assert not isinstance(good, BaseException)
        assert name_of(good[0]) == "b"
        channel.close()
        theirs.close()

    played(play())


def test_who_is_cancelled_takes_no_answer_of_another_and_leaks_no_descriptor() -> None:
    async def play() -> None:
        ours, theirs = socket.socketpair()
        channel = HelperChannel(ours)
        first, second = await asked(channel, 2)
        first.cancel()
        read, write = os.pipe()
        body = frame(named("a", ["signaling_v4"]))
        socket.send_fds(theirs, [body[:4]], [write])
        os.close(write)
        theirs.send(body[4:] + frame(named("b")))
        done, descriptors = await second
        assert (name_of(done), descriptors) == ("b", [])
        assert os.read(read, 1) == b"", "the last writer is closed"
        os.close(read)
        channel.close()
        theirs.close()

    played(play())


def test_a_large_request_is_sent_whole_while_the_helper_is_slow() -> None:
    async def play() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        channel = HelperChannel(ours)
        tasks = await asked(channel, 30_000)
        got = bytearray()
        while got.count(b"ListRules") < len(tasks):
            got += await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
        theirs.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {KernelError}
        channel.close()

    played(play())


def test_when_the_helper_is_gone_everyone_hears_it_and_later_ones_at_once() -> None:
    async def play() -> None:
        ours, theirs = socket.socketpair()
        channel = HelperChannel(ours)
        tasks = await asked(channel, 2)
        theirs.close()
        for task in tasks:
            with pytest.raises(KernelError, match="helper is gone"):
                await task
        with pytest.raises(KernelError, match="helper is gone"):
            await channel.exchange(ListRules())
        channel.close()

    played(play())


def test_what_lies_where_the_daemon_is_started_is_not_imported_by_its_helper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper has privileges, and `sudo wayside host` may be said in any directory."""
    (tmp_path / "msgspec.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    helper = Helper.start()
    helper.close()
    helper._process.wait(20)
    assert [path.name for path in tmp_path.iterdir()] == ["msgspec.py"]


@pytest.mark.parametrize(
    "prefix", ["fd77::%x\n}; flush ruleset/48", "fd77::%x/48", "::/0", "fd77::/64"]
)
def test_a_helper_takes_a_prefix_for_virtual_addresses_only_as_it_is_written(prefix: str) -> None:
    """Its text becomes nftables'."""
    HostSetup("198.18.0.1", "fd77::1", "198.18.0.0/15", "fd77::/48")
    with pytest.raises(ValueError, match="zone"):
        HostSetup("198.18.0.1", "fd77::1", "198.18.0.0/15", prefix)


def test_a_helper_survives_what_it_did_not_foresee(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(5, "no socket for it")

    monkeypatch.setattr(helper_process, "route_by_source", fail)
    answer, _ = helper_process.Helper().perform(RouteBySource())
    assert isinstance(answer, Failed)
    assert "no socket for it" in answer.what
