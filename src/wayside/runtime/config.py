"""The configuration of the daemons: what all have in common, and host.toml.

One value comes from the first of these that has it: an option, a WAYSIDE_* variable
(`WAYSIDE_LISTEN` for `listen`; lists with commas), the file, the default. Files named in a file
are relative to it. Defaults are the system's places for root (/etc/wayside, /var/lib/wayside,
/run/wayside) and the user's own (XDG) for anybody else.

Every mistake is one `ConfigError` with file and line; an unknown key names the nearest known one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from pathlib import Path
from typing import Annotated, Any

import msgspec

from wayside.core.address import Address
from wayside.core.constants import LIFETIME_MAX_S, LIFETIME_MIN_S, LIFETIME_S, SIGNALING_PORT
from wayside.core.identity import PeerIdentity, is_name, key_from_text
from wayside.core.policy import Pattern, checked_service
from wayside.core.virtual import DEFAULT_V6_PREFIX
from wayside.kernel.names import V6_PREFIX_LENGTH

from .document import Document, Place
from .keyfile import read_certificate
from .legacy import Fallback, Gates, key_of_nobody, leave_of
from .spellings import public_key, signaling_address
from .steering import (
    Addresses,
    Steering,
    read_addresses,
    read_domains,
    read_steering,
)

IPV6_PREFIX = IPv6Network(DEFAULT_V6_PREFIX)
"""Virtual IPv6 addresses of peers, where nobody chooses others."""

Port = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
Lifetime = Annotated[float, msgspec.Meta(ge=LIFETIME_MIN_S, le=LIFETIME_MAX_S)]


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of a daemon: its key, what it keeps, its control socket, its event log."""

    key: Path
    state: Path
    socket: Path
    log: Path
    certificate: Path | None = None
    policy: Path | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A host that we know by name: who it is, and where it, or its rendezvous, is asked."""

    identity: PeerIdentity
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A service that this host offers: its local port, and who may use it (empty: anyone)."""

    port: int
    allow: tuple[Pattern, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What `wayside host` runs with.

    `listen`: UDP port. `lifetime_s`: what it asks for its connections. `domains`: name to public
    key (32 bytes). `peers` and `services` by name. `steering`: what it knows of rendezvous.
    `mptcp`: it signals and makes MPTCP's further subflows, in all of its network namespace.
    `nat_lets_in`: a NAT before it that says nothing lets everything in (R-12.6).
    """

    name: str
    paths: Paths
    listen: int = SIGNALING_PORT
    lifetime_s: float = LIFETIME_S
    ipv6_prefix: IPv6Network = IPV6_PREFIX
    domains: Mapping[str, bytes]
    peers: Mapping[str, Peer]
    services: Mapping[str, Service]
    steering: Steering = field(default_factory=Steering)
    mptcp: bool = False
    nat_lets_in: bool = False


class DaemonFile(msgspec.Struct, kw_only=True):
    """The keys of every daemon's file; those of one role come on top."""

    name: str = ""
    key: str = ""
    listen: Port = SIGNALING_PORT
    state: str = ""
    socket: str = ""
    log: str = ""
    lifetime_s: Lifetime = LIFETIME_S
    policy: str = ""
    domains: dict[str, str] = {}


class _HostFile(DaemonFile, kw_only=True):
    certificate: str = ""
    ipv6_prefix: str = str(IPV6_PREFIX)
    peers: dict[str, dict[str, Any]] = {}
    services: dict[str, Any] = {}
    domains: dict[str, str | dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    rendezvous: list[dict[str, Any]] = []
    redirectors: list[str] = []
    approvers: list[str] = []
    home: str = ""
    mptcp: bool = False
    nat_lets_in: bool = False


class _PeerFile(msgspec.Struct):
    key: str = ""
    addresses: list[str] = []
    certificate: str = ""
    rendezvous: Addresses = ""
    legacy: Gates = "no"
    fallback: Fallback = "no"


class _ServiceFile(msgspec.Struct):
    port: Port
    allow: Annotated[list[str], msgspec.Meta(min_length=1)] = []


def load_host(
    path: Path | None, flags: Mapping[str, object], environ: Mapping[str, str]
) -> HostConfig:
    """Read host.toml; `path` None takes the default file where it is there.

    `flags`: options by key, those not given left out. Raises ConfigError and WaysideError.
    """
    document = open_document("host", path, flags, environ, _HostFile)
    file = document.convert(document.data, _HostFile)
    paths = paths_of("host", document, file, environ)
    return HostConfig(
        name=file.name,
        paths=paths,
        listen=file.listen,
        lifetime_s=file.lifetime_s,
        ipv6_prefix=document.value(("ipv6_prefix",), _virtual_prefix, file.ipv6_prefix),
        domains=read_domains(document, file.domains),
        peers={name: _peer(document, name, raw) for name, raw in file.peers.items()},
        services={name: _service(document, name, raw) for name, raw in file.services.items()},
        steering=read_steering(
            document, file.rendezvous, file.domains, file.redirectors, file.approvers, file.home
        ),
        mptcp=file.mptcp,
        nat_lets_in=file.nat_lets_in,
    )


def default_socket(role: str, environ: Mapping[str, str]) -> Path:
    """Where the control socket of a role is, for daemon and command alike."""
    chosen = environ.get("WAYSIDE_SOCKET")
    if chosen:
        return Path(chosen)
    user = environ.get("XDG_RUNTIME_DIR")
    own = Path(user) / "wayside" / f"{role}.sock" if user and os.geteuid() else None
    return own or Path("/run/wayside") / f"{role}.sock"


def open_document(
    role: str,
    path: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    kind: type[DaemonFile],
) -> Document:
    """A role's file, with the environment and the options (`flags`) put over it."""
    if path is None and "WAYSIDE_CONFIG" in environ:
        path = Path(environ["WAYSIDE_CONFIG"])
    default = config_directory(environ) / f"{role}.toml"
    if path is None and default.exists():
        path = default
    document = Document.read(path) if path else Document(None)
    for known in msgspec.structs.fields(kind):
        key, variable = known.encode_name, f"WAYSIDE_{known.encode_name.upper()}"
        if key in flags:
            document.put(key, flags[key], f"--{key.replace('_', '-')}")
        elif variable in environ:
            document.put(key, _from_text(environ[variable], known.type), variable)
    return document


def _from_text(text: str, kind: Any) -> object:
    """A variable's text as the type of its key; what does not fit stays text, and is refused."""
    if kind == list[str]:
        return [item.strip() for item in text.split(",")]
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        return text


def config_directory(environ: Mapping[str, str]) -> Path:
    """Where configuration files are: the system's place for root, a user's own for others."""
    if os.geteuid() == 0:
        return Path("/etc/wayside")
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "wayside"


def paths_of(role: str, document: Document, file: DaemonFile, environ: Mapping[str, str]) -> Paths:
    """The files of a daemon, as its configuration or the defaults have them."""
    base = document.path.parent if document.path else Path()
    if os.geteuid() == 0:
        state = Path("/var/lib/wayside")
    else:
        home = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        state = Path(home) / "wayside"
    if file.state:
        state = base / file.state
    certificate: str = getattr(file, "certificate", "")
    return Paths(
        key=base / file.key if file.key else config_directory(environ) / f"{role}.key",
        state=state,
        socket=base / file.socket if file.socket else default_socket(role, environ),
        log=base / file.log if file.log else state / f"{role}.events",
        certificate=base / certificate if certificate else None,
        policy=base / file.policy if file.policy else None,
    )


def domains_of(document: Document, file: DaemonFile) -> dict[str, bytes]:
    """The public keys of the domains that are believed."""
    return {
        name: document.value(("domains", name), public_key, text)
        for name, text in file.domains.items()
    }


def _peer(document: Document, name: str, raw: object) -> Peer:
    at: Place = ("peers", name)
    if not is_name(name) and key_from_text(name) is None:
        raise document.error(at, f"`{name}` is not a name such as server.lab, nor a key")
    file = document.convert(raw, _PeerFile, at)
    base = document.path.parent if document.path else Path()
    leave = leave_of(file.legacy, file.fallback)
    if not file.key and not (leave.gate or leave.plain):
        raise document.error(
            at,
            "the key `key` is missing",
            hint='`legacy = "gate"` or `fallback = "plain"`, if it knows nothing of wayside',
            code="WS-2104",
        )
    identity = PeerIdentity(
        document.value((*at, "key"), public_key, file.key) if file.key else key_of_nobody(name),
        name if is_name(name) else "",
        read_certificate(base / file.certificate) if file.certificate else b"",
        leave,
    )
    if file.rendezvous and file.addresses:
        raise document.error(
            (*at, "rendezvous"),
            f"`{name}` has `addresses` and a `rendezvous`",
            hint="a rendezvous is asked where a host is; leave one of the two out",
        )
    if file.rendezvous:
        asked = read_addresses(document, (*at, "rendezvous"), file.rendezvous)
        return Peer(identity, asked)
    addresses = (
        document.value((*at, "addresses"), signaling_address, text) for text in file.addresses
    )
    return Peer(identity, tuple(addresses))


def _service(document: Document, name: str, raw: object) -> Service:
    at: Place = ("services", name)
    document.value(at, checked_service, name)
    if isinstance(raw, int):  # `https = 8443` is short for `https = { port = 8443 }`
        raw = {"port": raw}
    file = document.convert(raw, _ServiceFile, at)
    allow = tuple(document.value((*at, "allow"), Pattern.parse, text) for text in file.allow)
    return Service(file.port, allow)


def _virtual_prefix(text: str) -> IPv6Network:
    prefix = IPv6Network(text)
    if prefix.prefixlen != V6_PREFIX_LENGTH or "%" in text:
        raise ValueError(f"{text!r} is not a /{V6_PREFIX_LENGTH}")
    return prefix
