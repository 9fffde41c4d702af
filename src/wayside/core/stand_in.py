"""A gate that answers for hosts which cannot: in their place, under its own name.

The gate sends an OPEN for such a host on as it would any other, with its record; but what it would
send there is taken by a host of its own behind it, who answers as one at that address would. What
that one says passes the gate again, like any answer. So rules, refreshes and ends are those of a
gate and of a responder, and nothing is new but who they are: the same key. Spec: R-12.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from . import constants as c
from .address import IP
from .codec import DecodeError
from .effects import ChangeRules, Dropped, Effect, SendDatagram
from .errors import DropReason
from .events import (
    ClockSet,
    CloseRequested,
    DatagramReceived,
    Event,
    MessageReceived,
    RulesFailed,
    TimePassed,
)
from .gate import Gate
from .host import Host
from .messages import Close, Confirm, Open, decode
from .opening import CheckedOpen, check_open, redirect
from .route import TokenBox
from .rule import Cid

INWARDS = (Open, Confirm, Close)
"""What an initiator sends along the route; all else goes back to it."""


@dataclass(frozen=True, slots=True)
class Served:
    """Legacy hosts on one side (`inside`, `outside`), and the host that answers for them all.

    `host`: has the gate's key, no virtual addresses, and the services that they offer.
    """

    side: str
    networks: tuple[IPv4Network | IPv6Network, ...]
    host: Host

    def has(self, ip: IP) -> bool:
        """Whether one of them has this address."""
        return any(ip in network for network in self.networks)


class StandIn:
    """A gate, with those behind it for whom it answers. `box`: the gate's own."""

    def __init__(self, gate: Gate, box: TokenBox, served: Sequence[Served]) -> None:
        self.gate = gate
        self.served = tuple(served)
        self._box = box

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take what happened; return what is to be done. The only mutator."""
        effects = self.gate.handle(event, now)
        match event:
            case DatagramReceived():
                return [one for each in effects for one in self._passed(event, each, now)]
            case TimePassed() | ClockSet():
                hosts = [one.host for one in self.served]
            case CloseRequested() | RulesFailed():
                hosts = [one.host for one in self.served if event.cid in one.host.connections]
            case _:
                hosts = []
        for host in hosts:
            effects += self._said(host.handle(event, now), now)
        return effects

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        due = [self.gate.deadline, *(one.host.deadline for one in self.served)]
        return min((at for at in due if at is not None), default=None)

    def answers(self, cid: Cid) -> bool:
        """Whether this connection is one that is answered here, in another's place."""
        return any(cid in one.host.connections for one in self.served)

    def _passed(self, event: DatagramReceived, effect: Effect, now: float) -> list[Effect]:
        """What the gate does with a datagram: for whom we answer, it goes no further."""
        if not isinstance(effect, SendDatagram) or effect.source is None:
            return [effect]
        there = effect.destination.ip
        served = next((one for one in self.served if one.has(there)), None)
        if served is None or event.side == served.side:
            return [effect]
        try:
            header, message = decode(effect.data)
        except DecodeError:  # the gate made it
            return [effect]
        known = header.cid in served.host.connections
        asks = isinstance(message, Open) and header.seq % 2 == 0
        if not isinstance(message, INWARDS) or not (known or asks):
            return [effect]
        proved = self._box.check_cookie(header.cid, event.source, header.proofs, now)
        arrived = MessageReceived(
            header, message, effect.source, effect.destination, False, "", effect.data, proved
        )
        if isinstance(message, Open) and not known:
            answer = self._instead(event, arrived, message, now)
            if answer is not None:
                return self._said([answer], now)
        return self._said(served.host.handle(arrived, now), now)

    def _instead(
        self, event: DatagramReceived, arrived: MessageReceived, message: Open, now: float
    ) -> Effect | None:
        """What a first OPEN gets before anybody answers it: who it is that does. Spec: R-12.2."""
        context = self.gate.context
        unix_s = context.epoch_s + now
        opened = check_open(arrived, message, context.names, unix_s)
        if not isinstance(opened, CheckedOpen):
            return None
        own = context.key.public
        if opened.terms.to_key != own:
            asked = event.destination
            return redirect(context.key, arrived, opened, asked, False, unix_s, own)
        if opened.terms.sealed:
            return Dropped(DropReason.UNEXPECTED, event.source)
        return None

    def _said(self, effects: list[Effect], now: float) -> list[Effect]:
        """What a host behind us says passes us; what it keeps and reports is nobody's business."""
        done: list[Effect] = []
        for effect in effects:
            match effect:
                case SendDatagram(source=source) if source is not None:
                    here = source.with_port(c.SIGNALING_PORT)
                    event = DatagramReceived(effect.data, here, effect.destination, transit=True)
                    done += self.gate.handle(event, now)
                case ChangeRules():  # of who has no virtual addresses: none
                    done += self._said(list(effect.then), now)
                case Dropped():
                    done.append(effect)
                case _:
                    pass
        return done
