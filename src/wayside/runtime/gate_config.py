"""gate.toml: between which networks a gate stands, and what else it does for them.

    inside = ["lan0"]                      # interfaces of the protected side
    outside = ["wan0"]
    policy = "policy.toml"

    [domains]
    lab = "k..."                           # whose names count

    [nat]                                  # packets of the inside leave with an address of ours
    outside = ["203.0.113.1", "2001:db8::1"]     # this box has them; one for each family
    ports = "1024-65535"                   # drawn from where a source's own port is taken
    [nat.hosts]                            # can be asked for from outside without registering
    "files.lab" = "10.1.0.2"               # a key (k...), or a name of [peers]

    [relay]                                # pass on what is sent to this box for others
    approvers = ["k..."]                   # whose approval that takes: keys, or names of [peers]
    targets = ["10.0.0.0/8"]               # networks that are not global, and served all the same

    [relays]                               # where `via` of a policy's rule leads
    proxy = ["10.2.0.2", "fd00:2::2"]      # see relays.py

    [[legacy]]                             # hosts that this gate answers for: see legacy.py
    addresses = ["10.3.0.2"]
    services = { http = 80 }

    [peers."files.lab"]                    # names for keys, in this file only
    key = "k..."

`[relay]` alone makes a relay; such a box stands nowhere between, and may leave out `inside` and
`outside`. All else is as in every daemon's file (config.py).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec

from wayside.core.address import IP, canonical_ip
from wayside.core.constants import LIFETIME_S, SIGNALING_PORT
from wayside.core.identity import key_from_text
from wayside.core.way import Box, Relaying, Translation

from .config import (
    DaemonFile,
    Paths,
    domains_of,
    open_document,
    paths_of,
)
from .document import Document
from .legacy import LegacyHosts, read_legacy
from .policy_file import nearest
from .relays import RelayFile, Relays, read_relays
from .spellings import public_key, signaling_address

NAMED_MAX = 4096
"""Hosts that are named in a file; more register by themselves."""

_PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """What `wayside gate` runs with.

    `inside` and `outside`: names of interfaces, both empty for a box that only relays. `box`: what
    it does besides letting through; `relays`: where its policy may redirect to; `legacy`: for whom
    it answers.
    """

    name: str
    paths: Paths
    listen: int = SIGNALING_PORT
    lifetime_s: float = LIFETIME_S
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    domains: Mapping[str, bytes]
    box: Box = field(default_factory=Box)
    relays: Relays = field(default_factory=Relays)
    legacy: tuple[LegacyHosts, ...] = ()


class _NatFile(msgspec.Struct):
    outside: list[str]
    ports: str = "1024-65535"
    hosts: dict[str, str] = {}


class _RelayFile(msgspec.Struct):
    approvers: list[str]
    targets: list[str] = []


class _KeyFile(msgspec.Struct):
    key: str


class _GateFile(DaemonFile, kw_only=True):
    inside: list[str] = msgspec.field(default_factory=list[str])
    outside: list[str] = msgspec.field(default_factory=list[str])
    nat: dict[str, object] | None = None
    relay: dict[str, object] | None = None
    legacy: list[dict[str, object]] = msgspec.field(default_factory=list[dict[str, object]])
    relays: dict[str, RelayFile] = msgspec.field(default_factory=dict[str, RelayFile])
    peers: dict[str, dict[str, object]] = msgspec.field(
        default_factory=dict[str, dict[str, object]]
    )


def load_gate(
    path: Path | None, flags: Mapping[str, object], environ: Mapping[str, str]
) -> GateConfig:
    """Read gate.toml, as `load_host` does. Raises ConfigError and WaysideError."""
    document = open_document("gate", path, flags, environ, _GateFile)
    file = document.convert(document.data, _GateFile)
    _check_sides(document, file)
    keys = {
        name: document.value(
            ("peers", name, "key"), public_key, document.convert(raw, _KeyFile, ("peers", name)).key
        )
        for name, raw in file.peers.items()
    }
    ports = Box().ports
    nat: Translation | None = None
    if file.nat is not None:
        nat, ports = _nat(document, document.convert(file.nat, _NatFile, ("nat",)), keys)
    relay: Relaying | None = None
    if file.relay is not None:
        relay = _relay(document, document.convert(file.relay, _RelayFile, ("relay",)), keys)
    return GateConfig(
        name=file.name or socket.gethostname(),
        paths=paths_of("gate", document, file, environ),
        listen=file.listen,
        lifetime_s=file.lifetime_s,
        inside=tuple(file.inside),
        outside=tuple(file.outside),
        domains=domains_of(document, file),
        box=Box(nat, relay, ports),
        relays=read_relays(document, file.relays),
        legacy=read_legacy(document, file.legacy),
    )


def _check_sides(document: Document, file: _GateFile) -> None:
    only_relays = file.relay is not None and file.nat is None
    if only_relays and not file.inside and not file.outside:
        return
    for key, names in (("inside", file.inside), ("outside", file.outside)):
        if not names:
            raise document.error(
                (key,) if key in document.data else (),
                f"a gate needs at least one interface in `{key}`",
                hint=f'{key} = ["eth0"]; `ip -br link` lists the interfaces',
                code="WS-2104",
            )
    both = sorted(set(file.inside) & set(file.outside))
    if both:
        raise document.error(("outside",), f"`{both[0]}` is both inside and outside")


def _nat(
    document: Document, file: _NatFile, keys: Mapping[str, bytes]
) -> tuple[Translation, range]:
    outside: dict[int, IP] = {}
    for text in file.outside:
        ip = document.value(("nat", "outside"), _ip, text)
        if ip.version in outside:
            raise document.error(
                ("nat", "outside"), f"two IPv{ip.version} addresses; one of each family is used"
            )
        outside[ip.version] = ip
    if not outside:
        raise document.error(
            ("nat", "outside"),
            "a NAT needs an address outside",
            hint='outside = ["203.0.113.1"]; `ip -br address` lists those of this box',
            code="WS-2104",
        )
    if len(file.hosts) > NAMED_MAX:
        raise document.error(("nat", "hosts"), f"{NAMED_MAX} hosts are the most")
    known = {
        _key_of(document, ("nat", "hosts", name), name, keys): document.value(
            ("nat", "hosts", name), signaling_address, text
        )
        for name, text in file.hosts.items()
    }
    return Translation(outside, known), document.value(("nat", "ports"), _ports, file.ports)


def _relay(document: Document, file: _RelayFile, keys: Mapping[str, bytes]) -> Relaying:
    if not file.approvers:
        raise document.error(
            ("relay", "approvers"),
            "a relay that nobody may send to relays nothing",
            hint='approvers = ["k..."]: the keys of the gates that redirect here',
            code="WS-2104",
        )
    approvers = (_key_of(document, ("relay", "approvers"), one, keys) for one in file.approvers)
    targets = (document.value(("relay", "targets"), ip_network, one) for one in file.targets)
    return Relaying(tuple(approvers), tuple(targets))


def _key_of(document: Document, at: tuple[str, ...], text: str, keys: Mapping[str, bytes]) -> bytes:
    key = key_from_text(text) or keys.get(text)
    if key is None:
        raise document.error(
            at,
            f"`{text}` is neither a key (k...) nor a name of [peers]",
            hint=nearest(text, keys) or f'[peers."{text}"] key = "k..."',
        )
    return key


def _ip(text: str) -> IP:
    return canonical_ip(ip_address(text))


def _ports(text: str) -> range:
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= first <= last <= 0xFFFF:
        raise ValueError(f"{text!r} is not a range of ports such as 1024-65535")
    return range(first, last + 1)
