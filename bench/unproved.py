"""What a host and a gate send to a source that has not proved itself, for every kind of message.

Real daemons, real sockets. Each case is one datagram, or the same one several times, from a port
of its own, and never an answer to what comes back; whatever reaches that port until all
retransmissions are over counts against what was sent from it. Messages are well made where a
stranger can make them well (an OPEN of a known host, allowed and with a service; of an unknown
one; too late; for somebody else; without a service), and are otherwise what a stranger can send:
right in form, about connections that do or do not exist, with wrong MACs, tokens and signatures.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from figure import Figure, single
from place import ALLOW_LAB, PORTS, Bench
from stranger import Party, make_accept, make_confirm, make_open, socket_in

from wayside.core.address import Address, Transport
from wayside.core.codec import Header, encode_body
from wayside.core.constants import PENDING_S, SIGNALING_PORT
from wayside.core.messages import (
    MESSAGES,
    Challenge,
    Close,
    Code,
    Hop,
    Locator,
    Message,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    Stop,
    StopTerms,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.rule import Cid
from wayside.lab.daemons import launch
from wayside.lab.world import Node
from wayside.runtime.names import service_of

REACH = 1.0
WAIT_S = PENDING_S + 1.5
"""An ACCEPT that is not confirmed is repeated until then."""

COPIES = 5
SERVICE = service_of(PORTS[0])


@dataclass(slots=True)
class Case:
    """Datagrams from one port, and what came back to it."""

    kind: str
    sock: socket.socket
    sent: list[int] = field(default_factory=list[int])
    received: list[int] = field(default_factory=list[int])

    @property
    def bytes_ratio(self) -> float:
        """Bytes that came back for each that was sent."""
        return sum(self.received) / sum(self.sent)

    @property
    def packets_ratio(self) -> float:
        """The same for packets."""
        return len(self.received) / len(self.sent)

    def collect(self) -> None:
        """Read whatever has come."""
        while True:
            try:
                self.received.append(len(self.sock.recv(65536)))
            except BlockingIOError:
                return
            except OSError:
                self.received.append(0)  # an ICMP error is a packet, too


def measure(bench: Bench) -> Iterator[Figure]:
    """A figure for each kind of message and each role, and the worst of all."""
    source, middle, server = bench.world.chain("source", "gate", "server")
    bench.world.link(source, server)
    known = bench.daemons.host(source)
    host = bench.daemons.host(server, {SERVICE: PORTS[0]})
    gate = bench.daemons.gate(middle, inside=source, outside=server, policy=ALLOW_LAB)
    launch([host, gate])
    ends = Party.of(known), Party.of(host)
    direct = server.addresses["source"][0]
    behind = server.addresses["gate"][0]
    own = middle.addresses["source"][0]
    seen = node_packets(source)
    worst: list[float] = [0.0, 0.0]
    for role, targets in (("host", [direct]), ("gate", [behind, own])):
        cases = [one for to in targets for one in send_all(source, ends, to, role == "host")]
        time.sleep(WAIT_S)
        for case in cases:
            case.collect()
            case.sock.close()
        for kind in sorted({case.kind for case in cases}):
            of_kind = [case for case in cases if case.kind == kind]
            worst[1] = max(worst[1], *(case.packets_ratio for case in of_kind))
            figure = total(role, kind, of_kind)
            worst[0] = max(worst[0], figure.value)
            yield figure
        strays = node_packets(source) - seen - sum(len(case.received) for case in cases)
        seen = node_packets(source)
        name = f"  packets from the {role} to ports that nobody sent from"
        yield single(name, "", strays, reach=0, at_most=True)
    name = "bytes to an unproved source over bytes from it, worst case"
    yield single(name, "", worst[0], reach=REACH, at_most=True)
    name = "packets to an unproved source over packets from it, worst case"
    yield single(name, "", worst[1], reach=REACH, at_most=True)


def total(role: str, kind: str, cases: list[Case]) -> Figure:
    """The worst case of a kind; all of them together in the note."""
    ratios = [case.bytes_ratio for case in cases]
    came = [size for case in cases for size in case.sent]
    went = [size for case in cases for size in case.received]
    return single(
        f"  {role}, {kind}: bytes sent over bytes received",
        "",
        max(ratios),
        reach=REACH,
        at_most=True,
        samples=ratios,
        note=f"{len(cases)} cases: {sum(came):,} bytes in {len(came)} packets received, "
        f"{sum(went):,} in {len(went)} sent",
    )


def node_packets(node: Node) -> int:
    """UDP datagrams and ICMP messages that a node has received, whoever they were for."""
    counts: dict[str, int] = {}
    lines = node.run("cat", "/proc/net/snmp").stdout.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        group = names.split(":")[0]
        for name, value in zip(names.split()[1:], values.split()[1:], strict=True):
            counts[f"{group}{name}"] = int(value)
    return counts["UdpInDatagrams"] + counts["UdpNoPorts"] + counts["IcmpInMsgs"]


def send_all(node: Node, ends: tuple[Party, Party], to: IPv4Address, to_host: bool) -> list[Case]:
    """Every case towards one address."""
    cases: list[Case] = []
    for kind, datagrams in messages(node, ends, to, to_host):
        case = Case(kind, socket_in(node.name, "0.0.0.0", 0))
        for datagram in datagrams:
            case.sock.sendto(datagram, (str(to), SIGNALING_PORT))
            case.sent.append(len(datagram))
        cases.append(case)
    return cases


def messages(
    node: Node, ends: tuple[Party, Party], to: IPv4Address, to_host: bool
) -> Iterator[tuple[str, list[bytes]]]:
    """Kind and datagrams of every case."""
    known, host = ends
    neighbour = "server" if to_host else "gate"
    near = Address(node.addresses[neighbour][0], 0)
    port = iter(range(30_000, 40_000))

    def opened(who: Party = known, whom: Party = host, **more: object) -> bytes:
        source = near.with_port(next(port))
        return make_open(who, whom, source, Address(to, PORTS[0]), **more).datagram  # type: ignore[arg-type]

    half_open, whole = opened(service=SERVICE), opened(service=SERVICE)
    yield "OPEN", [half_open]
    yield "OPEN", [opened(service=SERVICE)] * COPIES
    yield "OPEN", [opened(service=SERVICE, transport=Transport.UDP)]
    yield "OPEN", [opened(service="no-such-service")]
    yield "OPEN", [opened(Party.unknown(), service=SERVICE)] * COPIES
    yield "OPEN", [opened(whom=Party.unknown(), service=SERVICE)]
    yield "OPEN", [opened(service=SERVICE, late_s=3600)] * COPIES
    yield "OPEN", [opened(service=SERVICE, proofs=(os.urandom(32),) * 4)]
    yield "OPEN", [opened(service=SERVICE)[:600]]
    yield "OPEN", [whole[:-1] + b"\1"]
    for cid in (Cid(half_open[16:32]), Cid(os.urandom(16))):
        for datagram in others(known, cid, near, Address(to, PORTS[0])):
            yield MESSAGES[datagram[4]].__name__.upper(), [datagram] * COPIES
            yield MESSAGES[datagram[4]].__name__.upper(), [datagram[:-3]]
    yield "no message", [os.urandom(size) for size in (1, 32, 33, 500, 1400)]
    yield "no message", [b"CSP\1" + os.urandom(size) for size in (28, 500, 1200)]


def others(who: Party, cid: Cid, near: Address, far: Address) -> Iterator[bytes]:
    """What is not an OPEN, right in form, about a connection of this cid."""
    hops = (Hop(os.urandom(32), 1, 120, os.urandom(60)),)
    nothing = bytes(32)
    asked = make_open(who, who, near.with_port(5), far)
    asked = type(asked)(cid, asked.datagram, asked.hash, asked.source, asked.destination)
    yield make_accept(who, asked, hops)
    yield make_confirm(cid, hops)
    yield _plain(cid, Challenge(os.urandom(32), hops))
    yield _plain(cid, Close(bytes(16), "enough", hops))
    until_s = int(time.time()) + 60
    key = who.key.public
    yield _signed(who, cid, Reject, RejectTerms(key, nothing, Code.POLICY, "no"), hops)
    redirect = RedirectTerms(key, nothing, Locator(far), b"approved", until_s)
    yield _signed(who, cid, Redirect, redirect, hops)
    stop = StopTerms(key, nothing, nothing, 60, until_s)
    yield _signed(who, cid, Stop, stop, hops)


def _plain(cid: Cid, message: Message) -> bytes:
    return encode(Header(message.TYPE, 0, cid), message)


def _signed(
    who: Party,
    cid: Cid,
    kind: type[Reject] | type[Redirect] | type[Stop],
    terms: RejectTerms | RedirectTerms | StopTerms,
    hops: tuple[Hop, ...],
) -> bytes:
    header = Header(kind.TYPE, 0, cid)
    signed = encode_body(terms)
    signature = who.key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return encode(header, kind(signed, signature, hops))
