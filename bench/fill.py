"""Puts the rules of many connections into a node's table, as its own agent would.

    python fill.py host OWN_V4 OWN_V6 WIRE COUNT
    python fill.py gate INSIDE OUTSIDE LIFETIME_S WIRE COUNT

It finds the table that the running daemon has made, and adds two rules for each connection (out
and in at a host, both directions at a gate) by the same data plane and transactions. Addresses of
the other connections' peers are made up, in the family of WIRE; their ports go round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.constants import SIGNALING_PORT
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.apply import NftDataPlane
from wayside.kernel.nft import Role
from wayside.kernel.plan import Put
from wayside.kernel.skeleton import gate_skeleton, host_skeleton
from wayside.runtime.config import IPV6_PREFIX

PORT = 443
PORTS_FROM, PORTS_EACH = 1024, 50_000
"""Source ports of the made-up connections; after so many comes the next peer."""

PEERS = {4: (ip_address("198.18.200.1"), ip_address("10.200.0.1"))}
PEERS[6] = (IPV6_PREFIX[0x10000], ip_address("fd00:200::1"))
"""The first of the made-up peers: virtual, and on the wire."""


def flows(wire: IP, own: IP, count: int) -> Iterator[tuple[Cid, Flow, Flow]]:
    """So many connections from here: the cid, the 5-tuple on the wire, and at the socket."""
    virtual, real = PEERS[wire.version]
    for number in range(count):
        port = PORTS_FROM + number % PORTS_EACH
        step = number // PORTS_EACH
        yield (
            Cid(number.to_bytes(16, "big")),
            Flow(Transport.TCP, Address(wire, port), Address(real + step, PORT)),
            Flow(Transport.TCP, Address(own, port), Address(virtual + step, PORT)),
        )


def fill_host(own_v4: str, own_v6: str, wire: str, count: str) -> None:
    """Two rewriting rules a connection."""
    own = {4: ip_address(own_v4), 6: ip_address(own_v6)}
    plane = NftDataPlane()
    role = Role(own=frozenset(own.values()))
    plane.setup(role, host_skeleton(str(IPV6_PREFIX), SIGNALING_PORT))
    here = ip_address(wire)
    puts: list[Put] = []
    for cid, outside, inside in flows(here, own[here.version], int(count)):
        back, home = outside.reversed(), inside.reversed()
        puts.append(Put(Rule(cid, inside, Action.REWRITE, outside, note="https")))
        puts.append(Put(Rule(cid, back, Action.REWRITE, home, note="https")))
    plane.apply(puts)


def fill_gate(inside: str, outside: str, lifetime: str, wire: str, count: str) -> None:
    """Two pinholes a connection, which packets renew."""
    lifetime_s = float(lifetime)
    plane = NftDataPlane()
    plane.setup(
        Role(lifetime_s=lifetime_s), gate_skeleton([inside], [outside], lifetime_s, SIGNALING_PORT)
    )
    here = ip_address(wire)
    plane.apply(
        [
            Put(Rule(cid, match, Action.ACCEPT, None, lifetime_s, True, "0 120 https lab-may"))
            for cid, flow, _ in flows(here, here, int(count))
            for match in (flow, flow.reversed())
        ]
    )


def main() -> None:
    """Fill one table and say how long it took."""
    started = time.monotonic()
    if sys.argv[1] == "host":
        fill_host(*sys.argv[2:])
    else:
        fill_gate(*sys.argv[2:])
    sys.stdout.write(f"filled in {time.monotonic() - started:.2f} s\n")


if __name__ == "__main__":
    main()
