"""Addresses, links, routes and routing rules: what our table needs around it.

Host: its virtual addresses are on `lo`; the peers' are routed into a veth pair, whose other end
the agent reads. A packet that a rule rewrites is routed anew and never gets there, but when there
is no route for it at all. Gate: signaling
that the table has marked has a local route. Everything is put there again without harm when it is
there already, and taken away by name or number. All by pyroute2.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from . import multihoming
from .names import (
    HOST_LINK,
    HOST_MAC,
    LINK_MTU,
    LOST_PRIORITY,
    LOST_TABLE,
    MARK,
    MARK_INTERCEPTED,
    ROUTE_TABLE,
    RTO_MIN_MS,
    RULE_PRIORITY,
    TAP_LINK,
    TAP_MAC,
    V4_PREFIX,
)
from .plan import KernelError

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_IFA_F_NODAD = 0x02
_RTAX_RTO_MIN = 13
"""The kernel's TCP looks at this metric only where it is locked."""

_SYSCTL = Path("/proc/sys/net")
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def setup_host(own_v4: IPv4Address, own_v6: IPv6Address, v6_prefix: IPv6Network) -> None:
    """Addresses on lo, the veth pair, the routes of both prefixes. Raises KernelError."""
    with _netlink("the links of a host") as ip:
        loopback = ip.link_lookup(ifname="lo")[0]
        ip.link("set", index=loopback, state="up")
        ip.addr("replace", index=loopback, address=str(own_v4), prefixlen=32)
        ip.addr("replace", index=loopback, address=str(own_v6), prefixlen=128, flags=_IFA_F_NODAD)
        if not ip.link_lookup(ifname=HOST_LINK):
            ip.link("add", ifname=HOST_LINK, kind="veth", peer={"ifname": TAP_LINK})
        for name, mac in ((HOST_LINK, HOST_MAC), (TAP_LINK, TAP_MAC)):
            _quiet(name)
            ip.link(
                "set",
                index=ip.link_lookup(ifname=name)[0],
                address=mac.hex(":"),
                mtu=LINK_MTU,
                flags=_IFF_UP | _IFF_NOARP,
                change=_IFF_UP | _IFF_NOARP,
            )
        link = ip.link_lookup(ifname=HOST_LINK)[0]
        metrics = {"lock": 1 << _RTAX_RTO_MIN, "rto_min": RTO_MIN_MS}
        for prefix, own in ((V4_PREFIX, own_v4), (v6_prefix, own_v6)):
            ip.route("replace", dst=str(prefix), oif=link, prefsrc=str(own), metrics=metrics)
        for family in _FAMILIES:
            ip.route("replace", family=family, dst="default", oif=link, table=LOST_TABLE)
            _add_rule(ip, _lost_rule(family))


def setup_gate() -> None:
    """A local route for what the table marks as intercepted. Raises KernelError."""
    with _netlink("the routes of a gate") as ip:
        loopback = ip.link_lookup(ifname="lo")[0]
        ip.link("set", index=loopback, state="up")
        for family in _FAMILIES:
            ip.route(
                "replace",
                family=family,
                dst="default",
                type="local",
                scope="host",
                oif=loopback,
                table=ROUTE_TABLE,
            )
            _add_rule(ip, _rule(family))


def _add_rule(ip: Any, rule: dict[str, Any]) -> None:
    try:
        ip.rule("add", **rule)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def teardown(own: tuple[IPv4Address, IPv6Address] | None) -> None:
    """Take away whatever setup_host or setup_gate made. `own`: a host's addresses on lo."""
    with _netlink("our links and routes") as ip:
        multihoming.clear(ip)
        for family in _FAMILIES:
            for rule in (_rule(family), _lost_rule(family)):
                with _if_there():
                    ip.rule("delete", **rule)
                with _if_there():
                    ip.flush_routes(family=family, table=rule["table"])
        for link in ip.link_lookup(ifname=HOST_LINK):
            with _if_there():
                ip.link("delete", index=link)
        for address in own or ():
            with _if_there():
                ip.addr(
                    "delete",
                    index=ip.link_lookup(ifname="lo")[0],
                    address=str(address),
                    prefixlen=address.max_prefixlen,
                )


def _rule(family: int) -> dict[str, Any]:
    return {
        "family": family,
        "fwmark": MARK_INTERCEPTED,
        "table": ROUTE_TABLE,
        "priority": RULE_PRIORITY,
    }


def _lost_rule(family: int) -> dict[str, Any]:
    """Where a host's packets go for which there is no route while it moves: into the veth pair.

    A packet that the kernel cannot route it drops with an error, and TCP then waits 200 ms until it
    tries again (the probe timer; RFC 9293, 3.8.6.1); what went into a link it repeats after 10 ms.
    """
    return {
        "family": family,
        "fwmark": MARK,
        "table": LOST_TABLE,
        "priority": LOST_PRIORITY,
    }


def _quiet(name: str) -> None:
    """No link-local address, no router solicitation: nothing of the kernel's own on this link."""
    for entry, value in (("addr_gen_mode", "1"), ("accept_ra", "0"), ("router_solicitations", "0")):
        with suppress(OSError):  # a kernel without IPv6, or an older one
            (_SYSCTL / "ipv6" / "conf" / name / entry).write_text(value)


class _if_there:  # noqa: N801 - reads as the words it stands for
    """What is not there need not be taken away."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, NetlinkError) and error.code in _GONE


class _netlink:  # noqa: N801
    """A netlink socket whose errors say what it was about."""

    def __init__(self, about: str) -> None:
        self._about = about

    def __enter__(self) -> Any:
        self._ip = IPRoute()
        return self._ip

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ip.close()
        if isinstance(error, NetlinkError | OSError):
            hint = "run as root, or in a namespace of your own: unshare -Urnm"
            raise KernelError(f"netlink does not take {self._about}: {error}", hint) from error
