"""Does to a world what a schedule of faults says, and mends it.

Faults of a box, of a link, of a store; and adversaries, who stay while their fault lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .adversary import (
    Adversary,
    Eavesdropper,
    Flooder,
    Guesser,
    Modifier,
    Spoofer,
    Stage,
    Thief,
)
from .box import Box
from .faults import Fault, Kind
from .gate import GateBox
from .host import HostBox
from .impostor import ApprovalThief, Mover, RedirectForger, RegistrationForger
from .liar import Liar
from .link import Conditions, Link
from .network import Network
from .poser import Poser
from .rendezvous import RendezvousBox
from .said import Said
from .store import StoreConditions
from .topology import Layout


class Mishaps:
    """Begins and ends faults; `heal` ends all."""

    def __init__(self, network: Network, layout: Layout, said: Said) -> None:
        self.network = network
        self.layout = layout
        self.said = said
        self.place = network.place
        self._present: dict[Fault, Adversary] = {}

    def begin(self, fault: Fault) -> None:
        """It begins."""
        link = self.network.links.get(fault.target)
        box = self.network.nodes.get(fault.target)
        if isinstance(box, Box):
            self._begin_box(fault, box)
        elif link is not None and fault.kind in _ON_LINK:
            _ON_LINK[fault.kind](link.conditions, fault.amount)
        if fault not in self._present:
            adversary = self._adversary(fault, link)
            if adversary is not None:
                self._present[fault] = adversary

    def _begin_box(self, fault: Fault, box: Box) -> None:
        match fault.kind:
            case Kind.KILL:
                box.kill()
            case Kind.POWER:
                box.power_off()
            case Kind.REFUSE_RULES:
                box.kernel.conditions.failing = fault.amount
            case Kind.SLOW_RULES:
                box.kernel.conditions.latency_s = fault.amount
            case Kind.CLOCK:
                box.local.wrong_s += fault.amount
            case Kind.LINK_DOWN:
                self.network.switch(box.interfaces[0], False)
                changed(box)
            case Kind.READDRESS | Kind.MOVE:
                self.network.readdress(box.interfaces[0], keeps=fault.kind is Kind.MOVE)
                changed(box)
            case Kind.STORE_LIES if isinstance(box, RendezvousBox):
                box.store.conditions.lies = fault.amount
            case Kind.STORE_LOSES if isinstance(box, RendezvousBox):
                box.store.conditions.lost = fault.amount
            case Kind.LIE if box.driver is not None:
                box.honest = not box.settings.nat if isinstance(box, GateBox) else False
                chance = self.place.chance.stream(f"liar {fault}")
                box.driver.handle = Liar(box.driver.handle, chance, fault.amount).handle
            case _:
                pass

    def end(self, fault: Fault) -> None:
        """It ends."""
        link = self.network.links.get(fault.target)
        box = self.network.nodes.get(fault.target)
        adversary = self._present.pop(fault, None)
        if adversary is not None:
            adversary.stop()
        if link is not None:
            self.mend_link(link)
        elif isinstance(box, Box):
            if fault.kind is Kind.CLOCK:
                box.local.wrong_s -= fault.amount
            self._mend_box(box)

    def heal(self) -> None:
        """From now on nothing goes wrong that is not wrong by nature."""
        for adversary in self._present.values():
            adversary.stop()
        for link in self.network.links.values():
            self.mend_link(link)
        for box in self.layout.boxes:
            self._mend_box(box)

    def mend_link(self, link: Link) -> None:
        """A link is as it was made."""
        link.conditions = replace(link.nature)

    def _mend_box(self, box: Box) -> None:
        box.kernel.conditions.failing = 0.0
        box.kernel.conditions.latency_s = box.kernel.nature.latency_s
        if isinstance(box, RendezvousBox):
            box.store.conditions = StoreConditions()
        moved = False
        for interface in box.interfaces:
            moved = moved or not interface.up or bool(interface.former)
            self.network.switch(interface, True)
            self.network.drop_former(interface)
        if moved:
            changed(box)
        if box.driver is None:
            box.start()
        else:
            box.driver.handle = box.driver.machine.handle

    def _adversary(self, fault: Fault, link: Link | None) -> Adversary | None:
        stage = self.stage(str(fault))
        box = self.network.nodes.get(fault.target)
        match fault.kind:
            case Kind.EAVESDROP if link is not None:
                return Eavesdropper(stage, fault.amount, link)
            case Kind.MODIFY if link is not None:
                return Modifier(stage, fault.amount, link)
            case Kind.STEAL if link is not None:
                return Thief(stage, fault.amount, link)
            case Kind.MISLEAD if link is not None:
                return RedirectForger(stage, fault.amount, link)
            case Kind.REUSE if link is not None:
                return ApprovalThief(stage, fault.amount, link)
            case Kind.REGISTER if link is not None:
                return RegistrationForger(stage, fault.amount, link)
            case Kind.TAKE_OVER if link is not None:
                return Mover(stage, fault.amount, link)
            case Kind.GUESS:
                return Guesser(stage, fault.amount)
            case Kind.SPOOF if isinstance(box, HostBox):
                return Spoofer(stage, fault.amount, box)
            case Kind.POSE if isinstance(box, HostBox):
                way = self.network.links[f"{self.layout.off_path.name}-core"]
                return Poser(stage, fault.amount, way, box)
            case Kind.FLOOD:
                return Flooder(stage, fault.amount, self.layout.flooder)
            case _:
                return None

    def stage(self, purpose: str) -> Stage:
        """What an adversary knows."""
        layout = self.layout
        chance = self.place.chance.stream(f"adversary {purpose}")
        return Stage(
            self.network,
            self.said,
            layout.clients,
            layout.servers,
            layout.gates,
            layout.off_path,
            chance,
            [one for one in (layout.relay, layout.rendezvous) if one is not None],
        )


def changed(box: Box) -> None:
    """A host's kernel has news of its addresses."""
    if isinstance(box, HostBox):
        box.addresses_changed()


def _slow(link: Conditions, amount: float) -> None:
    link.delay_s += amount
    link.jitter_s += amount / 2


_ON_LINK: dict[Kind, Callable[[Conditions, float], None]] = {
    Kind.LOSS: lambda link, amount: setattr(link, "loss", amount),
    Kind.DELAY: _slow,
    Kind.DUPLICATE: lambda link, amount: setattr(link, "duplicate", amount),
    Kind.REORDER: lambda link, amount: setattr(link, "reorder", amount),
    Kind.PARTITION: lambda link, amount: setattr(link, "cut", True),
    Kind.MTU: lambda link, amount: setattr(link, "mtu", int(amount)),
    Kind.RATE: lambda link, amount: setattr(link, "rate", amount),
}
