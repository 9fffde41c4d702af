"""The one file that changes nftables: our table, by way of libnftables inside this process.

A transaction is one text; the kernel takes all of it or nothing. It costs 0.08 ms whatever the
table holds (measured to 100,000 elements), because nothing that is asked here makes libnftables
read the table first. Setting up finds a table of a former life with its elements and keeps it, if
its chains are the same; else it is made anew with the same rules in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import nftables
from pyroute2.netlink.exceptions import NetlinkError

from . import hotpath
from .doctor import Diagnosis, diagnose
from .names import CHANGES_MAX, TABLE
from .nft import (
    GATE_SETS,
    HOST_MAPS,
    Place,
    Role,
    compile_changes,
    ledger_of,
    parse_listing,
)
from .plan import Change, InstalledRule, KernelError, Put
from .skeleton import Skeleton

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
        self._ledger: dict[str, Place] = {}
        self._ledger_max = _LEDGER_SLACK

    def setup(self, role: Role, skeleton: Skeleton) -> None:
        """Make the table, or find it. Rules that are in force stay. Raises KernelError."""
        self._role = role
        if self._has_chain(skeleton.name):
            self._read_ledger()
            return
        kept = [Put(found.rule) for found in self.rules()] if self._has_table() else []
        if self._has_table():
            self._run(f"delete table inet {TABLE}")
        self._run(skeleton.first)
        try:
            hotpath.install(skeleton.hot)
        except NetlinkError as error:
            raise KernelError(
                f"the kernel does not take the rules of the fast path: {error}",
                "wayside doctor checks what this kernel has to offer",
            ) from error
        self._run(skeleton.then)
        self._ledger = {}
        self.apply(kept)

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes or none; more than CHANGES_MAX go in several transactions.

        Raises KernelError, with nothing of the transaction applied.
        """
        for start in range(0, len(changes), CHANGES_MAX):
            self._apply_once(changes[start : start + CHANGES_MAX])

    def rules(self) -> list[InstalledRule]:
        """All rules that are in force, from the kernel. Takes 40 us a rule. Raises KernelError."""
        found: list[InstalledRule] = []
        kind, names = ("map", HOST_MAPS) if self._role.is_host else ("set", GATE_SETS)
        for name in names:
            found += parse_listing(self._list(f"list {kind} inet {TABLE} {name}"), self._role)
        return found

    def diagnose(self) -> list[Diagnosis]:
        """Chains of others that may drop what we let through. Raises KernelError."""
        return diagnose(self._list("list ruleset"))

    def teardown(self) -> None:
        """Take our table away with all its rules. Raises KernelError."""
        if self._has_table():
            self._run(f"delete table inet {TABLE}")
        self._ledger = {}

    def _apply_once(self, changes: Sequence[Change]) -> None:
        text, news = compile_changes(changes, self._ledger, self._role)
        if not text:
            return
        try:
            self._run(text)
        except KernelError:
            # An element that the ledger does not know, or knows otherwise: look, and try again.
            self._read_ledger()
            text, news = compile_changes(changes, self._ledger, self._role)
            self._run(text)
        for key, place in news.items():
            if place is None:
                self._ledger.pop(key, None)
            else:
                self._ledger[key] = place
        if len(self._ledger) > self._ledger_max:
            self._read_ledger()

    def _read_ledger(self) -> None:
        self._ledger = ledger_of(self.rules(), self._role)
        self._ledger_max = 2 * len(self._ledger) + _LEDGER_SLACK

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
