"""What the kernel holds, as elements of our sets and maps, and as rules again; pure.

Elements come from nftables' JSON listing of whole sets, or one by one (look_up.py). A gate's rule
that changes the source is two elements: the one that lets packets in, and the one in `from`, under
the 5-tuple that its packets have when they leave. Elements without a comment of ours were put
there by somebody else, and are left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule

from .names import TABLE
from .nft import BLOCKED, GATE_MAPS, GATE_SETS, HOST_MAPS, LEAVING, Place, Role, key_text, places_of
from .plan import InstalledRule

_TRANSPORTS = {"tcp": Transport.TCP, "udp": Transport.UDP}
_CID_CHARACTERS = 22
_OURS = frozenset((*GATE_SETS, *GATE_MAPS, *HOST_MAPS))


@dataclass(frozen=True, slots=True)
class Element:
    """An element of ours. `data`: what it maps to, as its addresses, one, two or none.

    `timeout_s`: its own, None: the set's or none; `expires_s`: seconds left, None for ever.
    """

    set_name: str
    key: Flow
    comment: str
    data: tuple[Address, ...] = ()
    timeout_s: float | None = None
    expires_s: float | None = None
    packets: int = 0
    octets: int = 0


def parse_listing(objects: Iterable[Mapping[str, Any]]) -> list[Element]:
    """Our elements in nftables' JSON listing (the list under "nftables") of sets and maps."""
    found: list[Element] = []
    for item in objects:
        declared = item.get("set") or item.get("map")
        if declared is None or declared.get("table") != TABLE or declared["name"] not in _OURS:
            continue
        elements = (_element(str(declared["name"]), one) for one in declared.get("elem", ()))
        found += (one for one in elements if one is not None)
    return found


def rules_of_elements(elements: Sequence[Element], role: Role) -> list[InstalledRule]:
    """The rules that elements make. What is in `from` and belongs to none makes none."""
    left = {one.key: one for one in elements if one.set_name.startswith("from")}
    found = (_installed(one, left, role) for one in elements if not one.set_name.startswith("from"))
    return [one for one in found if one is not None]


def ledger_of(elements: Sequence[Element], role: Role) -> dict[str, Place]:
    """The ledger of what the kernel holds. What belongs to no rule has a partner that is not."""
    ledger = {
        slot: place
        for found in rules_of_elements(elements, role)
        for slot, place in places_of(found.rule, role).items()
    }
    for one in elements:
        slot = LEAVING + key_text(one.key)
        if one.set_name.startswith("from") and slot not in ledger:
            (source,) = one.data
            owner = _read_comment(one.comment)[0] or Cid(bytes(16))
            data = f"{source.ip} . {source.port}"
            ledger[slot] = Place(one.set_name, data, owner)
    return ledger


def left_behind(ledger: Mapping[str, Place]) -> list[str]:
    """Slots of elements in `from` whose rule is over: they do nothing, and take up room."""
    return [
        slot
        for slot, place in ledger.items()
        if slot.startswith(LEAVING) and place.set_name and place.partner not in ledger
    ]


def sets_for(slot: str, role: Role) -> list[str]:
    """The sets and maps in which the element of a slot may be."""
    family = "6" if ":" in slot else "4"
    if slot.startswith(LEAVING):
        return [f"from{family}"]
    if slot.startswith(BLOCKED):
        return [f"blocked{family}"]
    if role.is_host:
        return [name for name in HOST_MAPS if family in name]
    return [f"renewed{family}", f"timed{family}", f"renewed{family}to", f"timed{family}to"]


def flow_of_key(key: str) -> Flow:
    """A key of nft's as the 5-tuple that it is."""
    return _flow(key.split(" . "))


def _element(name: str, element: Any) -> Element | None:
    data: tuple[Address, ...] = ()
    mapped: list[Any] = []
    if isinstance(element, list):
        element, target = cast("list[Any]", element)
        mapped = target["concat"]
    about = element.get("elem")
    if about is None or _read_comment(str(about.get("comment", "")))[0] is None:
        return None
    key = _flow(about["val"]["concat"])
    if name in HOST_MAPS:
        ports = mapped[2:] or (key.source.port, key.destination.port)
        data = tuple(
            Address(ip_address(ip), int(port)) for ip, port in zip(mapped[:2], ports, strict=True)
        )
    elif mapped:
        data = (Address(ip_address(mapped[0]), int(mapped[1])),)
    counter = about.get("counter", {})
    return Element(
        name,
        key,
        str(about["comment"]),
        data,
        _seconds(about.get("timeout")),
        _seconds(about.get("expires")),
        int(counter.get("packets", 0)),
        int(counter.get("bytes", 0)),
    )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _installed(one: Element, left: Mapping[Flow, Element], role: Role) -> InstalledRule | None:
    owner, note = _read_comment(one.comment)
    if owner is None:
        return None
    renewed = one.set_name.startswith("renewed")
    lifetime_s = role.lifetime_s if renewed else one.timeout_s
    # An element that goes within this second is listed with nothing left.
    lifetime_s = None if lifetime_s is None else max(lifetime_s, 0.001)
    rewrite = _rewrite(one, owner, left)
    action = Action.DROP if one.set_name.startswith("blocked") else Action.ACCEPT
    if rewrite is not None:
        action = Action.REWRITE
    share = 2 if renewed else 1  # the look-up counts a packet, and so does the renewal behind it
    return InstalledRule(
        Rule(owner, one.key, action, rewrite, lifetime_s, renewed, note),
        one.expires_s,
        one.packets // share,
        one.octets // share,
    )


def _rewrite(one: Element, owner: Cid, left: Mapping[Flow, Element]) -> Flow | None:
    key = one.key
    if one.set_name in HOST_MAPS:
        return Flow(key.transport, *one.data)
    if one.set_name.startswith("blocked"):
        return None
    destination = one.data[0] if one.data else key.destination
    leaving = left.get(Flow(key.transport, key.source, destination))
    if leaving is None or _read_comment(leaving.comment)[0] != owner:
        return Flow(key.transport, key.source, destination) if one.data else None
    return Flow(key.transport, leaving.data[0], destination)


def _read_comment(comment: str) -> tuple[Cid | None, str]:
    cid, _, note = comment.partition(" ")
    if len(cid) != _CID_CHARACTERS:
        return None, ""
    try:
        return Cid(base64.b64decode(f"{cid}==", altchars=b"-_", validate=True)), note
    except binascii.Error:
        return None, ""


def _flow(parts: Sequence[Any]) -> Flow:
    protocol, source, sport, destination, dport = parts
    return Flow(
        _TRANSPORTS[str(protocol)],
        Address(ip_address(source), int(sport)),
        Address(ip_address(destination), int(dport)),
    )
