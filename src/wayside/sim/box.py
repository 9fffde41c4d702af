"""A box that runs a machine: its clock, its kernel, its agent, and the agent's death.

`Driver` does with a machine what runtime/driver.py does: effects in their order, those behind a
`ChangeRules` when the kernel has taken the rules, `RulesFailed` when it has not, a wake-up at the
deadline. A killed agent takes its driver and its machine with it; the box keeps its kernel, the
secret of this boot, and what the agent had stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from wayside.core import constants as c
from wayside.core.address import Address, Transport
from wayside.core.crypto import SigningKey
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    Effect,
    Punch,
    ReadRule,
    SendDatagram,
    side_by_side,
)
from wayside.core.events import (
    ClockSet,
    DatagramReceived,
    Event,
    RuleRead,
    RulesFailed,
    TimePassed,
)
from wayside.core.rule import Action, Cid
from wayside.kernel.names import PUNCH_URGENT
from wayside.kernel.packets import build_ack, build_syn
from wayside.kernel.plan import Change, InstalledRule, KernelError, Put, Remove
from wayside.kernel.turns import Turn, Turns

from .clock import LocalClock
from .kernel import Kernel, Ruled
from .network import Interface, Network, Node
from .trace import datagram_note, report_note, rule_note
from .watch import Machine, Step, Watcher
from .wire import build_udp, packet_of, signaling_flow

CLOCK_CHECK_S = 30.0
"""How often an agent looks at the wall clock, as in runtime/driver.py."""

DEFAULT_LIFETIME_S = c.LIFETIME_S


class Box(Node):
    """A box with a machine of its own. Subclasses make the machine and mind its other effects."""

    role = ""
    honest = True

    def __init__(
        self, network: Network, name: str, watch: Watcher, lifetime_s: float = DEFAULT_LIFETIME_S
    ) -> None:
        super().__init__(network, name)
        chance = self.chance = self.place.chance.stream(f"box {name}")
        self.watch = watch
        self.entropy: Callable[[int], bytes] = self.place.chance.stream(f"entropy {name}").randbytes
        self.signing_key = SigningKey(self.entropy(32))
        self.secret = self.entropy(32)
        self.local = LocalClock(
            self.place.clock,
            base_s=chance.uniform(10, 1e6),
            rate=1 + chance.uniform(-1e-4, 1e-4),
            wrong_s=chance.uniform(-5, 5),
        )
        kernel_chance = self.place.chance.stream(f"kernel {name}")
        clock = self.place.clock
        ruled = Ruled(lifetime_s, self.forwards)
        self.kernel = Kernel(clock, self.local, ruled, kernel_chance, self._changed)
        self.driver: Driver | None = None

    @property
    def machine(self) -> Machine | None:
        """The machine, or None while the agent is dead."""
        return self.driver.machine if self.driver else None

    @property
    def local_now(self) -> float:
        """This box's own monotonic clock."""
        return self.local.now

    @property
    def unix_s(self) -> float:
        """This box's own wall clock."""
        return self.local.epoch_s + self.local.now

    @property
    def key(self) -> bytes:
        """The public key, 32 bytes."""
        return self.signing_key.public

    @property
    def taken(self) -> int:
        """Entries that the machine's quota counts."""
        return 0

    @property
    def rules(self) -> list[InstalledRule]:
        """What the kernel holds."""
        return self.kernel.rules()

    def start(self) -> None:
        """Start the agent; it finds again what is durable."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill the agent, as SIGKILL does."""
        if self.driver is None:
            return
        self.driver.stop()
        self.driver = None
        self.kernel.agent_died()
        self.watch.on_died(self, self.place.clock.now)

    def power_off(self) -> None:
        """The machine loses power: its agent, its kernel's rules, its boot's secret."""
        self.kill()
        self.kernel.boot()
        self.secret = self.entropy(32)
        self.local.restart(self.chance.uniform(1, 60))

    def perform(self, effect: Effect) -> None:
        """Do what is this role's own business."""
        raise NotImplementedError

    def source_for(self, to: Address) -> Address | None:
        """Our own signaling address on the way to another."""
        way = self.network.way(self, to.ip.packed)
        return self.chosen_for(to) or (way.signaling if way else None)

    def chosen_for(self, to: Address) -> Address | None:
        """The own address that a multihomed host has chosen for packets to another."""
        return None

    def may_speak_for(self, source: Address) -> bool:
        """Whether datagrams can leave here with this source: a host's own address only."""
        return source.ip.packed in self.own

    def signaling(self, raw: bytes, interface: Interface, transit: bool) -> None:
        """A signaling datagram came in."""
        packet = packet_of(raw)
        if packet is None or self.driver is None:
            return
        flow, side = packet.flow, interface.side
        self.driver.receive(
            DatagramReceived(packet.payload, flow.source, flow.destination, transit, side)
        )

    def _changed(self, changes: Sequence[Change]) -> None:
        self.watch.on_changes(self, changes, self.place.clock.now)


class Driver:
    """Runs one machine in one box, until it is stopped."""

    def __init__(self, box: Box, machine: Machine) -> None:
        self.machine = machine
        self.handle = machine.handle
        """What answers events: the machine, unless somebody lies for it."""
        self._turns = Turns(self._run)
        self._box = box
        self._alive = True
        self._wakeup_at: float | None = None

    def start(self) -> None:
        """Set the machine's clock, and wake it when it wants."""
        self._reads_clock()

    def stop(self) -> None:
        """Nothing more comes in or goes out."""
        self._alive = False

    def receive(self, event: DatagramReceived) -> None:
        """A datagram came in."""
        self._note_datagram("datagram.received", event.data, event.source)
        self.deliver(event)

    def deliver(self, event: Event) -> None:
        """Give the machine an event and perform what it says."""
        box, place = self._box, self._box.place
        effects = self.handle(event, box.local.now)
        place.trace.step(place.clock.now, box.name, event, effects)
        box.watch.on_step(Step(box, self.machine, event, effects, place.clock.now))
        self._watch_deadline()
        self.perform(effects)

    def perform(self, effects: list[Effect]) -> None:
        """Perform effects in their order; those behind a change of rules wait for the kernel."""
        self._turns.take(effects)

    def _run(self, turn: Turn) -> None:
        effects = turn.effects
        for at, effect in enumerate(effects):
            match effect:
                case SendDatagram():
                    self._send(effect)
                case Punch():
                    self._punch(effect)
                case ChangeRules():
                    together = side_by_side(effects[at:])
                    turn.effects = effects[at + len(together) :]
                    self._change(together, turn)
                    return
                case ReadRule():
                    self._read(effect)
                case Dropped():
                    self._note_report(effect)
                case _:
                    self._note_report(effect)
                    self._box.watch.on_report(self._box, effect, self._box.place.clock.now)
                    self._box.perform(effect)
        self._turns.done(turn)

    def _send(self, effect: SendDatagram) -> None:
        source = effect.source or self._box.source_for(effect.destination)
        if source is None or not self._box.may_speak_for(source):
            return
        self._note_datagram("datagram.sent", effect.data, effect.destination)
        flow = signaling_flow(source.with_port(c.SIGNALING_PORT), effect.destination)
        self._box.transmit(build_udp(flow, effect.data))

    def _punch(self, effect: Punch) -> None:
        """A packet of a flow, past all rules, as from the raw socket of runtime/tap.py."""
        flow, data = effect.flow, effect.data
        if flow.transport is Transport.UDP:
            raw = build_udp(flow, data)
        else:
            raw = build_syn(flow, data, PUNCH_URGENT) if data else build_ack(flow, PUNCH_URGENT)
        if raw is not None and flow.source.ip.packed in self._box.own:
            self._box.transmit(raw)

    def _change(self, together: list[ChangeRules], turn: Turn) -> None:
        waiting = [effect for effect in together if effect.remove or effect.put]
        if not waiting:
            self._changed(together, turn)
            return
        errors: dict[Cid, RulesFailed] = {}
        left = len(waiting)

        def answered(effect: ChangeRules, error: KernelError | None) -> None:
            nonlocal left
            left -= 1
            if error is not None and effect.put:
                errors[effect.cid] = RulesFailed(effect.cid, str(error), effect.then)
            if not left and self._alive:
                self._answered(together, turn, errors)

        self._box.kernel.submit_all(
            [(_changes_of(effect), partial(answered, effect)) for effect in waiting]
        )

    def _answered(
        self, together: list[ChangeRules], turn: Turn, errors: dict[Cid, RulesFailed]
    ) -> None:
        for effect in together:
            if effect.cid in errors and effect.remove:  # which is no less due
                self.perform([ChangeRules(effect.cid, remove=effect.remove)])
        for failed in errors.values():
            self.deliver(failed)
        made = [effect for effect in together if effect.cid not in errors]
        left = [one for one in turn.effects if getattr(one, "cid", None) not in errors]
        turn.effects = left if made else []
        self._changed(made, turn)

    def _changed(self, together: list[ChangeRules], turn: Turn) -> None:
        for effect in together:
            self._note_rules(effect)
            for datagram in effect.then:
                self._send(datagram)
        self._run(turn)

    def _read(self, effect: ReadRule) -> None:
        def tell(there: list[InstalledRule]) -> None:
            if self._alive:
                found = [one for one in there if one.rule.action is not Action.DROP]
                left = [rule.expires_s for rule in found if rule.expires_s is not None]
                packets = sum(rule.packets for rule in found)
                self.deliver(RuleRead(effect.cid, max(left, default=None), packets))

        self._box.kernel.look_up(effect.matches, tell)

    def _watch_deadline(self) -> None:
        """Wake the machine at its deadline. An earlier wake-up than needed does no harm."""
        deadline = self.machine.deadline
        if deadline is None or (self._wakeup_at is not None and self._wakeup_at <= deadline):
            return
        self._wakeup_at = deadline
        when = self._box.local.true_time(deadline)
        # Floating point: the local clock must not show a time just before the deadline.
        self._box.place.clock.at(when + 1e-6, lambda: self._wake(deadline))

    def _wake(self, deadline: float) -> None:
        if self._alive and self._wakeup_at == deadline:
            self._wakeup_at = None
            self.deliver(TimePassed())

    def _reads_clock(self) -> None:
        if self._alive:
            self.deliver(ClockSet(self._box.local.epoch_s))
            self._box.place.clock.after(CLOCK_CHECK_S, self._reads_clock)

    def _note_datagram(self, event: str, data: bytes, peer: Address) -> None:
        box, place = self._box, self._box.place
        if place.trace.keeps and len(data) >= c.HEADER_BYTES:
            now = place.clock.now
            place.trace.note(datagram_note(now, box.name, box.role, event, data, str(peer)))

    def _note_rules(self, effect: ChangeRules) -> None:
        box, place = self._box, self._box.place
        if not place.trace.keeps:
            return
        for event, rules in (("rule.removed", effect.remove), ("rule.installed", effect.put)):
            for rule in rules:
                place.trace.note(rule_note(place.clock.now, box.name, box.role, event, rule))

    def _note_report(self, effect: Effect) -> None:
        box, place = self._box, self._box.place
        if place.trace.keeps:
            note = report_note(place.clock.now, box.name, box.role, effect)
            if note is not None:
                place.trace.note(note)


def _changes_of(effect: ChangeRules) -> list[Change]:
    return [*map(Remove, effect.remove), *map(Put, effect.put)]
