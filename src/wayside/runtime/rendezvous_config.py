"""rendezvous.toml: where hosts of which domains register, and who finds whom.

    addresses = ["203.0.113.9", "2001:db8::9"]   # where hosts reach us; stands in invitations
    policy = "policy.toml"       # who finds whom: allow, steer (find, but hide), reject, challenge
    register = ["*.lab"]         # who may register; default: every name under [domains]
    domain_key = "lab.key"       # signs the certificates of those who join; without: nobody can
    store = "sqlite"             # in the state directory; or "redis://host:port,host:port"

    [domains]
    lab = "k..."                 # whose names count

    [relays]                     # where the policy may `redirect` to, as in gate.toml (relays.py)

All else is as in every daemon's file (config.py). A rendezvous without `policy` lets everybody find
everybody who registered: a host still decides itself whom it lets in.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from wayside.core.address import Address
from wayside.core.constants import LIFETIME_S, SIGNALING_PORT
from wayside.core.policy import Pattern

from .config import (
    DaemonFile,
    Paths,
    domains_of,
    open_document,
    paths_of,
)
from .document import Document
from .relays import RelayFile, Relays, read_relays
from .spellings import signaling_address

ADDRESSES_MAX = 4
"""In an invitation, which somebody may have to read out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RendezvousConfig:
    """What `wayside rendezvous` runs with.

    `addresses`: where hosts reach it; `register`: who may; `domain_key`: the file of the key that
    signs for those who join; `cluster`: URLs of a Redis Cluster, empty for SQLite; `relays`: where
    its policy may redirect to.
    """

    name: str
    paths: Paths
    listen: int = SIGNALING_PORT
    lifetime_s: float = LIFETIME_S
    domains: Mapping[str, bytes]
    addresses: tuple[Address, ...] = ()
    register: tuple[Pattern, ...] = ()
    domain_key: Path | None = None
    cluster: tuple[str, ...] = ()
    relays: Relays = field(default_factory=Relays)


class _RendezvousFile(DaemonFile, kw_only=True):
    certificate: str = ""
    addresses: list[str] = msgspec.field(default_factory=list[str])
    register: list[str] = msgspec.field(default_factory=list[str])
    domain_key: str = ""
    store: str = "sqlite"
    relays: dict[str, RelayFile] = msgspec.field(default_factory=dict[str, RelayFile])


def load_rendezvous(
    path: Path | None, flags: Mapping[str, object], environ: Mapping[str, str]
) -> RendezvousConfig:
    """Read rendezvous.toml, as `load_host` does. Raises ConfigError and WaysideError."""
    document = open_document("rendezvous", path, flags, environ, _RendezvousFile)
    file = document.convert(document.data, _RendezvousFile)
    domains = domains_of(document, file)
    base = document.path.parent if document.path else Path()
    if len(file.addresses) > ADDRESSES_MAX:
        raise document.error(("addresses",), f"{ADDRESSES_MAX} addresses are the most")
    return RendezvousConfig(
        name=file.name or socket.gethostname(),
        paths=paths_of("rendezvous", document, file, environ),
        listen=file.listen,
        lifetime_s=file.lifetime_s,
        domains=domains,
        addresses=tuple(
            _reached(document.value(("addresses",), signaling_address, text), text, file.listen)
            for text in file.addresses
        ),
        register=_register(document, file, domains),
        domain_key=base / file.domain_key if file.domain_key else None,
        cluster=document.value(("store",), _cluster, file.store),
        relays=read_relays(document, file.relays),
    )


def _reached(address: Address, text: str, listen: int) -> Address:
    """An address that names no port means the one where we listen."""
    return address if str(address) == text else address.with_port(listen)


def _register(
    document: Document, file: _RendezvousFile, domains: Mapping[str, bytes]
) -> tuple[Pattern, ...]:
    texts = file.register or [f"*.{domain}" for domain in sorted(domains)]
    if not texts:
        raise document.error(
            (),
            "nobody may register here: there is neither a domain nor `register`",
            hint='[domains] with lab = "k...", or register = ["k..."]',
            code="WS-2104",
        )
    return tuple(document.value(("register",), Pattern.parse, text) for text in texts)


def _cluster(text: str) -> tuple[str, ...]:
    """The URLs of a cluster's nodes; those after the first may leave out what it says."""
    if text == "sqlite":
        return ()
    scheme, _, rest = text.partition("://")
    if scheme not in ("redis", "rediss") or not rest:
        raise ValueError(f'{text!r} is no store: "sqlite", or "redis://host:port,host:port"')
    nodes = [node.strip() for node in text.split(",")]
    if not all(nodes):
        raise ValueError(f"{text!r} names a node without a name")
    return tuple(node if "://" in node else f"{scheme}://{node}" for node in nodes)
