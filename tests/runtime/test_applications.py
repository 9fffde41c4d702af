"""Applications' packets: taken in while there is no way, sent off when there is one again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pair import Pair
from wayside.core.address import Address, Flow, Transport
from wayside.core.connection import State
from wayside.core.effects import DeliverData, Punch, ReportOpened, ReportRefused
from wayside.core.events import DataAnswered, DatagramReceived
from wayside.core.host import Host
from wayside.core.messages import Code
from wayside.core.rule import Cid
from wayside.kernel.packets import Packet, build_ip, build_udp, parse_packet, with_checksum
from wayside.kernel.plan import Change, KernelError, Put, Remove
from wayside.runtime import applications
from wayside.runtime.applications import Applications
from wayside.runtime.eventlog import EventLog


class FakeTap:
    """What the host's stack would get, and what would go out."""

    def __init__(self, _: object, on_packet: Callable[[bytes], None], *__: object) -> None:
        self.hears = on_packet
        self.injected: list[bytes] = []
        self.released: list[bytes] = []
        self.sent: list[bytes] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def inject(self, packet: bytes) -> None:
        self.injected.append(packet)

    def release(self, packet: bytes) -> None:
        self.released.append(packet)

    def send(self, packet: bytes) -> None:
        self.sent.append(packet)


class Kernel:
    """Takes changes of rules, unless it is told not to."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.refuses = False

    async def apply(self, changes: Sequence[Change]) -> None:
        if self.refuses:
            raise KernelError("no")
        self.changes += changes

    async def look_up(self, matches: Sequence[Flow]) -> list[Any]:
        return []


class Stage:
    """A client whose connection is up, and what its agent does with packets."""

    def __init__(self, transport: Transport) -> None:
        self.pair = Pair(0, transport=transport).open()
        self.kernel = Kernel()
        self.asked: list[Packet] = []
        self.answered: list[DataAnswered | DatagramReceived] = []
        self.has_way = True
        host = self.pair.nodes["c"]
        assert isinstance(host, Host)
        log = EventLog(None, "c", "host")
        self.these = Applications(host, self.kernel, log, self._ask, self._close, self._answer)
        self.these.start(None)  # type: ignore[arg-type]
        tap = self.these._tap
        assert isinstance(tap, FakeTap)
        self.tap = tap
        self.connection = self.pair.connection("c")
        self.about = self.connection.agreement

    def _ask(self, cid: Cid, packet: Packet) -> bool:
        self.asked.append(packet)
        return self.has_way

    def _close(self, cid: Cid, why: str) -> None: ...

    def _answer(self, event: DataAnswered | DatagramReceived) -> None:
        self.answered.append(event)

    def says(self, data: bytes) -> bytes:
        """The application sends a packet; as it is."""
        flow = self.about.local
        packet = build_udp(flow, data) if flow.transport is Transport.UDP else segment(flow, data)
        self.tap.hears(packet)
        return packet

    def opened(self) -> ReportOpened:
        about = self.about
        return ReportOpened(
            about.cid, str(about.peer), about.service, about.wire, about.local, 120.0, True
        )


def segment(flow: Flow, data: bytes, flags: int = 0x18) -> bytes:
    ports = flow.source.port.to_bytes(2, "big") + flow.destination.port.to_bytes(2, "big")
    head = ports + bytes(8) + bytes([0x50, flags]) + bytes(6)
    return build_ip(flow.source.ip, flow.destination.ip, 6, head + data)


def is_open(_: Flow) -> bool:
    return True


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications, "Tap", FakeTap)
    monkeypatch.setattr(applications, "is_open", is_open)


def played(run: Callable[[Stage], Awaitable[None]], transport: Transport = Transport.TCP) -> Stage:
    made: list[Stage] = []

    async def inside() -> None:
        made.append(Stage(transport))
        await run(made[0])

    asyncio.run(inside())
    return made[0]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.MPTCP])
def test_what_has_no_way_is_taken_in_and_goes_when_there_is_a_new_one(
    transport: Transport,
) -> None:
    """The rule for packets going out is taken out, and put again: it is another one by then.

    R-2.5: packets of MPTCP are TCP's, and find what waits for their connection.
    """
    kept: list[bytes] = []

    async def run(stage: Stage) -> None:
        stage.these.hold([stage.connection])
        stage.these.hold([stage.connection])
        await settle()
        assert stage.kernel.changes == [Remove(rule) for rule in stage.about.outbound]
        kept.append(stage.says(b"again"))
        assert stage.tap.released == []
        stage.these.opened(stage.opened())
        await settle()

    stage = played(run, transport)
    assert stage.tap.released == kept
    assert stage.kernel.changes[1:] == [Put(rule) for rule in stage.about.outbound]


def test_of_too_much_the_newest_is_kept_and_what_a_link_would_cut_up_is_not() -> None:
    kept: list[bytes] = []

    async def run(stage: Stage) -> None:
        stage.these.hold([stage.connection])
        kept.extend(stage.says(bytes([number])) for number in range(20))
        stage.says(bytes(4000))
        stage.these.opened(stage.opened())

    assert played(run, Transport.UDP).tap.released == kept[-8:]


def test_the_old_way_may_come_back() -> None:
    kept: list[bytes] = []

    async def run(stage: Stage) -> None:
        stage.these.hold([stage.connection])
        kept.append(stage.says(b"hello"))
        stage.these.resume([stage.connection])
        await settle()
        stage.these.resume([stage.connection])
        await settle()

    stage = played(run)
    assert stage.tap.released == kept
    assert stage.kernel.changes == [
        *(Remove(rule) for rule in stage.about.outbound),
        *(Put(rule) for rule in stage.about.outbound),
    ]


def test_a_kernel_that_does_not_take_the_rule_back_has_what_waits_kept() -> None:
    async def run(stage: Stage) -> None:
        stage.these.hold([stage.connection])
        await settle()
        stage.says(b"hello")
        stage.kernel.refuses = True
        stage.these.resume([stage.connection])
        await settle()
        assert stage.tap.released == []

    played(run)


def test_what_waits_for_a_way_hears_of_a_refusal() -> None:
    async def run(stage: Stage) -> None:
        stage.these.hold([stage.connection])
        stage.says(b"hello")
        about = stage.about
        refusal = ReportRefused(about.cid, "s", about.service, 1, "no longer", "s")
        stage.these.refused(refusal, about.local)
        stage.these.ended(about.cid)

    stage = played(run)
    assert len(stage.tap.injected) == 1
    assert stage.tap.released == []


def test_a_packet_without_a_rule_asks_for_a_connection_or_is_answered() -> None:
    """R-6.6."""

    async def run(stage: Stage) -> None:
        other = stage.about.local
        flow = Flow(Transport.TCP, other.source.with_port(50_000), other.destination)
        stage.tap.hears(segment(flow, b"", flags=0x02))
        assert stage.tap.injected == []
        stage.has_way = False
        flow = Flow(Transport.TCP, other.source.with_port(50_001), other.destination)
        stage.tap.hears(segment(flow, b"", flags=0x02))

    stage = played(run)
    assert [packet.flow.source.port for packet in stage.asked] == [50_000, 50_001]
    assert len(stage.tap.injected) == 1


OTHER = Flow(Transport.TCP, Address.parse("198.18.0.1:5000"), Address.parse("198.18.0.2:443"))


@pytest.mark.parametrize("busy", [1, 2, 3])
def test_who_is_busy_is_asked_again_twice_and_the_application_hears_of_the_last(
    busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-8.7: as a new connection each time; what it says meanwhile is held."""
    monkeypatch.setattr(applications, "BUSY_WAITS_S", (0.0, 0.0))

    async def run(stage: Stage) -> None:
        source = stage.pair.connection("c").agreement.local.source.ip
        flow = Flow(Transport.TCP, Address(source, 5000), OTHER.destination)
        stage.tap.hears(segment(flow, b"", 0x02))
        cids = [stage.these._room.find(flow).cid]  # type: ignore[union-attr]
        for _ in range(busy):
            told = ReportRefused(cids[-1], "s", "https", Code.BUSY, "no port", "g1")
            stage.these.refused(told, flow)
            stage.tap.hears(segment(flow, b"", 0x02))
            await settle()
            waiting = stage.these._room.find(flow)
            if waiting is not None:
                cids.append(waiting.cid)
        if busy <= 2:
            assert len(set(cids)) == len(cids) == len(stage.asked) == busy + 1
            assert len(stage.these._room.take(flow)) == busy + 1
            assert stage.tap.injected == []
        else:
            assert len(stage.tap.injected) == 1
        stage.these.opened(replace(stage.opened(), cid=cids[-1]))
        assert stage.these._again == {}

    played(run)


@pytest.mark.parametrize("code", [Code.POLICY, Code.NO_SERVICE, Code.NO_ROUTE])
def test_any_other_no_is_not_asked_again(code: Code) -> None:
    """R-6.6: at once."""

    async def run(stage: Stage) -> None:
        source = stage.pair.connection("c").agreement.local.source.ip
        flow = Flow(Transport.TCP, Address(source, 5000), OTHER.destination)
        stage.tap.hears(segment(flow, b"", 0x02))
        cid = stage.these._room.find(flow).cid  # type: ignore[union-attr]
        stage.these.refused(ReportRefused(cid, "s", "https", code, "no", "g1"), flow)
        await settle()
        assert (len(stage.asked), len(stage.tap.injected)) == (1, 1)

    played(run)


def test_an_application_is_given_the_syn_and_its_answer_stays_here() -> None:
    """R-12.8: the header of what it says goes to the machine, the segment nowhere."""

    async def run(stage: Stage) -> None:
        flow = stage.about.local
        asks, answers = segment(flow.reversed(), b"", 0x02), segment(flow, b"", 0x12)
        asked = parse_packet(asks)
        assert asked is not None
        stage.connection.state = State.ANSWERING
        stage.these._ruled.discard(stage.about.cid)
        stage.these.deliver(DeliverData(stage.about.cid, flow.reversed(), asked.tcp_header))
        assert stage.tap.injected == [with_checksum(asked)]
        stage.tap.hears(answers)
        (answered,) = stage.answered
        assert answered == DataAnswered(stage.about.cid, answers[-20:])
        assert stage.these._room.find(flow) is None
        stage.these.deliver(DeliverData(stage.about.cid, flow.reversed(), b"no header"))
        assert len(stage.tap.injected) == 1

    played(run, Transport.TCP)


@pytest.mark.parametrize("family", [4, 6])
def test_a_punch_for_tcp_is_no_answer_to_anybody(family: int) -> None:
    """R-12.8: a SYN with the answer's number, or a bare ACK; both with the urgent pointer."""
    here, there = ("10.0.1.2", "10.0.3.2") if family == 4 else ("fd00:1::2", "fd00:3::2")
    ends = (Address.parse(here).with_port(8443), Address.parse(there).with_port(40001))
    flow = Flow(Transport.TCP, *ends)
    answer = parse_packet(segment(flow, b"", 0x12))
    assert answer is not None

    async def run(stage: Stage) -> None:
        for data in (answer.tcp_header, b"", b"no header"):
            stage.these.punch(Punch(Cid(bytes(16)), flow, data))

    sent = played(run).tap.sent
    asks, acks = (parse_packet(raw) for raw in sent)
    assert asks is not None
    assert acks is not None
    assert (asks.flow, asks.is_syn) == (acks.flow, True) == (flow, True)
    assert acks.is_bare_ack
    assert asks.tcp_header[4:8] == answer.tcp_header[4:8]
    assert {one.tcp_header[18:] for one in (asks, acks)} == {b"CS"}
    assert [with_checksum(one) for one in (asks, acks)] == sent


@pytest.mark.parametrize("family", [4, 6])
def test_a_punch_leaves_as_the_wire_has_it(family: int) -> None:
    """R-12.6: a datagram with right checksums, by no socket of the application's."""
    here, there = ("10.0.1.2", "10.0.3.2") if family == 4 else ("fd00:1::2", "fd00:3::2")
    ends = (Address.parse(here).with_port(8443), Address.parse(there).with_port(40001))
    flow, data = Flow(Transport.UDP, *ends), b"CSP\x01" + bytes(28)

    async def run(stage: Stage) -> None:
        stage.these.punch(Punch(Cid(bytes(16)), flow, data))

    (raw,) = played(run).tap.sent
    packet = parse_packet(raw)
    assert packet is not None
    assert (packet.flow, packet.payload) == (flow, data)
    assert with_checksum(packet) == raw
