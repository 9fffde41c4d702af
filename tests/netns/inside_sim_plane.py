"""The inside of test_sim_plane.py: the same rules and packets, through nftables and its double.

    gate   inp ═ in0 [ table inet wayside ] out0 ═ outp      packets put in at one, looked for at
                                                             the other
    host   raw socket, [ table inet wayside ] up0 ═ upp      out: at upp as the wire has it, or at
           raw sockets        wayside0 ═ wayside1            the tap; in: as sockets get it

Prints one JSON object: how many packets were shown, and where the two do not agree.
"""

import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from random import Random

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action
from wayside.kernel import links
from wayside.kernel.apply import NftDataPlane
from wayside.kernel.memory import MemoryDataPlane
from wayside.kernel.nft import Role
from wayside.kernel.packets import parse_packet
from wayside.kernel.plan import InstalledRule
from wayside.kernel.skeleton import gate_skeleton, host_skeleton
from wayside.lab.enclosure import leave_with_the_outer_process
from wayside.sim.plane import Cases, Ends, addresses

LIFETIME_S = 3600.0
FAKE = "02:00:00:00:00:99"
OURS = bytes.fromhex("020000000001")
OWN4, OWN6 = IPv4Address("198.18.0.1"), IPv6Address("fd77:6179:7364::1")
V6_PREFIX = IPv6Network("fd77:6179:7364::/48")
NEAR, FAR = addresses("10.1.0.1", "fd01::1", 3), addresses("10.2.0.1", "fd02::1", 3)
PEERS = addresses("198.18.0.2", "fd77:6179:7364::2", 3)
DRAIN_S = 0.004
LATE_S = 0.5

Seen = tuple[str, str]
"""Where a packet came out, and with which 5-tuple."""


@dataclass
class Tally:
    expected: dict[int, Seen | None] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)

    def differences(self) -> list[str]:
        return [
            f"packet {number}: {wanted} expected, {self.seen.get(number)} seen"
            for number, wanted in self.expected.items()
            if self.seen.get(number) != wanted
        ]


def main() -> None:
    leave_with_the_outer_process()
    seed, steps = int(sys.argv[2]), int(sys.argv[3])
    gate = play_gate(Random(f"gate {seed}"), steps)
    host_links()
    out = play_out(Random(f"out {seed}"), steps // 2)
    back = play_in(Random(f"in {seed}"), steps // 2)
    tallies = {"gate": gate, "out": out, "in": back}
    said = {
        name: {
            "packets": len(tally.expected),
            "hits": sum(wanted is not None for wanted in tally.expected.values()),
            "differences": tally.differences()[:20],
        }
        for name, tally in tallies.items()
    }
    Path(sys.argv[1], "said.json").write_text(json.dumps(said))
    sys.stdout.write(json.dumps(said))


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def sysctl(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value)


def veth(name: str, peer: str, number: int) -> None:
    """A link whose far end nobody answers at, but for a neighbour that is made up."""
    ip("link", "add", name, "type", "veth", "peer", "name", peer)
    ip("link", "set", name, "address", OURS.hex(":"))
    for one in (name, peer):
        sysctl(f"ipv6/conf/{one}/addr_gen_mode", "1")
        sysctl(f"ipv6/conf/{one}/accept_dad", "0")
        ip("link", "set", one, "up")
    ip("addr", "add", f"10.254.{number}.1/24", "dev", name)
    ip("addr", "add", f"fd0e:{number}::1/64", "dev", name, "nodad")
    for via in (f"10.254.{number}.2", f"fd0e:{number}::2"):
        ip("neigh", "add", via, "lladdr", FAKE, "dev", name, "nud", "permanent")


def route(prefix: str, number: int, name: str) -> None:
    via = f"fd0e:{number}::2" if ":" in prefix else f"10.254.{number}.2"
    ip("route", "add", prefix, "via", via, "dev", name)


def packet_socket(link: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((link, 3))
    return sock


def frame(raw: bytes) -> bytes:
    kind = 0x0800 if raw[0] >> 4 == 4 else 0x86DD
    return OURS + bytes.fromhex("020000000098") + struct.pack("!H", kind) + raw


def play(
    cases: Cases,
    planes: tuple[NftDataPlane, MemoryDataPlane],
    steps: int,
    send: Callable[[bytes], None],
    drain: Callable[[Tally, float], None],
    expected: Callable[[MemoryDataPlane, Flow, bytes], Seen | None],
) -> Tally:
    tally = Tally()
    for _ in range(steps):
        step = cases.step()
        for plane in planes:
            plane.apply(step.changes)
        if step.waits:
            time.sleep(0.06)
        for number, flow, raw in step.packets:
            tally.expected[number] = expected(planes[1], flow, raw)
            send(raw)
        drain(tally, DRAIN_S)
        if any(n not in tally.seen for n, _, _ in step.packets if tally.expected[n]):
            drain(tally, LATE_S)
    drain(tally, LATE_S)
    same_rules(tally, *planes)
    return tally


def same_rules(tally: Tally, nft: NftDataPlane, memory: MemoryDataPlane) -> None:
    """What the two hold at the end, with what each rule has counted."""
    real, double = (
        {rule_place(found): (found.rule.owner.hex(), found.packets) for found in plane.rules()}
        for plane in (nft, memory)
    )
    for number, match in enumerate(sorted(real.keys() | double.keys())):
        wanted, seen = double.get(match), real.get(match)
        tally.expected[-1 - number] = (match, str(wanted))
        tally.seen[-1 - number] = (match, str(seen))


def rule_place(found: InstalledRule) -> str:
    """A rule that drops stands beside one that lets through, and goes before it."""
    drops = "drop " if found.rule.action is Action.DROP else ""
    return f"{drops}{found.rule.match}"


def play_gate(chance: Random, steps: int) -> Tally:
    ip("link", "set", "lo", "up")
    veth("in0", "inp", 1)
    veth("out0", "outp", 2)
    for prefix, number, name in (
        ("10.1.0.0/24", 1, "in0"),
        ("fd01::/64", 1, "in0"),
        ("10.2.0.0/24", 2, "out0"),
        ("fd02::/64", 2, "out0"),
    ):
        route(prefix, number, name)
    sysctl("ipv4/ip_forward", "1")
    sysctl("ipv6/conf/all/forwarding", "1")
    sysctl("ipv4/conf/all/rp_filter", "0")
    nft = NftDataPlane()
    nft.setup(Role(lifetime_s=LIFETIME_S), gate_skeleton(["in0"], ["out0"], LIFETIME_S, 4747))
    socks = {"inp": packet_socket("inp"), "outp": packet_socket("outp")}

    def send(raw: bytes) -> None:
        packet = parse_packet(raw)
        assert packet
        outwards = packet.flow.source.ip in NEAR
        socks["inp" if outwards else "outp"].send(frame(raw))

    def expected(memory: MemoryDataPlane, flow: Flow, raw: bytes) -> Seen | None:
        verdict = memory.verdict(flow, len(raw))
        if verdict.action is not Action.ACCEPT:
            return None
        return ("outp" if flow.source.ip in NEAR else "inp"), str(flow)

    def drain(tally: Tally, wait_s: float) -> None:
        drain_frames(socks, tally, wait_s)

    planes = (nft, MemoryDataPlane(time.monotonic, LIFETIME_S, forwards=True))
    tally = play(Cases(chance, Ends(NEAR, FAR)), planes, steps, send, drain, expected)
    nft.teardown()
    for name in ("in0", "out0"):
        ip("link", "del", name)
    return tally


def drain_frames(socks: dict[str, socket.socket], tally: Tally, wait_s: float) -> None:
    names = {sock.fileno(): name for name, sock in socks.items()}
    while ready := select.select(list(socks.values()), [], [], wait_s)[0]:
        for sock in ready:
            raw = sock.recv(65535)[14:]
            packet = parse_packet(raw)
            if packet is not None and len(packet.payload) == 8:
                number = int.from_bytes(packet.payload, "big")
                tally.seen[number] = (names[sock.fileno()], str(packet.flow))


def host_links() -> None:
    veth("up0", "upp", 3)
    for near in NEAR:
        ip("addr", "add", f"{near}/{near.max_prefixlen}", "dev", "up0")
    route("10.2.0.0/24", 3, "up0")
    route("fd02::/64", 3, "up0")
    links.setup_host(OWN4, OWN6, V6_PREFIX)


def host_plane() -> NftDataPlane:
    nft = NftDataPlane()
    nft.setup(Role(frozenset({OWN4, OWN6})), host_skeleton(str(V6_PREFIX), 4747))
    return nft


def play_out(chance: Random, steps: int) -> Tally:
    nft = host_plane()
    raws = {
        4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
    }
    socks = {"upp": packet_socket("upp"), "wayside1": packet_socket("wayside1")}

    def send(raw: bytes) -> None:
        packet = parse_packet(raw)
        assert packet
        raws[packet.flow.family].sendto(raw, (str(packet.flow.destination.ip), 0))

    def expected(memory: MemoryDataPlane, flow: Flow, raw: bytes) -> Seen:
        verdict = memory.verdict(flow, len(raw))
        return ("upp" if verdict.action is Action.REWRITE else "wayside1"), str(verdict.flow)

    def drain(tally: Tally, wait_s: float) -> None:
        drain_frames(socks, tally, wait_s)

    cases = Cases(chance, Ends([OWN4, OWN6], PEERS), Ends(NEAR, FAR))
    planes = (nft, MemoryDataPlane(time.monotonic, LIFETIME_S))
    tally = play(cases, planes, steps, send, drain, expected)
    nft.teardown()
    return tally


def play_in(chance: Random, steps: int) -> Tally:
    nft = host_plane()
    wire = packet_socket("upp")
    kinds = {socket.IPPROTO_UDP: Transport.UDP, socket.IPPROTO_TCP: Transport.TCP}
    socks: dict[socket.socket, tuple[int, Transport]] = {}
    for protocol, transport in kinds.items():
        for family, domain in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            sock = socket.socket(domain, socket.SOCK_RAW, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            socks[sock] = (family, transport)

    def send(raw: bytes) -> None:
        wire.send(frame(raw))

    def expected(memory: MemoryDataPlane, flow: Flow, raw: bytes) -> Seen:
        return "socket", str(memory.verdict(flow, len(raw)).flow)

    def drain(tally: Tally, wait_s: float) -> None:
        while ready := select.select(list(socks), [], [], wait_s)[0]:
            for sock in ready:
                found = received(sock, *socks[sock])
                if found is not None:
                    tally.seen[found[0]] = ("socket", str(found[1]))

    cases = Cases(chance, Ends(FAR, NEAR), Ends(PEERS, [OWN4, OWN6]))
    planes = (nft, MemoryDataPlane(time.monotonic, LIFETIME_S))
    tally = play(cases, planes, steps, send, drain, expected)
    nft.teardown()
    return tally


def received(sock: socket.socket, family: int, transport: Transport) -> tuple[int, Flow] | None:
    """The number and the 5-tuple of a packet as a raw socket gets it."""
    data, control, _, name = sock.recvmsg(65535, 256)
    if family == 4:
        packet = parse_packet(data)
        if packet is None or len(packet.payload) != 8:
            return None
        return int.from_bytes(packet.payload, "big"), packet.flow
    if len(data) < 16 or len(data) != (16 if transport is Transport.UDP else 28):
        return None
    source, destination = struct.unpack("!HH", data[:4])
    own = IPv6Address(control[0][2][:16])
    flow = Flow(transport, Address(IPv6Address(name[0]), source), Address(own, destination))
    return int.from_bytes(data[-8:], "big"), flow


if __name__ == "__main__":
    main()
