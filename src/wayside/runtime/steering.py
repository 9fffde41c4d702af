"""What a host is told of who may steer it: where it registers, who redirects it, who names hosts.

redirectors = ["k..."]       # gates and rendezvous that may send us another way (R-5.7.1)
approvers = ["k..."]         # whoever wants something needs the approval of one of these
home = "10.9.0.1"            # where those are sent who come without

[[rendezvous]]               # where we register; it may redirect us, too
key = "k..."
address = ["10.9.0.1", "fd00:9::1"]      # one, or one for each family

[domains]
lab = { key = "k...", rendezvous = "10.9.0.1", rendezvous_key = "k..." }   # asked for names

[peers."files.lab"]
key = "k..."
rendezvous = "10.9.0.1"      # asked in place of an address
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from wayside.core.address import Address

from .document import Document, Place
from .spellings import public_key, signaling_address

Addresses = str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=2)]
"""One address, or one for each family."""


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """A rendezvous: its key (32 bytes), and where it is asked."""

    key: bytes
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Steering:
    """`registers`: where this host says where it is; `names`: who is asked, by domain.

    `redirectors` and `approvers`: keys, 32 bytes each. `home`: where those without approval go.
    """

    registers: tuple[Rendezvous, ...] = ()
    names: Mapping[str, Rendezvous] = field(default_factory=dict[str, Rendezvous])
    redirectors: tuple[bytes, ...] = ()
    approvers: tuple[bytes, ...] = ()
    home: Address | None = None

    @property
    def trusted(self) -> tuple[bytes, ...]:
        """Who may redirect us: those that are named, and every rendezvous of ours."""
        asked = (*self.registers, *self.names.values())
        return tuple(dict.fromkeys((*self.redirectors, *(one.key for one in asked))))


class _RendezvousFile(msgspec.Struct):
    key: str
    address: Addresses


class _DomainFile(msgspec.Struct):
    key: str
    rendezvous: Addresses = ""
    rendezvous_key: str = ""


def read_steering(
    document: Document,
    registers: Sequence[dict[str, Any]],
    domains: Mapping[str, str | dict[str, Any]],
    redirectors: Sequence[str],
    approvers: Sequence[str],
    home: str,
) -> Steering:
    """Read all of it. Raises ConfigError with the line of what is wrong."""
    known = tuple(
        _rendezvous(document, ("rendezvous", number), raw) for number, raw in enumerate(registers)
    )
    names = {
        name: asked
        for name, raw in domains.items()
        if isinstance(raw, dict)
        for asked in [_asked_for_names(document, name, raw, known)]
        if asked is not None
    }
    return Steering(
        known,
        names,
        tuple(document.value(("redirectors",), public_key, text) for text in redirectors),
        tuple(document.value(("approvers",), public_key, text) for text in approvers),
        document.value(("home",), signaling_address, home) if home else None,
    )


def read_domains(
    document: Document, domains: Mapping[str, str | dict[str, Any]]
) -> dict[str, bytes]:
    """The public key of every domain, 32 bytes, whether it is spelt short or in a table."""
    keys: dict[str, bytes] = {}
    for name, raw in domains.items():
        at: Place = ("domains", name)
        text = raw if isinstance(raw, str) else document.convert(raw, _DomainFile, at).key
        keys[name] = document.value(at if isinstance(raw, str) else (*at, "key"), public_key, text)
    return keys


def read_addresses(document: Document, at: Place, told: Addresses) -> tuple[Address, ...]:
    """One address, or one for each family. Raises ConfigError."""
    texts = [told] if isinstance(told, str) else told
    found = tuple(document.value(at, signaling_address, text) for text in texts)
    if len({address.family for address in found}) < len(found):
        raise document.error(at, f"two addresses of IPv{found[0].family}; one for each family")
    return found


def _rendezvous(document: Document, at: Place, raw: dict[str, Any]) -> Rendezvous:
    file = document.convert(raw, _RendezvousFile, at)
    return Rendezvous(
        document.value((*at, "key"), public_key, file.key),
        read_addresses(document, (*at, "address"), file.address),
    )


def _asked_for_names(
    document: Document, name: str, raw: dict[str, Any], known: Sequence[Rendezvous]
) -> Rendezvous | None:
    """Who is asked for names of a domain; its key may be that of a rendezvous of ours."""
    at: Place = ("domains", name)
    file = document.convert(raw, _DomainFile, at)
    if not file.rendezvous:
        return None
    addresses = read_addresses(document, (*at, "rendezvous"), file.rendezvous)
    if file.rendezvous_key:
        key = document.value((*at, "rendezvous_key"), public_key, file.rendezvous_key)
        return Rendezvous(key, addresses)
    for one in known:
        if set(addresses) <= set(one.addresses):
            return Rendezvous(one.key, addresses)
    raise document.error(
        (*at, "rendezvous"),
        "the key `rendezvous_key` is missing",
        hint="only a rendezvous of [[rendezvous]] needs none",
        code="WS-2104",
    )
