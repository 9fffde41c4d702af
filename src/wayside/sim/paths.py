"""A host's paths, as runtime/paths.py keeps them: counters in, other paths out, by a virtual clock.

A multihomed host has several links; what it sends leaves by the link that has its source address,
and no link gives a sign when it dies further on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import ReportOpened
from wayside.core.events import OpenRequested, SourcesChanged
from wayside.core.rule import Cid
from wayside.kernel.openings import is_asked_for
from wayside.kernel.paths import READ_AFTER_S, Paths, Trial

from .wire import five_tuple, sent_from

if TYPE_CHECKING:
    from .box import Driver
    from .host import HostBox
    from .network import Interface

NOTHING_TO_DO_S = 1.0


class PathKeeper:
    """Watches the paths of one host, from one start of its agent to the next."""

    def __init__(self, host: HostBox) -> None:
        self._host = host
        self._driver: Driver | None = None
        self.paths = Paths(host.key)

    def start(self) -> None:
        """A new agent begins to watch."""
        host = self._host
        if host.settings.watches and host.settings.virtual and host.driver is not None:
            self.paths, self._driver = Paths(host.key), host.driver
            host.place.clock.after(0.0, self._settle)
            self._watch(host.driver)

    def network_changed(self) -> None:
        """Addresses are others: read them, when whoever moves has moved."""
        self._host.place.clock.after(READ_AFTER_S, self._settle)

    def _settle(self) -> None:
        host = self._host
        if self._driver is None or host.driver is not self._driver:
            return
        up = sorted((one for one in host.interfaces if one.up), key=lambda one: one.metric)
        own = tuple(one.signaling for one in up)
        if host.host is not None and own != host.host.context.own:
            self.paths.settle(own, host.local.now)
            self._driver.deliver(SourcesChanged({}, own))
            host.subflows.look_soon()

    def opened(self, report: ReportOpened) -> None:
        """A connection is up, or up again, perhaps by another path."""
        machine = self._host.host
        connection = machine.connections.get(report.cid) if machine else None
        if self._driver is None or machine is None or connection is None or not report.refreshed:
            return
        if report.wire.transport is Transport.MPTCP:
            return  # each subflow has a path of its own
        now = self._host.local.now
        self.paths.answered(connection, machine.connections.values(), now)
        way = self._host.network.way(self._host, report.wire.destination.ip.packed)
        self.paths.agreed(report.cid, report.wire, way.address if way else None)

    def source_towards(self, to: Address) -> Address | None:
        """The own address that silence has made it choose, or None."""
        chosen = self.paths.source_towards(to.ip)
        found = [one.signaling for one in self._host.interfaces if one.up]
        return next((one for one in found if one.ip == chosen), None)

    def way_of(self, raw: bytes) -> Interface | None:
        """The link that has the source address of a packet; None: any will do."""
        if not self._host.settings.multihomed:
            return None
        source = sent_from(raw)
        return next((one for one in self._host.interfaces if one.up and one.has(source)), None)

    def _watch(self, driver: Driver) -> None:
        host = self._host
        if driver is not host.driver:
            return
        busy = self._look(driver)
        wait_s = self.paths.interval_s(host.local.now) if busy else NOTHING_TO_DO_S
        host.place.clock.after(wait_s, lambda: self._watch(driver))

    def _look(self, driver: Driver) -> bool:
        machine = self._host.host
        assert machine is not None
        connections = list(machine.connections.values())
        opening = [one for one in connections if is_asked_for(one)]
        self._try(driver, self.paths.unanswered(opening, self._host.addresses_of))
        due = self.paths.due(connections)
        if not due:
            return bool(opening)
        packets = {five_tuple(one.rule.match): one.packets for one in self._host.rules}
        counted: dict[Cid, tuple[int, int]] = {}
        for one in due:
            about = one.agreement
            out, back = five_tuple(about.local), five_tuple(about.wire.reversed())
            counted[about.cid] = (packets.get(out, 0), packets.get(back, 0))
        self._try(driver, self.paths.look(counted, connections, self._host.local.now))
        return True

    def _try(self, driver: Driver, trials: Sequence[Trial]) -> None:
        for trial in trials:
            connection = self._host.host.connections.get(trial.cid) if self._host.host else None
            if connection is None:
                continue
            about, there = connection.agreement, trial.destination
            wire = Flow(about.wire.transport, trial.source, there)
            asked = (trial.cid, about.peer, about.service, wire, about.local, there)
            driver.deliver(OpenRequested(*asked))
