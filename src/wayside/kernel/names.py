"""What is ours in a kernel, by name and number: all there is to look for, and to take away."""

from __future__ import annotations

from ipaddress import IPv4Network

from wayside.core import virtual

TABLE = "wayside"
"""`table inet wayside`. Every other table is somebody else's."""

MARK = 0x57415901
"""The packet mark of whatever was signaled ("WAY", 1). Rulesets of others can let it through."""

MARK_INTERCEPTED = 0x57415902
"""The packet mark of signaling that a gate takes in: its route is local. It never leaves."""

ROUTE_TABLE = 4747
"""The routing table with the one route that MARK_INTERCEPTED chooses."""

RULE_PRIORITY = 4747
"""Priority of that choice: behind the local table (0), before the main one (32,766)."""

LOST_TABLE = 4748
LOST_PRIORITY = 33_000
"""A host's rewritten packets for which no table has a route: behind all others (32,767)."""

SOURCE_TABLE = 4750
"""Eight tables from here on: the default route of the link that has an own address."""

SOURCE_PRIORITY = 4749
"""Priority of the choice among them, by source: before the main table."""

PUNCH_URGENT = 0x4353
"""The urgent pointer of a punch for TCP ("CS"), without the flag URG: nobody else has one."""

HOST_LINK = "wayside0"
"""The host's end of the veth pair: the virtual addresses are routed into it."""

TAP_LINK = "wayside1"
"""The agent's end: what no rule rewrites comes out here."""

HOST_MAC = bytes.fromhex("027761790000")
TAP_MAC = bytes.fromhex("027761790001")
"""Fixed and locally administered; the pair speaks no ARP."""

LINK_MTU = 1500
"""Bytes. TCP takes its segment size from here; a smaller link on the way answers by ICMP."""

RTO_MIN_MS = 10
"""Least retransmission timeout on virtual routes: the gap after a move is 27 ms, not 210."""

V4_PREFIX = IPv4Network(virtual.V4_PREFIX)
"""Virtual IPv4 addresses (RFC 2544's range, private to each host)."""

V6_PREFIX_LENGTH = 48
"""Of the prefix that virtual IPv6 addresses are in (RFC 4193)."""

ELEMENTS_MAX = 262_144
"""Size of each set: 2 elements a connection; at about 300 bytes each, 80 MB when it is full."""

CHANGES_MAX = 250
"""Changes in one transaction: 4 nft commands each stay below an unprivileged send buffer."""
