"""Rules as nftables text; pure, nothing is run here.

One table, `inet wayside`. A rule is an element of a set or map, with the cid and the note in its
comment, so that a restarted daemon reads its connections back from the kernel (listing.py):

    gate   renewed4/6      let in; packets set it back to the table's lifetime
           timed4/6        let in; for its own lifetime, whatever packets come (pending rules)
           renewed4to/6to, timed4to/6to   the same, and their destination becomes another
           from4/6         the source becomes another, as they leave: key is the 5-tuple by then
           blocked4/6      drop
    host   out4/6, in4/6      rewrite both addresses (ports stay): key : source . destination
           out4p/6p, in4p/6p  the same with ports

A gate's rule that changes the source is two elements, which come and go together; what is in
`from` alone does nothing, because only what was let in gets another source. The chains that look
these up are in skeleton.py. The ledger remembers which element is where, because nft has no
"delete if there": to be sure of a change, what may have expired meanwhile is added again, as it
was, then deleted, then added as it should be, in one transaction.
"""

from __future__ import annotations

import base64
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from wayside.core.address import IP, Flow, Transport
from wayside.core.rule import Action, Cid, Rule

from .names import TABLE
from .plan import Change, KernelError, Put, Remove, outlives_table

_PROTOCOLS = {Transport.TCP: "tcp", Transport.MPTCP: "tcp", Transport.UDP: "udp"}

GATE_SETS = tuple(f"{name}{family}" for name in ("renewed", "timed", "blocked") for family in "46")
GATE_MAPS = tuple(
    name for family in "46" for name in (f"renewed{family}to", f"timed{family}to", f"from{family}")
)
HOST_MAPS = tuple(
    f"{way}{family}{p}" for way in ("out", "in") for family in "46" for p in ("", "p")
)

FROM_SLACK_S = 1.0
"""How much longer the new source of a pending rule stays than the rule: never less long."""


@dataclass(frozen=True, slots=True)
class Role:
    """Who the table is for. `own`: a host's virtual addresses; `lifetime_s`: a gate's, else 0."""

    own: frozenset[IP] = frozenset()
    lifetime_s: float = 0.0

    @property
    def is_host(self) -> bool:
        """A host's table has rules for its own sockets, a gate's for what passes."""
        return bool(self.own)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element is: its set or map, the data it maps to (or ""), and whose it is.

    `partner`: the slot of the other half of a gate's rewriting rule. A leaving slot without a set
    says only that a rule's packets leave as this 5-tuple.
    """

    set_name: str
    data: str
    owner: Cid
    partner: str = ""


BLOCKED, LEAVING = "blocked ", "leaving "
"""A slot, under which the ledger knows a place, is the element's key as nft spells it; of these two
kinds with such a word in front, because they stand beside another rule of the same key."""


class InUse(KernelError):
    """Another rule's packets leave as the same 5-tuple. `slot`: the other rule's."""

    def __init__(self, slot: str) -> None:
        what = "another connection leaves this gate as the same 5-tuple"
        super().__init__(what, "use another port, or close the other connection")
        self.slot = slot


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


def key_of_slot(slot: str) -> str:
    """The key of the element in a slot."""
    return slot.removeprefix(BLOCKED).removeprefix(LEAVING)


def slot_of(rule: Rule) -> str:
    """A rule's slot. A match has at most one rule that lets it in, and one that blocks it."""
    key = key_text(rule.match)
    return BLOCKED + key if rule.action is Action.DROP else key


def places_of(rule: Rule, role: Role) -> dict[str, Place]:
    """Slots and places of a rule's elements, its own slot first. Raises KernelError."""
    slot = slot_of(rule)
    if role.is_host:
        return {slot: _host_place(rule, role)}
    family = rule.match.family
    if rule.action is Action.DROP:
        return {slot: Place(f"blocked{family}", "", rule.owner)}
    name = f"renewed{family}" if outlives_table(rule, role.lifetime_s) else f"timed{family}"
    if rule.rewrite is None:
        return {slot: Place(name, "", rule.owner)}
    before, after = rule.match, rule.rewrite
    if before == after:
        raise KernelError("a rule that rewrites nothing", "this is a bug")
    leaving = LEAVING + key_text(Flow(before.transport, before.source, after.destination))
    place = Place(name, "", rule.owner, leaving)
    if before.destination != after.destination:
        data = f"{_text(after.destination.ip)} . {after.destination.port}"
        place = Place(f"{name}to", data, rule.owner, leaving)
    left = Place("", "", rule.owner, slot)
    if before.source != after.source:
        data = f"{_text(after.source.ip)} . {after.source.port}"
        left = Place(f"from{family}", data, rule.owner, slot)
    return {slot: place, leaving: left}


def _host_place(rule: Rule, role: Role) -> Place:
    if rule.action is not Action.REWRITE:
        raise KernelError("a host's table only rewrites", "this is a bug")
    if rule.renewed_by_packets:
        raise KernelError("packets do not renew a host's rule", "this is a bug")
    way = "out" if rule.match.source.ip in role.own else "in"
    return Place(f"{way}{rule.match.family}{_ports_differ(rule)}", _data_text(rule), rule.owner)


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


News = dict[str, Place | None]
"""What a transaction changes in the ledger; None: gone."""


def compile_changes(
    changes: Sequence[Change], ledger: Mapping[str, Place], role: Role
) -> tuple[str, News]:
    """The nft text of one transaction, and what it changes in the ledger.

    Raises KernelError for a rule that the role cannot hold, and InUse; nothing is changed then.
    """
    news: News = {}
    view: Mapping[str, Place | None] = ChainMap(news, cast("News", ledger))
    lines: list[str] = []
    for change in changes:
        rule, slot = change.rule, slot_of(change.rule)
        before = view.get(slot)
        match change:
            case Put():
                places = places_of(rule, role)
                if before is not None:
                    lines += _forget_rule(slot, before, view, news)
                if not role.is_host and rule.action is not Action.DROP:
                    lines += _clear_the_way(slot, places[slot], view, news)
                lines += _add(rule, places)
                news.update(places)
            case Remove():
                if before is not None and before.owner == rule.owner:
                    lines += _forget_rule(slot, before, view, news)
    return "\n".join(lines), news


def _forget_rule(
    slot: str, place: Place, view: Mapping[str, Place | None], news: News
) -> Iterator[str]:
    """Delete all elements of the rule in a slot."""
    yield from _forget(slot, place)
    news[slot] = None
    left = view.get(place.partner) if place.partner else None
    if left is not None and left.partner == slot:
        yield from _forget(place.partner, left)
        news[place.partner] = None


def _clear_the_way(
    slot: str, place: Place, view: Mapping[str, Place | None], news: News
) -> Iterator[str]:
    """See that no other rule's packets leave as this rule's do. Raises InUse.

    Behind the routing decision the two could not be told apart, nor could their answers be.
    """
    leaving = place.partner or LEAVING + slot
    left = view.get(leaving)
    if left is not None:
        if view.get(left.partner) is not None:
            raise InUse(left.partner)
        yield from _forget(leaving, left)  # what a rule that is over has left behind
        news[leaving] = None
    straight = key_of_slot(leaving)
    if straight != slot:
        other = view.get(straight)
        if other is not None and not other.set_name.endswith("to"):
            raise InUse(straight)


def _add(rule: Rule, places: Mapping[str, Place]) -> Iterator[str]:
    lifetime_s = rule.lifetime_s
    for slot, place in places.items():
        if place.set_name.startswith("renewed"):
            lifetime_s = None
        elif lifetime_s is not None and slot.startswith(LEAVING):
            lifetime_s += FROM_SLACK_S
        if place.set_name:
            yield _element("add", slot, place, _options(lifetime_s, rule))


def _options(lifetime_s: float | None, rule: Rule) -> str:
    timeout = ""
    if lifetime_s is not None:
        milliseconds = max(1, round(lifetime_s * 1000))
        timeout = f" timeout {milliseconds // 1000}s{milliseconds % 1000}ms"
    return f'{timeout} comment "{comment_of(rule)}"'


def forget_text(slot: str, place: Place) -> str:
    """What deletes an element, whether it is still there or not."""
    return "\n".join(_forget(slot, place))


def _forget(slot: str, place: Place) -> Iterator[str]:
    if place.set_name:
        yield _element("add", slot, place, "")
        yield f"delete element inet {TABLE} {place.set_name} {{ {key_of_slot(slot)} }}"


def _element(verb: str, slot: str, place: Place, options: str) -> str:
    data = f" : {place.data}" if place.data else ""
    return f"{verb} element inet {TABLE} {place.set_name} {{ {key_of_slot(slot)}{options}{data} }}"
