"""A host with several links: which addresses lead out, and that each leaves by its own link.

An address leads out if its link has a default route in the main table. Without more, Linux sends
whatever leaves by the best of these routes, also what has the address of another link, which the
network there then drops (BCP 38). So there is one routing rule for each address, about packets that
carry our mark, signaling and signaled data alike, and a table with the default route of its link.
Nothing else of the machine is routed otherwise than before.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pyroute2 import AsyncIPRoute, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wayside.core.address import IP
from wayside.core.constants import ALTERNATIVES_MAX

from .names import HOST_LINK, MARK, SOURCE_PRIORITY, SOURCE_TABLE, TAP_LINK
from .plan import KernelError

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_MAIN = 254
_GLOBAL = 0
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_UNUSABLE = 0x40 | 0x08
"""IFA_F_TENTATIVE, IFA_F_DADFAILED."""

LINKS_MAX = 1 + ALTERNATIVES_MAX


@dataclass(frozen=True, slots=True)
class WayOut:
    """An own address with a default route on its link. `gateway`: None on a link without one."""

    address: IP
    index: int
    gateway: IP | None
    metric: int


def ways_out(links: Iterable[Any], addresses: Iterable[Any], routes: Iterable[Any]) -> list[WayOut]:
    """What the kernel's answers come to: the best route first, at most eight of a family."""
    live = {
        link["index"]
        for link in links
        if link["flags"] & _IFF_UP
        and link["flags"] & _IFF_RUNNING
        and link.get_attr("IFLA_IFNAME") not in (HOST_LINK, TAP_LINK)
    }
    best: dict[tuple[int, int], tuple[int, IP | None]] = {}
    for route in routes:
        index, gateway = route.get_attr("RTA_OIF"), route.get_attr("RTA_GATEWAY")
        if route["dst_len"] or route.get_attr("RTA_TABLE") != _MAIN or index not in live:
            continue
        key, metric = (route["family"], index), route.get_attr("RTA_PRIORITY") or 0
        if key not in best or metric < best[key][0]:
            best[key] = (metric, ip_address(gateway) if gateway else None)
    found: list[WayOut] = []
    for one in addresses:
        flags = one.get_attr("IFA_FLAGS")
        text = one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")
        way = best.get((one["family"], one["index"]))
        if way is None or one["scope"] != _GLOBAL or not text:
            continue
        if not (one["flags"] if flags is None else flags) & _UNUSABLE:
            found.append(WayOut(ip_address(text), one["index"], way[1], way[0]))
    found.sort(key=lambda way: (way.address.version, way.metric))
    fours = [way for way in found if way.address.version == 4]
    return fours[:LINKS_MAX] + [way for way in found if way.address.version == 6][:LINKS_MAX]


async def read_ways_out() -> list[WayOut]:
    """This host's, from the kernel, without privilege. Raises KernelError."""
    try:
        async with AsyncIPRoute() as opened:
            ip: Any = opened
            links = [link async for link in await ip.get_links()]
            addresses = [one async for one in await ip.get_addr()]
            routes = [route async for route in await ip.get_routes()]
    except (NetlinkError, OSError) as error:
        raise KernelError(f"netlink does not tell this host's ways out: {error}") from error
    return ways_out(links, addresses, routes)


def route_by_source() -> None:
    """What leaves with our mark leaves by the link that has its address. Raises KernelError.

    With one link for a family there is nothing to choose, and no rule.
    """
    try:
        with IPRoute() as opened:
            ip: Any = opened
            ways = ways_out(ip.get_links(), ip.get_addr(), ip.get_routes())
            clear(ip)
            for family, version in zip(_FAMILIES, (4, 6), strict=True):
                here = [way for way in ways if way.address.version == version]
                for number, way in enumerate(here if len(here) > 1 else ()):
                    _route(ip, family, SOURCE_TABLE + number, way)
    except (NetlinkError, OSError) as error:
        hint = "run as root, or in a namespace of your own: unshare -Urnm"
        raise KernelError(f"netlink does not take routes by source: {error}", hint) from error


def clear(ip: Any) -> None:
    """Take all of that away."""
    for family in _FAMILIES:
        for rule in ip.get_rules(family=family):
            if rule.get_attr("FRA_PRIORITY") == SOURCE_PRIORITY:
                table = rule.get_attr("FRA_TABLE") or rule["table"]
                source = rule.get_attr("FRA_SRC")
                _quietly(ip.rule, "delete", **_rule(family, table, source, rule["src_len"]))
        for number in range(LINKS_MAX):
            _quietly(ip.flush_routes, family=family, table=SOURCE_TABLE + number)


def _route(ip: Any, family: int, table: int, way: WayOut) -> None:
    gateway = {"gateway": str(way.gateway)} if way.gateway is not None else {}
    ip.route("replace", family=family, dst="default", oif=way.index, table=table, **gateway)
    ip.rule("add", **_rule(family, table, str(way.address), way.address.max_prefixlen))


def _rule(family: int, table: int, source: str, size: int) -> dict[str, Any]:
    return {
        "family": family,
        "src": source,
        "src_len": size,
        "fwmark": MARK,
        "table": table,
        "priority": SOURCE_PRIORITY,
    }


def _quietly(call: Any, *words: Any, **more: Any) -> None:
    """What is not there need not be taken away."""
    try:
        call(*words, **more)
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV):
            raise
