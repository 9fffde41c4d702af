from dataclasses import replace

from wayside.core.address import Address, Flow, Transport
from wayside.core.connection import Agreement, HostContext, State
from wayside.core.crypto import SigningKey
from wayside.core.effects import ReportOpened
from wayside.core.ends import Initiator
from wayside.core.identity import PeerIdentity
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.memory import MemoryDataPlane
from wayside.kernel.plan import Put
from wayside.runtime.silence import Silence

LIFETIME_S = 120.0
KEY = SigningKey(bytes(range(32)))
CONTEXT = HostContext(KEY, bytes, lifetime_s=LIFETIME_S)


class Watched:
    """Connections with their rules, a clock, and what was closed."""

    def __init__(self, *transports: Transport) -> None:
        self.now = 0.0
        self.closed: list[Cid] = []
        self.plane = MemoryDataPlane(lambda: self.now, 0.0)
        self.connections = [
            connected(number, transport) for number, transport in enumerate(transports)
        ]
        for one in self.connections:
            self.plane.apply([Put(rule) for rule in one.agreement.outbound])
            self.plane.apply([Put(rule) for rule in one.agreement.inbound])
        self.silence = Silence(lambda cid, _: self.closed.append(cid), lambda: self.now)

    def look(self) -> int:
        """A look at what is due; how many rules that were."""
        due = self.silence.due(self.connections)
        self.silence.look(self.connections, self.plane.rules_of(due))
        return len(due)

    def packet(self, number: int, back: bool = False) -> None:
        about = self.connections[number].agreement
        flow = about.wire.reversed() if back else about.local
        assert self.plane.verdict(flow).action is Action.REWRITE

    def move(self, number: int, ip: str) -> None:
        """Its packets leave from another address, by other rules."""
        one = self.connections[number]
        wire = replace(one.agreement.wire, source=address(ip, 40000 + number))
        one.agreement = replace(one.agreement, wire=wire)
        about = one.agreement
        self.plane.apply([Put(rule) for rule in about.outbound + about.inbound])
        report = ReportOpened(about.cid, "", about.service, wire, about.local, LIFETIME_S)
        self.silence.opened(replace(report, refreshed=True))


def connected(number: int, transport: Transport) -> Initiator:
    local = Flow(transport, address("198.18.0.1", 40000 + number), address("198.18.0.2", 443))
    wire = Flow(transport, address("10.1.0.2", 40000 + number), address("10.2.0.1", 443))
    cid = Cid(bytes([number]) * 16)
    connection = Initiator(CONTEXT, Agreement(cid, PeerIdentity(KEY.public), "https", wire, local))
    connection.state = State.CONNECTED
    return connection


def address(ip: str, port: int) -> Address:
    return Address.parse(ip).with_port(port)


def test_a_connection_that_was_silent_for_its_lifetime_is_closed() -> None:
    watched = Watched(Transport.UDP)
    watched.packet(0)
    watched.look()
    watched.now += LIFETIME_S - 1
    watched.look()
    assert watched.closed == []
    watched.now += 1
    watched.look()
    assert watched.closed == [watched.connections[0].agreement.cid]


def test_a_packet_of_either_direction_keeps_a_connection() -> None:
    for back in (False, True):
        watched = Watched(Transport.UDP)
        for _ in range(5):
            watched.packet(0, back)
            watched.look()
            watched.now += LIFETIME_S
        assert watched.closed == []


def test_after_a_move_the_counters_of_before_say_nothing() -> None:
    """R-5.9.1: new rules count from zero, and may stand where the old ones did a lifetime ago."""
    watched = Watched(Transport.UDP)
    watched.packet(0)
    watched.look()
    watched.now += LIFETIME_S - 1
    for ip in ("10.3.0.2", "10.1.0.2"):  # and back
        watched.move(0, ip)
    watched.packet(0)
    watched.now += 1
    watched.look()
    assert watched.closed == []
    watched.now += LIFETIME_S
    watched.look()
    assert watched.closed == [watched.connections[0].agreement.cid]


def test_only_connections_that_could_be_over_are_looked_up() -> None:
    watched = Watched(Transport.UDP, Transport.UDP, Transport.TCP)
    assert watched.look() == 4
    watched.now += LIFETIME_S / 2
    watched.connections.append(connected(7, Transport.UDP))
    assert watched.look() == 2, "the new one's; TCP tells of its end"
    watched.now += LIFETIME_S / 2
    watched.packet(0)
    assert watched.look() == 4
    assert watched.closed == [watched.connections[1].agreement.cid]
    watched.now += LIFETIME_S / 2
    assert watched.look() == 2


def test_a_connection_that_is_not_up_yet_is_no_silent_one() -> None:
    watched = Watched(Transport.UDP)
    watched.connections[0].state = State.OPENING
    assert watched.look() == 0
    watched.now += LIFETIME_S
    watched.look()
    assert watched.closed == []


def test_rules_of_others_among_those_seen_do_no_harm() -> None:
    watched = Watched(Transport.UDP)
    watched.look()
    watched.now += LIFETIME_S
    stranger = Flow(Transport.UDP, address("198.18.0.1", 1), address("198.18.0.3", 2))
    rule = Rule(Cid(b"another owner !!"), stranger, Action.REWRITE, stranger.reversed())
    watched.plane.apply([Put(rule)])
    assert watched.plane.verdict(stranger).action is Action.REWRITE
    watched.silence.look(watched.connections, watched.plane.rules())
    assert watched.closed == [watched.connections[0].agreement.cid]
