"""Lanes for signaling at a box: three sockets, so that a flood in one fills no other.

The kernel classes a datagram by two bytes at a fixed offset, type and flags: OPENs that show a
proof or ticket, OPENs that show nothing, and all the rest. OPENs are what a stranger can make as
fast as his link is, so they get queues of their own; who shows a ticket does not wait behind who
shows none, and an ACCEPT or a CONFIRM not behind either. `tproxy` picks the socket, for what is in
transit as for what is addressed to the box itself. The two further sockets are bound to loopback:
nothing from the network reaches them in any other way.

In both lanes of OPENs one /24 or /64 gets no more than is of use to it: what is above is dropped
before it has cost a process anything. So only a flood from very many networks fills a lane. A
datagram too short to have a flag goes the common way. Spec: R-7.9.
"""

from __future__ import annotations

from .names import TABLE

PORTS = {"shown": 1, "bare": 2}
"""Of the further sockets: this much above the port for signaling."""

LOOPBACK = {4: "127.0.0.1", 6: "::1"}

PREFIXES_MAX = 65_536
"""Networks whose rate is measured; OPENs of one more pass unmeasured."""

RATES = {"shown": 8_000, "bare": 4_000}
"""OPENs a second of one network, and as many in one burst: what a core can decode, or check."""

CODES = {"shown": "0x0101", "bare": "0x0100"}
"""Type OPEN, and the flag: payload bytes 4 and 5, 12 bytes behind the start of the UDP header."""


def lane_sets() -> str:
    """The sets that lanes need, in nft's words."""
    return "\n".join(
        f"  set {lane}{family} {{ type ipv{family}_addr; flags dynamic, timeout; timeout 5s; "
        f"size {PREFIXES_MAX}; }}"
        for lane in RATES
        for family in (4, 6)
    )


def lane_rules(port: int) -> str:
    """Their rules, for the chains `lanes4` and `lanes6`. `port`: of signaling."""
    return "\n".join(rule for family in (4, 6) for rule in _rules(family, port))


def _rules(family: int, port: int) -> list[str]:
    ip, prefix = ("ip", "255.255.255.0") if family == 4 else ("ip6", "ffff:ffff:ffff:ffff::")
    host = LOOPBACK[family] if family == 4 else f"[{LOOPBACK[family]}]"
    chain = f"add rule inet {TABLE} lanes{family} meta l4proto udp"  # again: tproxy wants it
    rules: list[str] = []
    for lane, code in CODES.items():
        rate = f"limit rate over {RATES[lane]}/second burst {RATES[lane]} packets"
        network = f"update @{lane}{family} {{ {ip} saddr & {prefix} {rate} }}"
        rules.append(f"{chain} @th,96,16 {code} {network} counter drop")
        rules.append(f"{chain} @th,96,16 {code} tproxy {ip} to {host}:{port + PORTS[lane]} accept")
    return [*rules, f"{chain} tproxy {ip} to :{port} accept"]
