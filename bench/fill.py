"""Puts the rules of many connections into a node's table, as its own agent would.

    python fill.py prepare FILE host OWN_V4 OWN_V6 WIRE COUNT
    python fill.py prepare FILE gate LIFETIME_S WIRE COUNT
    python fill.py load FILE

Two rules for each connection (out and in at a host, both directions at a gate), in the words and
in transactions of the size that the daemons' helper uses; but its words are prepared once and
loaded again and again. Addresses of the other connections' peers are made up, in the family of
WIRE; their ports go round.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

import nftables

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.names import CHANGES_MAX
from wayside.kernel.nft import Role, compile_changes
from wayside.kernel.plan import Put
from wayside.runtime.config import IPV6_PREFIX

NOTE = "0 120 https lab-may"
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


def host_rules(own_v4: str, own_v6: str, wire: str, count: str) -> tuple[Role, list[Rule]]:
    """Two rewriting rules a connection."""
    own = {4: ip_address(own_v4), 6: ip_address(own_v6)}
    here = ip_address(wire)
    rules: list[Rule] = []
    for cid, outside, inside in flows(here, own[here.version], int(count)):
        back, home = outside.reversed(), inside.reversed()
        rules.append(Rule(cid, inside, Action.REWRITE, outside, note="https"))
        rules.append(Rule(cid, back, Action.REWRITE, home, note="https"))
    return Role(own=frozenset(own.values())), rules


def gate_rules(lifetime: str, wire: str, count: str) -> tuple[Role, list[Rule]]:
    """Two pinholes a connection, which packets renew."""
    lifetime_s = float(lifetime)
    here = ip_address(wire)
    return Role(lifetime_s=lifetime_s), [
        Rule(cid, match, Action.ACCEPT, None, lifetime_s, True, NOTE)
        for cid, flow, _ in flows(here, here, int(count))
        for match in (flow, flow.reversed())
    ]


def load(path: Path) -> None:
    """Put what was prepared into the table of the network namespace that we are in."""
    nft = nftables.Nftables()
    with path.open() as lines:
        while batch := "".join(islice(lines, CHANGES_MAX)):
            code, _, error = nft.cmd(batch)
            if code:
                sys.exit(error)


def main() -> None:
    """Prepare or load."""
    what, file, *words = sys.argv[1:]
    if what == "load":
        load(Path(file))
        return
    make = host_rules if words.pop(0) == "host" else gate_rules
    role, rules = make(*words)
    text, _ = compile_changes([Put(rule) for rule in rules], {}, role)
    Path(file).write_text(text + "\n")


if __name__ == "__main__":
    main()
