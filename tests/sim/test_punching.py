"""The worlds where every host is behind a NAT that says nothing, and what it takes there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wayside.core.address import Flow, Transport
from wayside.core.answerer import Answerer
from wayside.core.codec import Header
from wayside.core.constants import SIGNALING_PORT
from wayside.core.effects import SendDatagram
from wayside.core.events import DatagramReceived
from wayside.core.host import Host
from wayside.core.messages import Open, decode, padded
from wayside.core.opening import CheckedOpen
from wayside.kernel.packets import Packet, build_syn
from wayside.sim import host, rendezvous
from wayside.sim.application import Expect
from wayside.sim.box import Box
from wayside.sim.calling import called_in
from wayside.sim.watch import Step
from wayside.sim.wire import is_punch
from wayside.sim.world import World

SEEDS = range(3, 7)
WORLDS = pytest.mark.parametrize("name", ["legacy-nats", "called"])


@WORLDS
def test_behind_such_nats_tcp_and_udp_are_answered(name: str) -> None:
    """R-12.6 to R-12.8: with all that goes wrong, and all checkers content.

    A program that signals itself does not know its kernel's SYN: TCP is refused to it.
    """
    answers = {Transport.UDP: 0, Transport.TCP: 0}
    refused = 0
    for seed in SEEDS:
        world = World(name, seed)
        result = world.run()
        assert result.ok, (seed, result.check, result.why)
        for client in world.layout.wanted:
            answers[client.wanted.transport] += client.progress.answers
            if client.wanted.expect is Expect.REFUSED:
                assert not client.can_survive
                assert client.progress.answers == 0
                refused += client.progress.refused_at > 0
    assert all(answers.values())
    assert refused > 0


def never(_: Packet) -> bool:
    return False


def checks(name: str) -> set[str]:
    return {World(name, seed, ()).run().check for seed in SEEDS}


@WORLDS
def test_without_a_punch_nobody_is_answered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-12.6: at a NAT whose filter looks where packets come from. A control."""

    def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(Answerer, "_punch", nothing)
    found = checks(name)
    assert "liveness" in found
    assert found <= {"", "liveness"}


@WORLDS
def test_a_punch_with_another_number_than_the_answers_lets_no_tcp_in(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-12.8: what is delivered is as it was; only the punch is not. A control."""

    def beside(flow: Flow, header: bytes, urgent: int) -> bytes | None:
        number = (int.from_bytes(header[4:8], "big") + 1) % 2**32
        return build_syn(flow, header[:4] + number.to_bytes(4, "big") + header[8:], urgent)

    monkeypatch.setattr("wayside.sim.box.build_syn", beside)
    found = checks(name)
    assert "liveness" in found
    assert found <= {"", "liveness"}


@pytest.mark.parametrize("drops", [True, False])
@WORLDS
def test_punches_come_to_no_application(
    name: str, drops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-12.6, R-12.8: whatever rules there are. Boxes that do not drop them are the control."""
    for module in (host, rendezvous) if not drops else ():
        monkeypatch.setattr(module, "is_punch", never)
    came: list[Transport] = []
    for seed in SEEDS:
        world = World(name, seed, ())
        for box in world.layout.clients:
            deliver = box.sockets.deliver

            def look(packet: Packet, to: Callable[[Packet], bool] = deliver) -> bool:
                if is_punch(packet):
                    came.append(packet.flow.transport)
                    return True
                return to(packet)

            monkeypatch.setattr(box.sockets, "deliver", look)
        world.run()
    assert set(came) == (set() if drops else {Transport.TCP, Transport.UDP})


@pytest.mark.parametrize("forged", [True, False], ids=["by somebody else", "not approved"])
def test_a_host_that_opens_its_nat_for_anybody_is_caught(
    forged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-12.7: its own rendezvous calls it, and shows that it has approved that."""
    world = World("called", 3, ())
    tell = world.watch.on_step

    def look(step: Step) -> None:
        tell(step)
        event = step.event
        if not isinstance(step.machine, Host) or not isinstance(event, DatagramReceived):
            return
        if event.data[4] != Open.TYPE or not called_in(event.data):
            return
        monkeypatch.setattr(world.watch, "on_step", tell)
        monkeypatch.setattr(Host, "_called", opens)
        again = replace(event, data=by_nobody(event.data)) if forged else event
        box = world.network.nodes[step.site.name]
        assert isinstance(box, Box)
        assert box.driver is not None
        if not forged:
            world.said.approvals.clear()
        box.driver.deliver(again)

    monkeypatch.setattr(world.watch, "on_step", look)
    result = world.run()
    assert result.check == "calls"
    assert "not its rendezvous" in result.why if forged else "approved" in result.why


def opens(self: Host, event: Any, hops: Any, opened: CheckedOpen, now: float) -> SendDatagram:
    """Asks nobody."""
    there = opened.source.with_port(SIGNALING_PORT)
    return SendDatagram(Header(0, 0, event.header.cid).signing, there)


def by_nobody(data: bytes) -> bytes:
    """The same call, with another key in its record."""
    header, message = decode(data)
    assert isinstance(message, Open)
    hops = (replace(message.hops[-1], key=bytes(32)),)
    return padded(header, Open(message.signed, message.signature, hops, message.mac))
