"""Hosts that know nothing of signaling: for whom a gate answers, and what a user lets be.

    [[legacy]]                                # gate.toml: this gate answers for these
    addresses = ["10.3.0.0/24", "fd00:3::2"]
    side = "inside"                           # where they are; "inside" is the default
    [legacy.services]
    http = 80                                 # over TCP and UDP, or as `transport` says
    "7007" = { port = 7007, transport = ["udp"] }

    [peers."printer.lab"]                     # host.toml: a peer without a `key`
    addresses = ["10.3.0.2"]
    legacy = "gate"                           # a gate may answer in its place; default "no"
    fallback = "plain"                        # and nobody needs to answer at all; default "no"

A peer with a key may have both as well. Spec: R-12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

import msgspec

from wayside.core.address import Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Leave
from wayside.core.policy import Policy, PolicyAction, PolicyRule, checked_service
from wayside.core.route import TokenBox
from wayside.core.stand_in import Served, StandIn

from .document import Document, Place

NETWORKS_MAX = 64
"""Of one entry; each is looked at for every OPEN."""

CONNECTIONS_MAX = 65_536
"""That a gate answers for; a network may have them all."""

Gates = Literal["gate", "no"]
Fallback = Literal["plain", "no"]
Side = Literal["inside", "outside"]
_TRANSPORTS = {"tcp": (Transport.TCP, Transport.MPTCP), "udp": (Transport.UDP,)}


@dataclass(frozen=True, slots=True)
class LegacyService:
    """A service of a legacy host: its port, and over what it is offered (empty: anything)."""

    port: int
    transports: tuple[Transport, ...] = ()


@dataclass(frozen=True, slots=True)
class LegacyHosts:
    """Hosts on one side that a gate answers for, with their services by name."""

    side: Side
    networks: tuple[IPv4Network | IPv6Network, ...]
    services: Mapping[str, LegacyService]


class _LegacyFile(msgspec.Struct):
    addresses: Annotated[list[str], msgspec.Meta(min_length=1, max_length=NETWORKS_MAX)]
    services: dict[str, object]
    side: Side = "inside"


class _ServiceFile(msgspec.Struct):
    port: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
    transport: list[Literal["tcp", "udp"]] = []


def read_legacy(document: Document, raw: Sequence[object]) -> tuple[LegacyHosts, ...]:
    """Read [[legacy]] of gate.toml. Raises ConfigError with the line of what is wrong."""
    found: list[LegacyHosts] = []
    for number, told in enumerate(raw):
        at: Place = ("legacy", number)
        file = document.convert(told, _LegacyFile, at)
        networks = tuple(
            document.value((*at, "addresses"), ip_network, text) for text in file.addresses
        )
        services = {
            name: _service(document, (*at, "services", name), name, one)
            for name, one in file.services.items()
        }
        found.append(LegacyHosts(file.side, networks, services))
    return tuple(found)


def _service(document: Document, at: Place, name: str, raw: object) -> LegacyService:
    document.value(at, checked_service, name)
    file = document.convert({"port": raw} if isinstance(raw, int) else raw, _ServiceFile, at)
    transports = [one for text in file.transport for one in _TRANSPORTS[text]]
    return LegacyService(file.port, tuple(transports))


def leave_of(legacy: Gates, fallback: Fallback) -> Leave:
    """What a user lets be, from the words of host.toml."""
    return Leave(gate=legacy == "gate", plain=fallback == "plain")


def key_of_nobody(name: str) -> bytes:
    """What stands for the key of a host that has none, 32 bytes. Spec: R-12.1."""
    return hashlib.sha256(b"wayside-legacy" + name.encode()).digest()


def stand_in(gate: Gate, box: TokenBox, legacy: Sequence[LegacyHosts]) -> StandIn:
    """The gate, answering for these; for none, it is what it was. `box`: the gate's own."""
    return StandIn(gate, box, [Served(one.side, one.networks, _host(gate, one)) for one in legacy])


def _host(gate: Gate, legacy: LegacyHosts) -> Host:
    """A host behind the gate that answers for all of an entry."""
    own = gate.context
    context = HostContext(own.key, own.entropy, own.name, lifetime_s=own.lifetime_s)
    services = {name: Offered(service.port) for name, service in legacy.services.items()}
    answering = Answering(own.names, _policy(legacy), services)
    box = TokenBox(own.key.public, own.entropy(32), own.entropy)
    door, quota = FrontDoor(box, Budget()), Quota(CONNECTIONS_MAX, CONNECTIONS_MAX)
    return Host(context, answering, door, quota)


def _policy(legacy: LegacyHosts) -> Policy:
    """Who may come, the gate has said; this is over what."""
    rules: list[PolicyRule] = []
    for name, service in legacy.services.items():
        if not service.transports:
            continue
        only = "/".join(dict.fromkeys(one.name.lower() for one in service.transports))
        fits = PolicyRule(name, PolicyAction.ALLOW, (), (), (name,), service.transports)
        reason = f"{name} is offered over {only} only"
        number = f"T{len(rules)}"
        other = PolicyRule(number, PolicyAction.REJECT, service=(name,), reason=reason)
        rules += [fits, other]
    return Policy(tuple(rules), PolicyAction.ALLOW)
