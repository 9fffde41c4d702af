"""One run of one world: faults for a while, then peace, in which everything has to become well.

    0 ───── faults ─────┬─ healed ─── all wanted connections up ─┬─ closed ─── nothing left
                        └── within a bound (liveness)            └── every lifetime passes

A run is a function of the world's name, the seed and the schedule of faults (which is drawn from
the seed when none is given). It ends with the first Violation of any checker, or well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from wayside.core.address import IP
from wayside.core.constants import LINGER_S, OPEN_TIMEOUT_S
from wayside.core.route import TOKEN_VALID_S

from .adversary import (
    Adversary,
    Eavesdropper,
    Flooder,
    Guesser,
    Modifier,
    Prober,
    Spoofer,
    Stage,
    Thief,
)
from .application import Client, Expect
from .beliefs import LeftoverCheck, OutcomeRecord, RequestCheck, TupleCheck
from .box import Box
from .chance import Chance
from .checks import AgreementCheck, AmplificationCheck, AuthenticationCheck, LifetimeCheck
from .clock import Clock, Endless
from .faults import Fault, Kind, Targets, draw
from .gate import GateBox
from .host import HostBox
from .liar import Liar
from .link import Conditions, Link
from .memory import remembering
from .network import Network, Place
from .poser import Poser
from .said import Said
from .topology import WORLDS, Builder
from .trace import Note, ReportWords, Trace
from .watch import Site, Violation, Watch

TICK_S = 0.5
"""How often checkers look at what does not announce itself."""

UP_S_MAX = 45.0
"""Beside two lifetimes: the time from peace until all is up. An application's patience is 19 s,
then it tries again, and a packet that was lost on the way may cost it once more as much."""

PROBES_A_S = 3.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `check`: which checker found `why`; empty when all is well."""

    world: str
    seed: int
    hash: str
    check: str
    why: str
    schedule: tuple[Fault, ...]
    time_s: float
    steps: int
    opened: int
    answers: int
    refused: int

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.check


class World:
    """A world, built and ready to run. `keeps`: notes for a ladder are wanted."""

    def __init__(
        self,
        name: str,
        seed: int,
        schedule: tuple[Fault, ...] | None = None,
        keeps: bool = False,
    ) -> None:
        self.name, self.seed = name, seed
        self.place = Place(Clock(), Trace(keeps), Chance(seed))
        chance = self.place.chance.stream(f"world {name}")
        self.said, self.outcomes = Said(), OutcomeRecord()
        watch = Watch(
            [
                self.said,
                AgreementCheck(self.said, self._owner),
                LifetimeCheck(),
                AuthenticationCheck(self.said, self._is_honest),
                AmplificationCheck(self.said, self._name_of),
                TupleCheck(),
                RequestCheck(),
                self.outcomes,
                LeftoverCheck(),
            ]
        )
        self.watch = watch
        self.network = Network(self.place, chance.choice((4, 6)))
        self.layout = Builder(self.network, watch, WORLDS[name], chance).build()
        self.quiet_at = chance.uniform(8, 25)
        self.schedule = self._draw() if schedule is None else schedule
        self._present: dict[Fault, Adversary] = {}

    def run(self) -> Result:
        """Run it to its end."""
        check, why = "", ""
        try:
            with remembering():
                self._run()
        except Violation as violation:
            check, why = violation.check, violation.text
        except Endless as endless:
            check, why = "endless", str(endless)
        answers = sum(client.progress.answers for client in self.layout.wanted)
        return Result(
            self.name,
            self.seed,
            self.place.trace.hash,
            check,
            why,
            self.schedule,
            round(self.place.clock.now, 3),
            self.place.clock.steps,
            self.outcomes.opened,
            answers,
            self.outcomes.refused,
        )

    @property
    def boxes(self) -> list[GateBox | HostBox]:
        """All boxes that run a machine."""
        layout = self.layout
        return [*layout.gates, *layout.clients, *layout.servers, layout.flooder]

    def _run(self) -> None:
        clock = self.place.clock
        prober = Prober(self._stage("prober"), PROBES_A_S)
        for fault in self.schedule:
            clock.at(fault.at, self._beginning(fault))
            clock.at(fault.until, self._ending(fault))
        self._pass(self.quiet_at)
        self._heal()
        bound = self.quiet_at + 2 * self.layout.lifetime_s + UP_S_MAX
        while not all(map(self._is_well, self.layout.wanted)):
            if clock.now >= bound:
                late = [str(c.wanted) for c in self.layout.wanted if not self._is_well(c)]
                raise Violation("liveness", f"not {late[0]} {bound - self.quiet_at:.0f} s later")
            self._pass(clock.now + TICK_S)
        prober.stop()
        self._close_all()
        settle = max(self.layout.lifetime_s, 2 * OPEN_TIMEOUT_S) + TOKEN_VALID_S + LINGER_S
        self._pass(clock.now + settle + OPEN_TIMEOUT_S)
        self.watch.on_end(self.boxes, clock.now)

    def _pass(self, until: float) -> None:
        """Let time pass, and let the checkers look from time to time."""
        clock = self.place.clock
        while clock.now < until:
            clock.run(min(until, clock.now + TICK_S))
            self.watch.on_tick(self.boxes, clock.now)

    def _is_well(self, client: Client) -> bool:
        """Whether a wanted connection has become what it should since there is peace."""
        progress, wanted = client.progress, client.wanted
        if wanted.expect is Expect.UP:
            return progress.answered_at > self.quiet_at
        if progress.answers:
            raise Violation("policy", f"{wanted} was answered, which nobody allows")
        if wanted.expect is Expect.NOT_UP:
            return max(progress.failed_at, progress.refused_at) > self.quiet_at
        refused_at = self.outcomes.refused_at.get((wanted.client, str(wanted.port)), -1.0)
        return refused_at > self.quiet_at

    def _close_all(self) -> None:
        """Applications end; what they left behind is closed by a person."""
        layout = self.layout
        for client in layout.wanted:
            client.stop()
        for server in layout.answering:
            server.close_all()
        for box in (*layout.clients, *layout.servers, layout.flooder):
            for cid in list(box.host.connections) if box.host else ():
                box.close(cid, "the world ends")

    # --- faults ---

    def _draw(self) -> tuple[Fault, ...]:
        layout, spec = self.layout, WORLDS[self.name]
        chance = self.place.chance.stream(f"schedule {self.name}")
        targets = Targets(
            list(self.network.links),
            [box.name for box in (*layout.gates, *layout.clients, *layout.servers)],
            [gate.name for gate in layout.gates],
            [client.name for client in (*layout.clients, layout.flooder)],
        )
        return draw(chance, targets, chance.randint(0, spec.faults), self.quiet_at)

    def _beginning(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._told(fault, "begins", self._begin)

    def _ending(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._told(fault, "ends", self._end)

    def _told(self, fault: Fault, what: str, do: Callable[[Fault], None]) -> None:
        now, kind = self.place.clock.now, fault.kind.name.lower()
        self.place.trace.word(now, fault.target, f"{kind} {what}")
        self.place.trace.note(
            Note(now, fault.target, "", f"fault.{what}", "", ReportWords(why=str(fault)))
        )
        do(fault)

    def _begin(self, fault: Fault) -> None:
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
            case Kind.READDRESS:
                self.network.readdress(box.interfaces[0])
            case Kind.LIE if box.driver is not None:
                chance = self.place.chance.stream(f"liar {fault}")
                box.driver.handle = Liar(box.driver.handle, chance, fault.amount).handle
            case _:
                pass

    def _end(self, fault: Fault) -> None:
        link = self.network.links.get(fault.target)
        box = self.network.nodes.get(fault.target)
        adversary = self._present.pop(fault, None)
        if adversary is not None:
            adversary.stop()
        if link is not None:
            self._mend_link(link)
        elif isinstance(box, Box):
            if fault.kind is Kind.CLOCK:
                box.local.wrong_s -= fault.amount
            self._mend_box(box)

    def _heal(self) -> None:
        """From now on nothing goes wrong that is not wrong by nature."""
        for adversary in self._present.values():
            adversary.stop()
        for link in self.network.links.values():
            self._mend_link(link)
        for box in self.boxes:
            self._mend_box(box)

    def _mend_link(self, link: Link) -> None:
        link.conditions = replace(link.nature)

    def _mend_box(self, box: Box) -> None:
        box.kernel.conditions.failing = 0.0
        box.kernel.conditions.latency_s = box.kernel.nature.latency_s
        for interface in box.interfaces:
            self.network.switch(interface, True)
        if box.driver is None:
            box.start()
        else:
            box.driver.handle = box.driver.machine.handle

    def _adversary(self, fault: Fault, link: Link | None) -> Adversary | None:
        stage = self._stage(str(fault))
        box = self.network.nodes.get(fault.target)
        match fault.kind:
            case Kind.EAVESDROP if link is not None:
                return Eavesdropper(stage, fault.amount, link)
            case Kind.MODIFY if link is not None:
                return Modifier(stage, fault.amount, link)
            case Kind.STEAL if link is not None:
                return Thief(stage, fault.amount, link)
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

    def _stage(self, purpose: str) -> Stage:
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
        )

    # --- who is who ---

    def _owner(self, ip: IP) -> Site | None:
        node = self.network.owner(ip)
        return node if isinstance(node, HostBox | GateBox) else None

    def _name_of(self, ip: IP) -> str:
        node = self.network.owner(ip)
        return node.name if node is not None else ""

    def _is_honest(self, key: bytes) -> bool:
        return any(box.honest and box.key == key for box in self.boxes)


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


def world_of(seed: int) -> str:
    """The world that a seed is for when none is named: each in its turn."""
    names = list(WORLDS)
    return names[seed % len(names)]


def run(name: str, seed: int, schedule: tuple[Fault, ...] | None = None) -> Result:
    """Run one world from its seed."""
    return World(name, seed, schedule).run()
