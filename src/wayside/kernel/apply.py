"""The one file that changes nftables: our table, by way of libnftables inside this process.

A transaction is one text; the kernel takes all of it or nothing. It costs 0.08 ms whatever the
table holds (measured to 100,000 elements), because nothing that is asked here makes libnftables
read the table first. If one fails, what the kernel holds under the keys in question is looked up,
and it is tried once more. Setting up finds a table of a former life with its elements and keeps it,
if its chains are the same; else it is made anew with the same rules in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, cast

import nftables
from pyroute2.netlink.exceptions import NetlinkError

from wayside.core.address import Flow
from wayside.core.rule import Action, Rule

from . import hotpath
from .doctor import Diagnosis, diagnose
from .foreign import ForeignMappings
from .listing import (
    Element,
    flow_of_key,
    ledger_of,
    left_behind,
    parse_listing,
    rules_of_elements,
    sets_for,
)
from .look_up import Elements
from .names import CHANGES_MAX, TABLE
from .nft import (
    BLOCKED,
    GATE_MAPS,
    GATE_SETS,
    HOST_MAPS,
    LEAVING,
    InUse,
    News,
    Place,
    Role,
    compile_changes,
    forget_text,
    key_of_slot,
    key_text,
    places_of,
    slot_of,
)
from .plan import Change, InstalledRule, KernelError, Put
from .skeleton import Parts, Skeleton

_LEDGER_SLACK = 65_536
"""Places of elements that have expired unseen; then the ledger is read anew from the kernel."""


class NftDataPlane:
    """Our table in the kernel's nftables. Needs CAP_NET_ADMIN over the network namespace.

    Raises KernelError when libnftables cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            self._nft = nftables.Nftables()
        except OSError as error:
            raise KernelError(
                f"libnftables cannot be loaded: {error}", "apt-get install libnftables1"
            ) from error
        self._role = Role()
        self._elements: Elements | None = None
        self._foreign = ForeignMappings()
        self._ledger: dict[str, Place] = {}
        self._ledger_max = _LEDGER_SLACK
        self._missing: Parts = ()

    def setup(self, role: Role, skeleton: Skeleton) -> None:
        """Make the table, or find it. Rules that are in force stay. Raises KernelError."""
        self._role, self._missing = role, skeleton.parts
        if self._has_chain(skeleton.name):
            self._missing = tuple(
                (sets, part) for sets, part in skeleton.parts if not self._has_chain(part.name)
            )
            self._read_ledger()
            return
        kept = [Put(found.rule) for found in self.rules()] if self._has_table() else []
        if self._has_table():
            self._run(f"delete table inet {TABLE}")
        self._build(skeleton)
        self._ledger = {}
        self.apply(kept)

    def prepare(self, set_names: Collection[str]) -> None:
        """Make the parts of the table that rules in these sets need. Raises KernelError.

        It takes a tenth of a second: of a first packet's time, if it is left to the first rule.
        """
        for sets, part in self._missing:
            if not sets.isdisjoint(set_names):
                self._build(part)
                self._missing = tuple(one for one in self._missing if one[1] is not part)

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes or none; more than CHANGES_MAX go in several transactions.

        Half as many, if there is one among them that rewrites.

        Raises KernelError, with nothing of the transaction applied.
        """
        most = CHANGES_MAX
        if any(change.rule.action is Action.REWRITE for change in changes):
            most //= 2  # a gate's rule that rewrites is two elements
        for start in range(0, len(changes), most):
            self._apply_once(changes[start : start + most])

    def rules(self) -> list[InstalledRule]:
        """All rules that are in force, from the kernel. Takes 40 us a rule. Raises KernelError."""
        return rules_of_elements(self._list_elements(), self._role)

    def rules_of(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        """Those rules that are in force for these 5-tuples, whatever else the table holds.

        Takes 60 us an element; nothing for a match that has no rule. Raises KernelError.
        """
        found: list[Element] = []
        for match in matches:
            key = key_text(match)
            for slot in (key, BLOCKED + key):
                place = self._ledger.get(slot)
                if place is None:
                    continue
                found += self._find(key, [place.set_name])
                left = self._ledger.get(place.partner) if place.partner else None
                if left is not None and left.set_name:
                    found += self._find(key_of_slot(place.partner), [left.set_name])
        return rules_of_elements(found, self._role)

    def diagnose(self) -> list[Diagnosis]:
        """Chains of others that may drop what we let through. Raises KernelError."""
        return diagnose(self._list("list ruleset"))

    def teardown(self) -> None:
        """Take our table away with all its rules. Raises KernelError."""
        if self._has_table():
            self._run(f"delete table inet {TABLE}")
        self._ledger = {}

    def _apply_once(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, Put) and not self._role.is_host:
                self._check_is_free(change.rule)
        try:
            news = self._try(changes)
        except KernelError as error:
            # An element that the ledger does not know, or knows otherwise: look, and try again.
            self._look_again(changes, error)
            news = self._try(changes)
        self._note(news)
        if len(self._ledger) > self._ledger_max:
            self._read_ledger()

    def _check_is_free(self, rule: Rule) -> None:
        """Raise KernelError if a new rule would lend what somebody else has."""
        after = rule.rewrite
        if after is None or after.source == rule.match.source or slot_of(rule) in self._ledger:
            return
        if self._foreign.has(after):
            raise KernelError(
                f"somebody else's packets leave this box as {after}",
                "give the NAT ports of its own: `ports` in [nat] of gate.toml",
            )

    def _try(self, changes: Sequence[Change]) -> News:
        text, news = compile_changes(changes, self._ledger, self._role)
        self.prepare({place.set_name for place in news.values() if place is not None})
        if text:
            self._run(text)
        return news

    def _build(self, skeleton: Skeleton) -> None:
        self._run(skeleton.first)
        try:
            hotpath.install(skeleton.hot)
        except NetlinkError as error:
            raise KernelError(
                f"the kernel does not take the rules of the fast path: {error}",
                "wayside doctor checks what this kernel has to offer",
            ) from error
        self._run(skeleton.then)

    def _note(self, news: News) -> None:
        for slot, place in news.items():
            if place is None:
                self._ledger.pop(slot, None)
            else:
                self._ledger[slot] = place

    def _look_again(self, changes: Sequence[Change], error: KernelError) -> None:
        """Bring the ledger up to date for all that these changes touch, and for nothing else."""
        slots: set[str] = {error.slot} if isinstance(error, InUse) else set()
        for change in changes:
            slots |= set(places_of(change.rule, self._role))
        for slot in list(slots):
            known = self._ledger.get(slot)
            slots |= {known.partner} if known is not None and known.partner else set()
        found: list[Element] = []
        for slot in slots:
            found += self._find(key_of_slot(slot), sets_for(slot, self._role))
            self._ledger.pop(slot, None)
        for element in list(found):
            if element.set_name.endswith("to"):
                leaving = Flow(element.key.transport, element.key.source, element.data[0])
                slot = LEAVING + key_text(leaving)
                found += (
                    []
                    if slot in slots
                    else self._find(key_of_slot(slot), sets_for(slot, self._role))
                )
        self._ledger.update(ledger_of(found, self._role))

    def _find(self, key: str, set_names: Sequence[str]) -> list[Element]:
        if self._elements is None:
            self._elements = Elements()
        return self._elements.find(flow_of_key(key), set_names)

    def _read_ledger(self) -> None:
        """Read what there is, and take away what nothing needs any more."""
        self._ledger = ledger_of(self._list_elements(), self._role)
        over = left_behind(self._ledger)
        for start in range(0, len(over), CHANGES_MAX):
            part = over[start : start + CHANGES_MAX]
            self._run("\n".join(forget_text(slot, self._ledger[slot]) for slot in part))
        for slot in over:
            del self._ledger[slot]
        self._ledger_max = 2 * len(self._ledger) + _LEDGER_SLACK

    def _list_elements(self) -> list[Element]:
        there = {
            str(declared["name"])
            for kind in ("set", "map")
            for item in self._list(f"list {kind}s inet")
            if (declared := item.get(kind)) and declared["table"] == TABLE
        }
        kinds = {"set": GATE_SETS, "map": HOST_MAPS if self._role.is_host else GATE_MAPS}
        found: list[Element] = []
        for kind, names in kinds.items():
            for name in names:
                if name in there:
                    found += parse_listing(self._list(f"list {kind} inet {TABLE} {name}"))
        return found

    def _has_table(self) -> bool:
        return any(
            item.get("table", {}).get("name") == TABLE for item in self._list("list tables inet")
        )

    def _has_chain(self, name: str) -> bool:
        return any(
            item.get("chain", {}).get("name") == name and item["chain"].get("table") == TABLE
            for item in self._list("list chains inet")
        )

    def _list(self, command: str) -> list[dict[str, Any]]:
        self._nft.set_json_output(True)
        try:
            text = self._run(command)
        finally:
            self._nft.set_json_output(False)
        return cast("list[dict[str, Any]]", json.loads(text)["nftables"]) if text else []

    def _run(self, text: str) -> str:
        code, output, error = self._nft.cmd(text)
        if code:
            first = error.strip().partition("\n")[0] or f"nftables said {code}"
            raise KernelError(f"nftables: {first}", "wayside doctor checks what may be the matter")
        return output
