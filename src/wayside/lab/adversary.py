"""Attackers as processes of their own: a box on the path, and a stranger who is not on it.

    python -m wayside.lab.adversary listen FILE DEVICE...      write down all signaling that passes
    python -m wayside.lab.adversary replay FILE TIMES          all of it again, as it was
    python -m wayside.lab.adversary edit FILE                  copies that are bent somewhere
    python -m wayside.lab.adversary forge FILE yes|no          what only others may say: see below
    python -m wayside.lab.adversary shut FILE                  CLOSEs with the tokens that were seen
    python -m wayside.lab.adversary stop FILE COUNT [KEYFILE SOURCE]     STOPs: see below
    python -m wayside.lab.adversary spoof VICTIM COUNT TO KEY  OPENs in a victim's name
    python -m wayside.lab.adversary pretend VICTIM SECONDS TO KEY  the same, forged, without end
    python -m wayside.lab.adversary flood SOURCE COUNT TO KEY  OPENs with good keys, own address
    python -m wayside.lab.adversary refuse DEVICE KEYFILE      answer every OPEN that passes with no

`forge` makes ACCEPT, REJECT, REDIRECT, CHALLENGE, CONFIRM, STOP, a later OPEN and (without tokens)
CLOSE about the connections in the file, with a key of its own, in the name of either end's address;
`yes`: the tokens that were seen go with them, `no`: only the cids are known. `stop` makes STOPs
only, again and again; with the key of an honest host, and from its address, where those are named.
Everything leaves by a
raw socket, whatever its source; each command prints how much it sent as JSON.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import DecodeError
from wayside.core.constants import SIGNALING_PORT
from wayside.core.crypto import SigningKey
from wayside.core.messages import Open, Stop, decode
from wayside.kernel.packets import build_udp, parse_packet
from wayside.lab import adversary_words as words
from wayside.lab.wire import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SOL_PACKET
from wayside.runtime.keyfile import read_key

COUNT_MAX = 20_000
SECONDS_MAX = 4.0
"""No flood is larger or longer, whatever the arguments say."""

LISTEN_S = 60.0
"""A listener leaves by itself: no scenario is longer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A signaling datagram that passed: its UDP 5-tuple and its payload."""

    flow: Flow
    data: bytes


class Raw:
    """Sends whole IP packets, in anybody's name, and counts them."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self.sent = 0
        self.bytes = 0

    def send(self, flow: Flow, data: bytes) -> None:
        """Send a UDP datagram of this 5-tuple. What no route takes is not sent."""
        packet = build_udp(flow, data)
        if flow.family not in self._sockets:
            domain = socket.AF_INET if flow.family == 4 else socket.AF_INET6
            self._sockets[flow.family] = socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._sockets[flow.family].sendto(packet, (str(flow.destination.ip), 0))
        self.sent += 1
        self.bytes += len(packet)

    def tell(self) -> None:
        """Print what was sent."""
        print(json.dumps({"sent": self.sent, "bytes": self.bytes}), flush=True)


def passing(devices: Sequence[str], seconds: float) -> Iterator[Seen]:
    """Every signaling datagram that comes in by these devices."""
    sockets = [_tap(device) for device in devices]
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for tap in select.select(sockets, (), (), left)[0]:
            packet = parse_packet(tap.recv(66_000))
            if packet is None or packet.flow.transport is not Transport.UDP:
                continue
            ports = (packet.flow.source.port, packet.flow.destination.port)
            if SIGNALING_PORT in ports:
                yield Seen(packet.flow, packet.payload)


def _tap(device: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    tap.bind((device, 0))
    return tap


def listen(file: str, *devices: str) -> None:
    """Write down what passes and is a message, one JSON line each."""
    print("ready", flush=True)
    with Path(file).open("a", buffering=1) as sink:
        for seen in passing(devices, LISTEN_S):
            flow = seen.flow
            try:
                decode(seen.data)
            except DecodeError:
                continue
            line = [str(flow.source), str(flow.destination), seen.data.hex()]
            sink.write(json.dumps(line) + "\n")


def read(file: str) -> list[Seen]:
    """What a listener wrote down so far."""
    found: list[Seen] = []
    for line in Path(file).read_text().splitlines():
        source, destination, data = json.loads(line)
        flow = Flow(Transport.UDP, Address.parse(source), Address.parse(destination))
        found.append(Seen(flow, bytes.fromhex(data)))
    return found


def replay(file: str, times: str) -> None:
    """Send all that passed once more, so many times, in its order."""
    _send((seen.flow, seen.data) for _ in range(int(times)) for seen in read(file))


def edit(file: str) -> None:
    """Send bent copies of all that passed, where it was going."""
    _send((seen.flow, bent) for seen in read(file) for bent in words.edited(seen.data))


def forge(file: str, hops: str) -> None:
    """Say in the name of both addresses what only their owners may say."""
    key = SigningKey(os.urandom(32))

    def said() -> Iterator[tuple[Flow, bytes]]:
        for seen in read(file):
            for data in words.forged(key, seen.data, with_hops=hops == "yes"):
                yield seen.flow, data
                yield seen.flow.reversed(), data

    _send(said())


def shut(file: str) -> None:
    """Say CLOSE to the boxes, by their own tokens and without the connection's key."""
    _send((seen.flow.reversed(), close) for seen in read(file) for close in words.closes(seen.data))


def stop(file: str, count: str, key_file: str = "", source: str = "") -> None:
    """Say STOP about all that passed, with all that is to be seen of it, so many times."""
    key = read_key(Path(key_file)) if key_file else SigningKey(os.urandom(32))
    said: list[tuple[Flow, bytes]] = []
    for seen in read(file):
        back = seen.flow.reversed()
        if source:
            back = Flow(
                back.transport, Address(ip_address(source), SIGNALING_PORT), back.destination
            )
        forged = words.forged(key, seen.data, with_hops=True)
        said += [(back, data) for data in forged if data[4] == Stop.TYPE]
    _send(said[number % len(said)] for number in range(min(int(count) * len(said), COUNT_MAX)))


def spoof(victim: str, count: str, to: str, to_key: str) -> None:
    """OPENs in a victim's name, half of them with a made-up hop."""
    _ask(victim, count, to, to_key, words.made_up_hops)


def pretend(victim: str, seconds: str, to: str, to_key: str) -> None:
    """Forged OPENs in a victim's name, as fast as may be: each with a cid that nobody signed."""
    here, there = Address(ip_address(victim), SIGNALING_PORT), Address.parse(to)
    key, flow = SigningKey(os.urandom(32)), Flow(Transport.UDP, here, there)
    data = words.asked(key, bytes.fromhex(to_key), flow, 0, lambda _number, _source: ())
    until = time.monotonic() + min(float(seconds), LISTEN_S)
    raw = Raw()
    while time.monotonic() < until:
        raw.send(flow, data[:16] + os.urandom(16) + data[32:])
    raw.tell()


def flood(source: str, count: str, to: str, to_key: str) -> None:
    """OPENs of somebody who really is there, one connection each."""
    _ask(source, count, to, to_key, lambda _number, _source: ())


def _ask(source: str, count: str, to: str, to_key: str, hops: words.HopsOf) -> None:
    here, there = Address(ip_address(source), SIGNALING_PORT), Address.parse(to)
    key, flow = SigningKey(os.urandom(32)), Flow(Transport.UDP, here, there)
    wanted = min(int(count), COUNT_MAX)
    asked = (
        words.asked(key, bytes.fromhex(to_key), flow, number, hops) for number in range(wanted)
    )
    _send((flow, data) for data in asked)


def refuse(device: str, key_file: str) -> None:
    """Say no to every OPEN that passes, in the name of where it was going."""
    key, raw = SigningKey(bytes.fromhex(Path(key_file).read_text())), Raw()
    print("ready", flush=True)
    for seen in passing([device], LISTEN_S):
        try:
            header, message = decode(seen.data)
        except DecodeError:
            continue
        if isinstance(message, Open):
            raw.send(seen.flow.reversed(), words.refusal(key, header, message))


def _send(datagrams: Iterable[tuple[Flow, bytes]]) -> None:
    raw, end = Raw(), time.monotonic() + SECONDS_MAX
    for flow, data in datagrams:
        if raw.sent >= COUNT_MAX or time.monotonic() > end:
            break
        raw.send(flow, data)
    raw.tell()


DOES: dict[str, Callable[..., None]] = {
    does.__name__: does
    for does in (listen, replay, edit, forge, shut, stop, spoof, pretend, flood, refuse)
}


def main() -> None:
    """Do what the first argument names."""
    name, *arguments = sys.argv[1:]
    DOES[name](*arguments)


if __name__ == "__main__":
    main()
