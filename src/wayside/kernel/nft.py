"""Rules as nftables text, and nftables' own listing as rules again; pure, nothing is run here.

One table, `inet wayside`. A rule is one element of a set or map, with the cid and the note in its
comment, so that a restarted daemon reads its connections back from the kernel:

    gate   renewed4/6   accept; packets set it back to the table's lifetime
           timed4/6     accept; for its own lifetime, whatever packets come (pending rules)
           blocked4/6   drop
    host   out4/6, in4/6      rewrite both addresses (ports stay): key : source . destination
           out4p/6p, in4p/6p  the same with ports

The chains that look these up are in skeleton.py. The ledger remembers which element is where,
because nft has no "delete if there": to be sure of a change, what may have expired meanwhile is
added again, as it was, then deleted, then added as it should be, in one transaction.
"""

from __future__ import annotations

import base64
import binascii
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, cast

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule

from .names import TABLE
from .plan import Change, InstalledRule, KernelError, Put, Remove, outlives_table

_PROTOCOLS = {Transport.TCP: "tcp", Transport.MPTCP: "tcp", Transport.UDP: "udp"}
_TRANSPORTS = {"tcp": Transport.TCP, "udp": Transport.UDP}

GATE_SETS = tuple(f"{name}{family}" for name in ("renewed", "timed", "blocked") for family in "46")
HOST_MAPS = tuple(
    f"{way}{family}{p}" for way in ("out", "in") for family in "46" for p in ("", "p")
)

_CID_CHARACTERS = 22


@dataclass(frozen=True, slots=True)
class Role:
    """Who the table is for. `own`: a host's virtual addresses; `lifetime_s`: a gate's, else 0."""

    own: frozenset[IP] = frozenset()
    lifetime_s: float = 0.0

    @property
    def is_host(self) -> bool:
        """A host rewrites, a gate accepts and drops."""
        return bool(self.own)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element is: its set or map, the data it maps to (or ""), and whose it is."""

    set_name: str
    data: str
    owner: Cid


Ledger = MutableMapping[str, Place]
"""By the element's key as nft spells it."""


def key_text(flow: Flow) -> str:
    """A 5-tuple as the key of an element. Raises KernelError for a connection without packets."""
    protocol = _PROTOCOLS.get(flow.transport)
    if protocol is None:
        raise KernelError(f"{flow} has no packets that a rule could fit", "this is a bug")
    a, b = flow.source, flow.destination
    return f"{protocol} . {_text(a.ip)} . {a.port} . {_text(b.ip)} . {b.port}"


@lru_cache(maxsize=4096)  # an address takes 2 us to format, and the same few come again and again
def _text(ip: IP) -> str:
    return str(ip)


def place_of(rule: Rule, role: Role) -> Place:
    """Which set or map a rule belongs to. Raises KernelError for what the role cannot do."""
    family = rule.match.family
    if rule.action is Action.REWRITE:
        if not role.is_host or rule.rewrite is None:
            raise KernelError("a gate's table does not rewrite", "this is a bug")
        if rule.renewed_by_packets:
            raise KernelError("packets do not renew a rewriting rule", "this is a bug")
        way = "out" if rule.match.source.ip in role.own else "in"
        return Place(f"{way}{family}{_ports_differ(rule)}", _data_text(rule), rule.owner)
    if role.is_host:
        raise KernelError("a host's table only rewrites", "this is a bug")
    if rule.action is Action.DROP:
        return Place(f"blocked{family}", "", rule.owner)
    renewed = outlives_table(rule, role.lifetime_s)
    return Place(f"{'renewed' if renewed else 'timed'}{family}", "", rule.owner)


def _ports_differ(rule: Rule) -> str:
    after = rule.rewrite
    assert after is not None
    before = rule.match
    ports = (before.source.port, before.destination.port)
    return "" if ports == (after.source.port, after.destination.port) else "p"


def _data_text(rule: Rule) -> str:
    after = rule.rewrite
    assert after is not None
    addresses = f"{after.source.ip} . {after.destination.ip}"
    if not _ports_differ(rule):
        return addresses
    return f"{addresses} . {after.source.port} . {after.destination.port}"


def comment_of(rule: Rule) -> str:
    """The comment of a rule's element: 22 characters of cid (base64url), a space, the note."""
    cid = base64.urlsafe_b64encode(rule.owner).decode().rstrip("=")
    return f"{cid} {rule.note}" if rule.note else cid


def compile_changes(
    changes: Sequence[Change], ledger: Mapping[str, Place], role: Role
) -> tuple[str, dict[str, Place | None]]:
    """The nft text of one transaction, and what it changes in the ledger (None: gone).

    Raises KernelError for a rule that the role cannot hold; nothing is changed then.
    """
    news: dict[str, Place | None] = {}
    view: Mapping[str, Place | None] = ChainMap(news, cast("dict[str, Place | None]", ledger))
    lines: list[str] = []
    for change in changes:
        key = key_text(change.rule.match)
        before = view.get(key)
        match change:
            case Put(rule):
                after = place_of(rule, role)
                if before is not None:
                    lines += _forget(key, before)
                lines.append(_element("add", key, after, _options(rule, after)))
                news[key] = after
            case Remove(rule):
                if before is not None and before.owner == rule.owner:
                    lines += _forget(key, before)
                    news[key] = None
    return "\n".join(lines), news


def _options(rule: Rule, place: Place) -> str:
    timeout = ""
    if rule.lifetime_s is not None and not place.set_name.startswith("renewed"):
        milliseconds = max(1, round(rule.lifetime_s * 1000))
        timeout = f" timeout {milliseconds // 1000}s{milliseconds % 1000}ms"
    return f'{timeout} comment "{comment_of(rule)}"'


def _forget(key: str, place: Place) -> Iterator[str]:
    yield _element("add", key, place, "")
    yield f"delete element inet {TABLE} {place.set_name} {{ {key} }}"


def _element(verb: str, key: str, place: Place, options: str) -> str:
    data = f" : {place.data}" if place.data else ""
    return f"{verb} element inet {TABLE} {place.set_name} {{ {key}{options}{data} }}"


def ledger_of(installed: Iterable[InstalledRule], role: Role) -> dict[str, Place]:
    """The ledger of what the kernel holds."""
    return {key_text(found.rule.match): place_of(found.rule, role) for found in installed}


def parse_listing(objects: Iterable[Mapping[str, Any]], role: Role) -> list[InstalledRule]:
    """Rules out of nftables' JSON listing (the list under "nftables") of our sets and maps.

    Elements without a comment of ours were put there by somebody else, and are left out.
    """
    found: list[InstalledRule] = []
    for item in objects:
        declared = item.get("set") or item.get("map")
        if declared is None or declared.get("table") != TABLE:
            continue
        name = str(declared["name"])
        if name not in GATE_SETS and name not in HOST_MAPS:
            continue
        for element in declared.get("elem", ()):
            installed = _installed(name, element, role)
            if installed is not None:
                found.append(installed)
    return found


def _installed(name: str, element: Any, role: Role) -> InstalledRule | None:
    data: list[Any] = []
    if isinstance(element, list):
        element, mapped = cast("list[Any]", element)
        data = mapped["concat"]
    about = element.get("elem")
    if about is None:
        return None
    owner, note = _read_comment(str(about.get("comment", "")))
    if owner is None:
        return None
    match = _flow(about["val"]["concat"])
    renewed = name.startswith("renewed")
    action = Action.REWRITE if data else Action.DROP if name[0] == "b" else Action.ACCEPT
    ports = data[2:] or [match.source.port, match.destination.port]
    rewrite = None
    if data:
        protocol = _PROTOCOLS[match.transport]
        rewrite = _flow([protocol, data[0], ports[0], data[1], ports[1]])
    lifetime_s = role.lifetime_s if renewed else about.get("timeout")
    # An element that goes within this second is listed with nothing left.
    lifetime_s = None if lifetime_s is None else max(float(lifetime_s), 0.001)
    rule = Rule(owner, match, action, rewrite, lifetime_s, renewed, note)
    counter = about.get("counter", {})
    share = 2 if renewed else 1  # the look-up counts a packet, and so does the renewal behind it
    expires = about.get("expires")
    return InstalledRule(
        rule,
        None if expires is None else float(expires),
        int(counter.get("packets", 0)) // share,
        int(counter.get("bytes", 0)) // share,
    )


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
