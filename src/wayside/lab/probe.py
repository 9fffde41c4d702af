"""Stray packets, and who saw them: how a scenario proves that a firewall is shut.

    python -m wayside.lab.probe udp 10.1.0.2:4000 10.3.0.2:5000 [tcp ...]

sends one raw packet for each (transport, source, destination), with no socket behind it: a UDP
datagram or a TCP SYN of exactly this wire 5-tuple, as an application that signaled nothing would
send it, or somebody who guesses at a pinhole. Probes carry a DSCP of their own. `Watch` puts a set
into a node's nftables (a table of the lab's, before every other hook) that remembers the 5-tuples
of probes that arrived there, at whatever rate other traffic runs.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address

from wayside.core.address import Address, Flow, Transport
from wayside.lab.enclosure import PYTHON
from wayside.lab.world import Node

PROBE_DSCP = 0x2D
"""An unassigned code point: nothing else in a lab uses it."""

TABLE = "\n".join(
    [
        "table inet lab_watch {",
        *(
            f"""
            set seen{family} {{
                type inet_proto . {kind} . inet_service . {kind} . inet_service
                flags dynamic; size 4096
            }}"""
            for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr"))
        ),
        "counter transport {}",
        "chain arriving { type filter hook prerouting priority -500; policy accept;",
        "iifname != lo meta l4proto { tcp, udp } counter name transport",
        *(
            f"{ip} dscp {PROBE_DSCP} "
            f"update @{where} {{ meta l4proto . {ip} saddr . th sport . {ip} daddr . th dport }}"
            for ip, where in (("ip", "seen4"), ("ip6", "seen6"))
        ),
        "}",
        "}",
    ]
)

TRANSIT_S = 0.1
"""A packet that is not there by then will not come: the links of a lab take microseconds."""


class Watch:
    """Remembers which probes arrived at a node, before any of its own rules saw them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.run("nft", "-f", "-", stdin=TABLE)

    def seen(self, family: int) -> set[Flow]:
        """The wire 5-tuples of the probes that arrived since the last `forget`."""
        text = self._node.run(
            "nft", "-j", "list", "set", "inet", "lab_watch", f"seen{family}"
        ).stdout
        flows: set[Flow] = set()
        for item in json.loads(text)["nftables"]:
            for element in item.get("set", {}).get("elem", []):
                flows.add(_flow(*element["concat"]))
        return flows

    def packets(self) -> int:
        """How many TCP and UDP packets of any kind came in from the net since the beginning."""
        return self._node.counted("lab_watch", "transport")

    def forget(self) -> None:
        """Start anew."""
        for family in (4, 6):
            self._node.run("nft", "flush", "set", "inet", "lab_watch", f"seen{family}")


def arrived(sender: Node, watch: Watch, flows: Sequence[Flow]) -> set[Flow]:
    """Send one probe for each flow from a node; those that a watched node saw."""
    return seen_after(sender, watch, flows) & set(flows)


def seen_after(sender: Node, watch: Watch, flows: Sequence[Flow]) -> set[Flow]:
    """Send one probe for each flow from a node; what a watched node saw, as it looked there."""
    watch.forget()
    words = [
        str(word) for f in flows for word in (f.transport.name.lower(), f.source, f.destination)
    ]
    sender.run(*PYTHON, "-m", "wayside.lab.probe", *words)
    time.sleep(TRANSIT_S)
    return watch.seen(flows[0].family)


def probe_packet(flow: Flow) -> bytes:
    """The IP packet of a probe, checksums included."""
    source, destination = flow.source.ip.packed, flow.destination.ip.packed
    ports = struct.pack("!HH", flow.source.port, flow.destination.port)
    if flow.transport is Transport.UDP:
        body = ports + struct.pack("!HH", 8 + 13, 0) + b"wayside-probe"
        place = 6
    else:
        body = ports + struct.pack("!IIBBHHH", 0x57415953, 0, 5 << 4, 0x02, 1024, 0, 0)
        place = 16
    number = flow.transport.protocol
    pseudo = source + destination + struct.pack("!II", len(body), number)
    summed = struct.pack("!H", _checksum(pseudo + body) or 0xFFFF)
    body = body[:place] + summed + body[place + 2 :]
    if flow.family == 6:
        traffic_class = PROBE_DSCP << 2
        head = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(body), number, 64)
        return head + source + destination + body
    head = struct.pack("!BBHHHBBH", 0x45, PROBE_DSCP << 2, 20 + len(body), 0, 0, 64, number, 0)
    return head + source + destination + body


def send(flow: Flow) -> None:
    """Send the probe of a flow. The kernel fills in the IPv4 header's checksum."""
    domain = socket.AF_INET if flow.family == 4 else socket.AF_INET6
    with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(probe_packet(flow), (str(flow.destination.ip), 0))


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _flow(protocol: str | int, source: str, sport: int, destination: str, dport: int) -> Flow:
    transport = Transport.UDP if protocol in ("udp", 17) else Transport.TCP
    return Flow(
        transport, Address(ip_address(source), sport), Address(ip_address(destination), dport)
    )


def main() -> None:
    """Send the probes that the arguments name, three words for each."""
    words = iter(sys.argv[1:])
    for transport, source, destination in zip(words, words, words, strict=True):
        send(Flow(Transport[transport.upper()], Address.parse(source), Address.parse(destination)))


if __name__ == "__main__":
    main()
