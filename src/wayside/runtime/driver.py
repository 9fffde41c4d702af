"""The one place where a machine meets the world: events in, effects out, in order.

A machine is pure; this gives it the time, hands it what came in, performs what it returns, and
wakes it at its deadline. Nothing is awaited between `handle` and performing its effects. The
kernel answers later: the datagrams of a `ChangeRules` leave when the rules are in, and a refusal
comes back to the machine as an event. Changes that stand side by side go to the kernel together.
Every `>>` event and `<<` effect that matters is written to the event log here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import structlog

from wayside.core.address import Address, Flow
from wayside.core.constants import PENDING_S
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    Effect,
    ReadRule,
    SendDatagram,
    side_by_side,
)
from wayside.core.events import ClockSet, Event, RuleRead, RulesFailed, TimePassed
from wayside.core.messages import MESSAGES, Challenge, Reject
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.plan import Change, InstalledRule, KernelError, Put, Remove
from wayside.kernel.turns import Turn, Turns

from .eventlog import EventLog
from .udp import READS_A_WAKEUP, Received, read_datagrams, send

CLOCK_CHECK_S = 30.0
"""How often the wall clock is compared with the monotonic one; NTP steps are rare."""

ASIDE = (Challenge.TYPE, Reject.TYPE)
"""What a box says to who may not be there at all."""

CROWDED = 2
"""So many full reads in a row: more comes in at a socket than we get done."""

Passed = Literal["datagram.sent", "datagram.received"]

_log = structlog.get_logger()


class Machine(Protocol):
    """A role: a host's, a gate's, or a rendezvous'."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take an event; return what is to be done."""
        ...

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due."""
        ...


class RuleKeeper(Protocol):
    """Who puts rules into the kernel: the privileged helper, or nobody."""

    def apply(self, changes: Sequence[Change]) -> Awaitable[None]:
        """Make all changes or none; to be awaited, and raises KernelError then."""
        ...

    def look_up(self, matches: Sequence[Flow]) -> Awaitable[list[InstalledRule]]:
        """What there is of these rules, however many others there are."""
        ...


class Driver:
    """Runs one machine. `perform_other` gets the effects that are the role's own business."""

    def __init__(
        self,
        machine: Machine,
        rules: RuleKeeper,
        sockets: dict[int, socket.socket],
        log: EventLog,
        perform_other: Callable[[Effect], None],
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self._machine = machine
        self._turns = Turns(self._run)
        self._rules = rules
        self._sockets = sockets
        self._asides = sockets
        self._full: dict[socket.socket, int] = {}
        self._log = log
        self._perform_other = perform_other
        self._asked: set[asyncio.Future[Any]] = set()
        self._wakeup: tuple[float, asyncio.TimerHandle] | None = None
        self._clock: asyncio.TimerHandle | None = None

    def start(
        self,
        on_received: Callable[[Received], None],
        lanes: Sequence[socket.socket] = (),
        asides: dict[int, socket.socket] | None = None,
    ) -> None:
        """Set the machine's clock and read the sockets from now on; `lanes`: others, to read only.

        Each has its turn at every wake-up: a full one takes nothing from the others. `asides`: by
        family, to send by what answers strangers.
        """
        self._set_clock()
        self._asides = asides or self._sockets
        self._full = dict.fromkeys((*self._sockets.values(), *lanes), 0)
        loop = asyncio.get_running_loop()
        for sock in self._full:
            loop.add_reader(sock, self._read, sock, on_received)

    def stop(self) -> None:
        """Read no more; close the signaling sockets."""
        loop = asyncio.get_running_loop()
        for sock in self._full:
            loop.remove_reader(sock)
            sock.close()
        for sock in self._asides.values():
            sock.close()
        if self._clock is not None:
            self._clock.cancel()
        if self._wakeup is not None:
            self._wakeup[1].cancel()

    def deliver(self, event: Event) -> None:
        """Give the machine an event and perform what it says."""
        effects = self._machine.handle(event, time.monotonic())
        self._watch()
        self.perform(effects)

    def perform(self, effects: list[Effect]) -> None:
        """Perform effects in their order; those behind a change of rules wait for the kernel.

        So does what is decided later about the same connection.
        """
        self._turns.take(effects)

    def _run(self, turn: Turn) -> None:
        effects = turn.effects
        for at, effect in enumerate(effects):
            match effect:
                case SendDatagram():
                    self._send(effect)
                case ChangeRules():
                    together = side_by_side(effects[at:])
                    turn.effects = effects[at + len(together) :]
                    self._change(together, turn)
                    return
                case ReadRule():
                    self._ask(self._read_rule(effect))
                case Dropped():
                    self.dropped[effect.reason.value] += 1
                    if self._log.has_room():
                        source = str(effect.source)
                        self._log.write("dropped", reason=effect.reason.value, peer=source)
                case _:
                    self._perform_other(effect)
        self._turns.done(turn)

    async def settled(self) -> None:
        """Wait until the kernel has answered all that was asked of it."""
        while self._asked:
            await asyncio.wait(self._asked)

    def _read(self, sock: socket.socket, on_received: Callable[[Received], None]) -> None:
        full = self._full[sock]
        found = read_datagrams(sock, sock.getsockname()[1], full >= CROWDED)
        self._full[sock] = full + 1 if len(found) == READS_A_WAKEUP else 0
        for received in found:
            self._log_datagram("datagram.received", received.data, received.source)
            on_received(received)

    def _send(self, effect: SendDatagram) -> None:
        sockets = self._asides if effect.data[4] in ASIDE else self._sockets
        send(sockets, effect.data, effect.destination, effect.source)
        self._log_datagram("datagram.sent", effect.data, effect.destination)

    def _change(self, together: list[ChangeRules], turn: Turn) -> None:
        """Ask for all at once, so that the keeper makes one transaction of them."""
        asked = [
            asyncio.ensure_future(self._rules.apply(changes))
            for effect in together
            if (changes := changes_of(effect))
        ]
        if not asked:
            self._changed(together, turn)
            return
        done = asyncio.gather(*asked, return_exceptions=True)
        self._asked.add(done)
        done.add_done_callback(partial(self._answered, together, turn))

    def _ask(self, asking: Coroutine[None, None, None]) -> None:
        asked = asyncio.ensure_future(asking)
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)

    async def _read_rule(self, effect: ReadRule) -> None:
        """Tell the machine what the kernel has; an unreadable kernel has nothing."""
        try:
            there = await self._rules.look_up(effect.matches)
        except KernelError as error:
            _log.warning("the kernel's rules cannot be read", why=str(error))
            return
        found = [one for one in there if one.rule.action is not Action.DROP]
        left = max((rule.expires_s for rule in found if rule.expires_s is not None), default=None)
        self.deliver(RuleRead(effect.cid, left, sum(rule.packets for rule in found)))

    def _answered(
        self,
        together: list[ChangeRules],
        turn: Turn,
        asked: asyncio.Future[list[BaseException | None]],
    ) -> None:
        """Go on, but not with those connections whose rules were refused."""
        self._asked.discard(asked)
        answers = iter(asked.result())
        over: set[Cid] = set()
        for effect in together:
            error = next(answers) if changes_of(effect) else None
            if isinstance(error, KernelError):
                _log.error("the kernel refused rules", cid=effect.cid.hex(), why=str(error))
                if effect.put:
                    over.add(effect.cid)
                    if effect.remove:  # which is no less due
                        self.perform([ChangeRules(effect.cid, remove=effect.remove)])
                    self.deliver(RulesFailed(effect.cid, str(error), effect.then))
            elif error is not None:
                raise error
        made = [effect for effect in together if effect.cid not in over]
        left = [one for one in turn.effects if getattr(one, "cid", None) not in over]
        turn.effects = left if made else []
        self._changed(made, turn)

    def _changed(self, together: list[ChangeRules], turn: Turn) -> None:
        for effect in together:
            self._log_changed(effect)
            for datagram in effect.then:
                self._send(datagram)
        self._run(turn)

    def _log_changed(self, effect: ChangeRules) -> None:
        for rule in effect.remove:
            if self._log.has_room():
                self._log.write("rule.removed", cid=effect.cid.hex(), match=str(rule.match))
        for rule in effect.put:
            self._log_installed(effect.cid, rule)

    def _log_installed(self, cid: Cid, rule: Rule) -> None:
        if not self._log.has_room():
            return
        self._log.write(
            "rule.installed",
            cid=cid.hex(),
            match=str(rule.match),
            action=rule.action.value,
            to=str(rule.rewrite) if rule.rewrite else "",
            lifetime_s=rule.lifetime_s,
            pending=_is_pending(rule),
        )

    def _log_datagram(self, event: Passed, data: bytes, peer: Address) -> None:
        kind = MESSAGES.get(data[4]) if len(data) >= 32 else None
        if kind is None or not self._log.has_room():
            return
        self._log.write(
            event,
            digest=hashlib.sha256(data).hexdigest()[:16],
            type=kind.__name__.upper(),
            seq=int.from_bytes(data[8:16], "big"),
            cid=data[16:32].hex(),
            bytes=len(data),
            peer=str(peer),
        )

    def _watch(self) -> None:
        """Wake the machine at its deadline. An earlier wake-up than needed does no harm."""
        deadline = self._machine.deadline
        if deadline is None or (self._wakeup is not None and self._wakeup[0] <= deadline):
            return
        if self._wakeup is not None:
            self._wakeup[1].cancel()
        loop = asyncio.get_running_loop()
        wait = max(0.0, deadline - time.monotonic())
        self._wakeup = (deadline, loop.call_later(wait, self._wake))

    def _wake(self) -> None:
        self._wakeup = None
        self.deliver(TimePassed())

    def _set_clock(self) -> None:
        self.deliver(ClockSet(time.time() - time.monotonic()))
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(CLOCK_CHECK_S, self._set_clock)


def changes_of(effect: ChangeRules) -> list[Change]:
    """What the kernel is asked to do for an effect."""
    return [*map(Remove, effect.remove), *map(Put, effect.put)]


def _is_pending(rule: Rule) -> bool:
    """Whether a gate's rule waits for CONFIRM: one that lasts has what was agreed as lifetime."""
    waits = rule.lifetime_s == PENDING_S and not rule.renewed_by_packets
    return waits and rule.action is not Action.DROP
