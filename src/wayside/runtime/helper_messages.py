"""What the privileged helper can be asked, and nothing else: typed, and checked on arrival.

Frames on a stream socket between two processes of one daemon: 4 bytes of length, then msgpack.
Flows cross as the packed addresses of the wire, and become `Flow` and `Rule` again through their
own constructors; a value that those refuse never reaches a kernel interface.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Literal

import msgspec

from wayside.core.address import Address, Flow, Transport
from wayside.core.constants import LIFETIME_MAX_S, SIGNALING_PORT
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.names import V4_PREFIX, V6_PREFIX_LENGTH
from wayside.kernel.plan import Change, InstalledRule, Put, Remove

LENGTH = struct.Struct("!I")

REQUEST_BYTES_MAX = 1 << 26
"""Far more than any batch of changes; a helper allocates nothing for a length beyond."""

_INTERFACE = re.compile(r"[A-Za-z0-9_.:-]{1,15}")


@dataclass(frozen=True, slots=True)
class HostSetup:
    """A host's virtual addresses and prefixes, as text. Raises ValueError for what is none."""

    own_v4: str
    own_v6: str
    v4_prefix: str
    v6_prefix: str
    signaling_port: int = SIGNALING_PORT

    def __post_init__(self) -> None:
        if self.v4_prefix != str(V4_PREFIX) or IPv4Address(self.own_v4) not in V4_PREFIX:
            raise ValueError(f"virtual IPv4 addresses are in {V4_PREFIX}")
        network = IPv6Network(self.v6_prefix)
        if "%" in self.v6_prefix + self.own_v6 or network.prefixlen != V6_PREFIX_LENGTH:
            raise ValueError(f"{self.v6_prefix!r} is no /{V6_PREFIX_LENGTH} without a zone")
        if IPv6Address(self.own_v6) not in network:
            raise ValueError(f"{self.own_v6} is not in {self.v6_prefix}")
        _check_port(self.signaling_port)


@dataclass(frozen=True, slots=True)
class GateSetup:
    """A gate's interfaces, and the seconds that packets renew a rule to. Raises ValueError.

    `rewrites`: make the parts of the table for that now, and not with the first such rule; `hides`:
    drop punches (R-12.6).
    """

    inside: tuple[str, ...]
    outside: tuple[str, ...]
    lifetime_s: float
    signaling_port: int = SIGNALING_PORT
    rewrites: bool = False
    hides: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "inside", tuple(self.inside))
        object.__setattr__(self, "outside", tuple(self.outside))
        names = (*self.inside, *self.outside)
        if not self.inside or not self.outside or len(set(names)) != len(names):
            raise ValueError("a gate has interfaces inside and others outside")
        for name in names:
            if not _INTERFACE.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of an interface")
        if not 0.001 <= self.lifetime_s <= LIFETIME_MAX_S:
            raise ValueError(f"{self.lifetime_s} s is no lifetime")
        _check_port(self.signaling_port)


def _check_port(port: int) -> None:
    if not 1 <= port <= 0xFFFF:
        raise ValueError(f"{port} is not a port")


class PackedFlow(msgspec.Struct, array_like=True, frozen=True):
    """A flow: transport, and both addresses as on the wire."""

    transport: int
    source: bytes
    destination: bytes


class PackedRule(msgspec.Struct, array_like=True, frozen=True):
    """A rule, field by field."""

    owner: bytes
    match: PackedFlow
    action: str
    rewrite: PackedFlow | None
    lifetime_s: float | None
    renewed: bool
    note: str


class PackedChange(msgspec.Struct, array_like=True, frozen=True):
    """Put the rule, or remove it."""

    put: bool
    rule: PackedRule


class PackedInstalled(msgspec.Struct, array_like=True, frozen=True):
    """An installed rule with what is left of it and what it has counted."""

    rule: PackedRule
    expires_s: float | None
    packets: int
    octets: int


class SetupHost(msgspec.Struct, tag=True):
    """Make the links and the table of a host."""

    setup: HostSetup


class SetupGate(msgspec.Struct, tag=True):
    """Make the routes and the table of a gate."""

    setup: GateSetup


class OpenSockets(msgspec.Struct, tag=True):
    """Open a role's sockets; they come with the answer."""

    role: Literal["host", "gate"]
    port: int


class Apply(msgspec.Struct, tag=True):
    """Make all changes or none."""

    changes: list[PackedChange]


class ListRules(msgspec.Struct, tag=True):
    """All rules in force."""


class LookUp(msgspec.Struct, tag=True):
    """The rules in force of these 5-tuples."""

    matches: list[PackedFlow]


class RouteBySource(msgspec.Struct, tag=True):
    """Let what is signaled leave by the link that has its address, as addresses are now."""


class WatchMptcp(msgspec.Struct, tag=True):
    """Take over MPTCP's path management; the socket that hears of it comes with the answer."""


class MakeSubflow(msgspec.Struct, tag=True):
    """Begin a further subflow of an MPTCP connection (kernel/mptcp.py)."""

    token: int
    number: int
    flow: PackedFlow


class Diagnose(msgspec.Struct, tag=True):
    """Rulesets of others that may drop ours."""


class Teardown(msgspec.Struct, tag=True):
    """Take away all that was set up."""


Request = (
    SetupHost
    | SetupGate
    | OpenSockets
    | Apply
    | ListRules
    | LookUp
    | RouteBySource
    | WatchMptcp
    | MakeSubflow
    | Diagnose
    | Teardown
)


class PackedDiagnosis(msgspec.Struct, array_like=True, frozen=True):
    """A chain that may drop our flows: where, why, and the rule to add."""

    where: str
    why: str
    rule: str


class Done(msgspec.Struct, tag=True):
    """It worked. `sockets`: names of the file descriptors that came along, in their order."""

    sockets: list[str] = []
    rules: list[PackedInstalled] = []
    diagnoses: list[PackedDiagnosis] = []


class Failed(msgspec.Struct, tag=True):
    """It did not, and nothing of it was done."""

    what: str
    hint: str


Answer = Done | Failed


def pack_change(change: Change) -> PackedChange:
    """A change for the helper."""
    return PackedChange(isinstance(change, Put), pack_rule(change.rule))


def unpack_change(packed: PackedChange) -> Change:
    """A change from the daemon. Raises ValueError for what no rule may say."""
    rule = unpack_rule(packed.rule)
    return Put(rule) if packed.put else Remove(rule)


def pack_rule(rule: Rule) -> PackedRule:
    """A rule, field by field."""
    return PackedRule(
        rule.owner,
        pack_flow(rule.match),
        rule.action.value,
        pack_flow(rule.rewrite) if rule.rewrite else None,
        rule.lifetime_s,
        rule.renewed_by_packets,
        rule.note,
    )


def unpack_rule(packed: PackedRule) -> Rule:
    """A rule again. Raises ValueError for what no rule may say."""
    return Rule(
        Cid(packed.owner),
        unpack_flow(packed.match),
        Action(packed.action),
        unpack_flow(packed.rewrite) if packed.rewrite else None,
        packed.lifetime_s,
        packed.renewed,
        packed.note,
    )


def pack_installed(rules: Iterable[InstalledRule]) -> list[PackedInstalled]:
    """Installed rules for the daemon."""
    return [
        PackedInstalled(pack_rule(found.rule), found.expires_s, found.packets, found.bytes)
        for found in rules
    ]


def unpack_installed(packed: Iterable[PackedInstalled]) -> list[InstalledRule]:
    """Installed rules from the helper."""
    return [
        InstalledRule(unpack_rule(found.rule), found.expires_s, found.packets, found.octets)
        for found in packed
    ]


def pack_flow(flow: Flow) -> PackedFlow:
    """A flow for the other side."""
    return PackedFlow(int(flow.transport), flow.source.pack(), flow.destination.pack())


def unpack_flow(packed: PackedFlow) -> Flow:
    """A flow again. Raises ValueError for what is none."""
    return Flow(
        Transport(packed.transport),
        Address.unpack(packed.source),
        Address.unpack(packed.destination),
    )
