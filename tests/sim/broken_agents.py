"""Agents, and a kernel, that break MPTCP's promises on purpose; as the machines of broken.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sim.broken import none, nothing
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import decode_body
from wayside.core.effects import ReportRefused, SendDatagram
from wayside.core.events import CloseRequested, DatagramReceived, OpenRequested
from wayside.core.messages import Accept, Open, OpenTerms, decode
from wayside.kernel import multipaths, subflows
from wayside.kernel.mptcp import Happened, MptcpEvent
from wayside.kernel.multipaths import Multipaths, ToDo
from wayside.kernel.packets import Packet
from wayside.kernel.plan import Remove
from wayside.kernel.subflows import Branch, Multipath
from wayside.sim.box import Driver
from wayside.sim.kernel import Kernel


def agent_that_asks_for_subflows_as_tcp(patch: pytest.MonkeyPatch) -> None:
    """R-2.5: no policy sees that a further subflow is one of MPTCP."""
    for name in ("wire", "local"):
        patch.setattr(Multipath, name, _plain(getattr(Multipath, name)))


def _plain(told: Callable[[Multipath, Branch], Flow]) -> Callable[[Multipath, Branch], Flow]:
    return lambda one, branch: told(one, branch).on_the_wire


def agent_that_lets_subflows_be_made_first(patch: pytest.MonkeyPatch) -> None:
    """R-2.5: has a further subflow made, and asks for it by its first packet."""
    ask = Multipaths._ask

    def hasty(self: Multipaths, *about: Any) -> list[ToDo]:
        made: list[ToDo] = []
        for one in ask(self, *about):
            assert isinstance(one, OpenRequested)
            made += self.opened(one.cid, about[-1])
        return made

    def anything(packet: Packet) -> Flow:
        kind = Transport.MPTCP if packet.is_multipath else packet.flow.transport
        return replace(packet.flow, transport=kind)

    patch.setattr(Multipaths, "_ask", hasty)
    patch.setattr("wayside.sim.first_packets.asked_by", anything)


def agent_that_wants_one_path(patch: pytest.MonkeyPatch) -> None:
    """Has an MPTCP connection stay on the path that it has."""
    patch.setattr(Multipath, "wishes", nothing)


def agent_that_asks_once(patch: pytest.MonkeyPatch) -> None:
    """Takes the first refusal, or loss, of a subflow for the last word."""
    patch.setattr(subflows, "AGAIN_S", 1e6)
    patch.setattr(subflows, "AGAIN_MAX_S", 1e6)


def agent_that_forgets_why(patch: pytest.MonkeyPatch) -> None:
    """Knows that a subflow was refused, and not by whom, nor why."""

    def forgetting(branch: Branch, report: ReportRefused, now: float) -> None:
        branch.enter(subflows.Standing.REFUSED, now)

    patch.setattr(multipaths, "refuse", forgetting)


def agent_that_gives_all_up_for_one(patch: pytest.MonkeyPatch) -> None:
    """Closes an MPTCP connection's other paths when one of its subflows is lost."""
    happened = Multipaths.happened

    def despairing(self: Multipaths, event: MptcpEvent, now: float) -> list[ToDo]:
        known = [one for one in self.known if one.token == event.token]
        found = happened(self, event, now)
        if event.what is Happened.SUBFLOW_CLOSED:
            cids = [one.first.cid for one in known]
            cids += [each.cid for one in known for each in one.branches.values() if each.cid]
            found += [CloseRequested(cid, "") for cid in cids]
        return found

    patch.setattr(Multipaths, "happened", despairing)


def kernel_that_removes_late(patch: pytest.MonkeyPatch) -> None:
    """Says that rules are gone 2 s before they are."""
    apply = Kernel._apply

    def late(self: Kernel, batch: list[Any]) -> None:
        gone = [change for one in batch for change in one.changes if isinstance(change, Remove)]
        kept = [
            replace(one, changes=[change for change in one.changes if change not in gone])
            for one in batch
        ]
        if gone:
            self._clock.after(
                2.0, lambda: apply(self, [replace(batch[0], changes=gone, done=none)])
            )
        apply(self, kept)

    patch.setattr(Kernel, "_apply", late)


def agent_that_looks_again_at_once(patch: pytest.MonkeyPatch) -> None:
    """What is due stays due, also by a path that is not wanted: it looks without end."""

    def due_after(self: Multipath, now: float) -> float | None:
        found = [branch.due for branch in self.branches.values() if branch.due is not None]
        return max(now, min(found)) if found else None

    patch.setattr(Multipath, "due_after", due_after)


def agent_that_answers_straight(patch: pytest.MonkeyPatch) -> None:
    """R-10.5: gives who asks its answer also by the way that no relay is on."""
    receive, send = Driver.receive, Driver._send
    asked: dict[bytes, Address] = {}

    def receiving(self: Driver, event: DatagramReceived) -> None:
        if event.data[4] == Open.TYPE:
            _, message = decode(event.data)
            assert isinstance(message, Open)
            source = decode_body(OpenTerms, message.signed).source
            asked[event.data[16:32]] = source.with_port(event.source.port)
        receive(self, event)

    def sending(self: Driver, effect: SendDatagram) -> None:
        send(self, effect)
        there = asked.get(effect.data[16:32])
        if effect.data[4] == Accept.TYPE and there is not None and self._box.role == "host":
            send(self, replace(effect, destination=there))

    patch.setattr(Driver, "receive", receiving)
    patch.setattr(Driver, "_send", sending)
