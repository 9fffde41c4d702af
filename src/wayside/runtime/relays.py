"""[relays] of gate.toml and rendezvous.toml: where `via` of a policy's rule leads.

    [relays]
    proxy = ["10.2.0.2", "fd00:2::2"]                   # passes on to who was asked for
    cache = { address = "10.2.0.3", key = "k..." }      # answers in that one's place

One address, or one for each family. A relay passes on what is sent to it; who has a `key` here is a
host of its own, that the one who asks is told to talk to instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wayside.core.address import Address

from .document import Document
from .spellings import public_key, signaling_address

Addresses = str | list[str]
RelayFile = Addresses | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Relays:
    """Addresses by name, one of each family; keys (32 bytes) of those who answer instead."""

    addresses: Mapping[str, tuple[Address, ...]] = field(
        default_factory=dict[str, tuple[Address, ...]]
    )
    instead: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


class _InsteadFile(msgspec.Struct):
    address: Addresses
    key: str


def read_relays(document: Document, raw: Mapping[str, RelayFile]) -> Relays:
    """Read all of it. Raises ConfigError with the line of what is wrong."""
    addresses: dict[str, tuple[Address, ...]] = {}
    instead: dict[str, bytes] = {}
    for name, told in raw.items():
        texts: Addresses
        if isinstance(told, dict):
            file = document.convert(told, _InsteadFile, ("relays", name))
            instead[name] = document.value(("relays", name, "key"), public_key, file.key)
            texts = file.address
        else:
            texts = told
        listed = [texts] if isinstance(texts, str) else texts
        found = [document.value(("relays", name), signaling_address, text) for text in listed]
        if not found or len({address.family for address in found}) < len(found):
            raise document.error(("relays", name), "one address, or one for each family")
        addresses[name] = tuple(found)
    return Relays(addresses, instead)
