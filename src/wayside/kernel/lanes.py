"""Lanes for signaling at a box: several sockets, so that a flood in one fills no other.

The kernel classes a datagram by two bytes at a fixed offset, type and flags: OPENs that show a
proof or ticket, OPENs that show nothing, and all the rest. OPENs are what a stranger can make as
fast as his link is, so they get queues of their own; who shows a ticket does not wait behind who
shows none, and an ACCEPT or a CONFIRM not behind either. `tproxy` picks the socket, for what is in
transit as for what is addressed to the box itself. The further sockets are bound to loopback:
nothing from the network reaches them in any other way.

In a lane of OPENs one /24 or /64 gets no more than is of use to it: what is above is dropped
before it has cost a process anything. So only a flood from very many networks fills a lane. A bare
OPEN that comes again has a better one: who waits for an answer repeats it as it was, and who
forges seldom says the same twice. (One who does gets that lane filled, and nothing else by it.)
A datagram too short to have a flag goes the common way. Spec: R-7.9.
"""

from __future__ import annotations

from .names import TABLE

PORTS = {"shown": 1, "again": 2, "bare": 3}
"""Of the further sockets: this much above the port for signaling."""

LOOPBACK = {4: "127.0.0.1", 6: "::1"}

PREFIXES_MAX = 65_536
"""Networks whose rate is measured; OPENs of one more pass unmeasured."""

RATES = {"shown": 8_000, "again": 4_000, "bare": 4_000}
"""OPENs a second of one network, and as many in one burst: what a core can decode, or check."""

SHOWN, BARE = "@th,96,16 0x0101", "@th,96,16 0x0100"
"""Type OPEN, and the flag: payload bytes 4 and 5, 12 bytes behind the start of the UDP header."""

CID = "@th,192,32"
"""The first four bytes of the cid: enough to know an OPEN again. The set that holds them is of the
type of a TCP sequence number, because a set has to have a type, and that one is 32 bits."""

ASKED_MAX = 262_144
"""OPENs that can be known again; 64 bytes each. When all are taken, the next is not."""

ASKED_MS = 900
"""An OPEN is repeated after 0.25 s, and again after 0.5 s more."""


def lane_sets() -> str:
    """The sets that lanes need, in nft's words."""
    rates = "\n".join(
        f"  set {lane}{family} {{ type ipv{family}_addr; flags dynamic, timeout; timeout 5s; "
        f"size {PREFIXES_MAX}; }}"
        for lane in RATES
        for family in (4, 6)
    )
    return f"""{rates}
  set asked {{ typeof tcp sequence; flags dynamic, timeout; timeout {ASKED_MS}ms; \
gc-interval 300ms; size {ASKED_MAX}; }}"""


def lane_rules(port: int) -> str:
    """Their rules, for the chains `lanes4` and `lanes6`. `port`: of signaling."""
    return "\n".join(rule for family in (4, 6) for rule in _rules(family, port))


def _rules(family: int, port: int) -> list[str]:
    ip, prefix = ("ip", "255.255.255.0") if family == 4 else ("ip6", "ffff:ffff:ffff:ffff::")
    host = LOOPBACK[family] if family == 4 else f"[{LOOPBACK[family]}]"
    chain = f"add rule inet {TABLE} lanes{family} meta l4proto udp"  # again: tproxy wants it

    def into(lane: str, these: str) -> list[str]:
        rate = f"limit rate over {RATES[lane]}/second burst {RATES[lane]} packets"
        network = f"update @{lane}{family} {{ {ip} saddr & {prefix} {rate} }}"
        return [
            f"{chain} {these} {network} counter drop",
            f"{chain} {these} tproxy {ip} to {host}:{port + PORTS[lane]} accept",
        ]

    return [
        *into("shown", SHOWN),
        *into("again", f"{BARE} {CID} @asked"),
        f"{chain} {BARE} add @asked {{ {CID} }}",
        *into("bare", BARE),
        f"{chain} tproxy {ip} to :{port} accept",
    ]
