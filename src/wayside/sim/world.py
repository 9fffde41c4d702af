"""One run of one world: faults for a while, then peace, in which everything has to become well.

    0 ───── faults ─────┬─ healed ─── all wanted connections up ─┬─ closed ─── nothing left
                        └── within a bound (liveness)            └── every lifetime passes

A run is a function of the world's name, the seed and the schedule of faults (which is drawn from
the seed when none is given). It ends with the first Violation of any checker, or well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wayside.core.address import IP
from wayside.core.constants import LINGER_S, OPEN_TIMEOUT_S
from wayside.core.route import TOKEN_VALID_S

from .adversary import Prober
from .agreement import AgreementCheck
from .amplification import AmplificationCheck
from .application import Client, Expect
from .beliefs import LeftoverCheck, OutcomeRecord, RequestCheck, TupleCheck
from .branching import SubflowCheck, branch_out
from .calling import CallCheck
from .chance import Chance
from .checks import AuthenticationCheck, LifetimeCheck
from .clock import Clock, Endless
from .faults import Fault, Kind, Targets, draw
from .gate import GateBox
from .host import HostBox
from .memory import remembering
from .mishaps import Mishaps
from .moving import ApprovalCheck, LocationCheck, PrivacyCheck, ProofCheck
from .nat import Nat
from .network import Network, Node, Place
from .said import Said
from .stops import StopCheck, people
from .survival import endure, survive
from .topology import Builder
from .trace import Note, ReportWords, Trace
from .watch import Site, Violation, Watch
from .worlds import IN_TURN, drawn

TICK_S = 0.5
"""How often checkers look at what does not announce itself."""

UP_S_MAX = 45.0
"""Beside two lifetimes: the time from peace until all is up. An application's patience is 19 s,
then it tries again, and a packet that was lost on the way may cost it once more as much."""

PROBES_A_S = 3.0

FLOOD_FROM_S = 2.0
SPOOFED_PER_S, FLOODED_PER_S = 15.0, 6.0
"""In a flooded world: four times as many bare OPENs as a gate there checks."""


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
                ProofCheck(self.said, self._is_honest),
                TupleCheck(self.said),
                LocationCheck(self.said, self._store_is_good),
                ApprovalCheck(self.said),
                PrivacyCheck(self._is_inside, self._hidden_from),
                CallCheck(self.said, self._found_at, self._is_honest, self._lies),
                StopCheck(self.said),
                SubflowCheck(self.said),
                RequestCheck(),
                self.outcomes,
                LeftoverCheck(),
            ]
        )
        self.watch = watch
        self._hides = False
        self.network = Network(self.place, chance.choice((4, 6)))
        self.layout = Builder(self.network, watch, drawn(name, chance), chance).build()
        self.quiet_at = chance.uniform(8, 25)
        self.schedule = self._draw() if schedule is None else schedule
        self._hides = self.layout.spec.more.hides
        self.mishaps = Mishaps(self.network, self.layout, self.said)

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
        return self.layout.boxes

    def _run(self) -> None:
        clock = self.place.clock
        prober = Prober(self.mishaps.stage("prober"), PROBES_A_S)
        for fault in self.schedule:
            clock.at(fault.at, self._beginning(fault))
            clock.at(fault.until, self._ending(fault))
        stage, links = self.mishaps.stage("stops"), list(self.network.links.values())
        stopping = people(stage, links, self.layout.clients) if self.layout.spec.more.stops else []
        self._pass(self.quiet_at)
        self.mishaps.heal()
        for one in stopping:
            one.stop()
        self._pass_until_well(self.quiet_at)
        if self.layout.spec.mobile:
            survive(self.layout, self.mishaps, self._pass, clock)
        if self.layout.spec.more.subflows:
            branch_out(self.layout, self.mishaps, self._pass, clock)
        elif self.layout.spec.more.paths:
            prober.stop()  # what it forges counts as having come by a link that is dead
            endure(self.layout, self.mishaps, self._pass, clock)
        prober.stop()
        self._close_all()
        settle = max(self.layout.lifetime_s, 2 * OPEN_TIMEOUT_S) + TOKEN_VALID_S + LINGER_S
        self._pass(clock.now + settle + OPEN_TIMEOUT_S)
        self.watch.on_end(self.boxes, clock.now)

    def _pass_until_well(self, since: float) -> None:
        """All that is wanted and allowed has to be up in time."""
        clock, bound = self.place.clock, since + 2 * self.layout.lifetime_s + UP_S_MAX
        while not all(map(self._is_well, self.layout.wanted)):
            if clock.now >= bound:
                late = [str(c.wanted) for c in self.layout.wanted if not self._is_well(c)]
                raise Violation("liveness", f"not {late[0]} {bound - since:.0f} s later")
            self._pass(clock.now + TICK_S)

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
        if wanted.expect is Expect.EITHER:
            return max(progress.answered_at, self._refused_at(client)) > self.quiet_at
        if progress.answers:
            raise Violation("policy", f"{wanted} was answered, which nobody allows")
        return self._refused_at(client) > self.quiet_at

    def _refused_at(self, client: Client) -> float:
        """When what an application wants was last refused, by somebody and for a reason."""
        wanted = client.wanted
        key = (wanted.client, str(client.peer), str(wanted.port))
        return self.outcomes.refused_at.get(key, -1.0)

    def _close_all(self) -> None:
        """Applications end; what they left behind is closed by a person."""
        layout = self.layout
        for client in layout.wanted:
            client.stop()
        for server in layout.answering:
            server.close_all()
        for box in (*layout.clients, *layout.servers, layout.flooder):
            box.registering.stop()
            for cid in list(box.host.connections) if box.host else ():
                box.close(cid, "the world ends")

    # --- faults ---

    def _draw(self) -> tuple[Fault, ...]:
        layout, spec = self.layout, self.layout.spec
        chance = self.place.chance.stream(f"schedule {self.name}")
        # Behind a NAT that holds the port for the old address a new one gets another.
        movers = [*([] if spec.nats else layout.clients), layout.flooder]
        movers += layout.servers if "s" in spec.mobile else []
        off_path = [one for one in (layout.rendezvous, layout.relay) if one is not None]
        answering = [] if spec.more.legacy else layout.servers
        targets = Targets(
            list(self.network.links),
            [box.name for box in (*layout.gates, *layout.clients, *answering, *off_path)],
            [gate.name for gate in layout.gates if not gate.settings.nat],
            [client.name for client in (*layout.clients, layout.flooder)],
            [host.name for host in movers],
            [one.name for one in off_path if one is layout.rendezvous],
        )
        found = draw(chance, targets, chance.randint(0, spec.faults), self.quiet_at)
        return (*self._flood(), *found) if spec.more.flooded else found

    def _flood(self) -> tuple[Fault, Fault]:
        """Somebody asks in a client's name, somebody for too much, until there is peace."""
        lasts_s = round(self.quiet_at - FLOOD_FROM_S, 3)
        victim = self.layout.clients[0].name
        return (
            Fault(Kind.SPOOF, FLOOD_FROM_S, lasts_s, victim, SPOOFED_PER_S),
            Fault(Kind.FLOOD, FLOOD_FROM_S, lasts_s, "world", FLOODED_PER_S),
        )

    def _beginning(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._told(fault, "begins", self.mishaps.begin)

    def _ending(self, fault: Fault) -> Callable[[], None]:
        return lambda: self._told(fault, "ends", self.mishaps.end)

    def _told(self, fault: Fault, what: str, do: Callable[[Fault], None]) -> None:
        now, kind = self.place.clock.now, fault.kind.name.lower()
        self.place.trace.word(now, fault.target, f"{kind} {what}")
        self.place.trace.note(
            Note(now, fault.target, "", f"fault.{what}", "", ReportWords(why=str(fault)))
        )
        do(fault)

    # --- who is who ---

    def _owner(self, ip: int) -> Site | None:
        """Whose address it is; that of a NAT which one host has for itself is the host's."""
        node = self._behind(ip)
        return node if isinstance(node, HostBox | GateBox) else None

    def _behind(self, ip: int) -> Node | None:
        node = self.network.owner_of(ip)
        if isinstance(node, Nat) and self.layout.spec.nats:
            return self.network.nodes[node.name.removeprefix("nat-")]
        return node

    def _found_at(self, name: str) -> bytes | None:
        """The key of the rendezvous where a host registers."""
        box = self.network.nodes[name]
        there = box.settings.steering.registers if isinstance(box, HostBox) else None
        return there.identity.key if there else None

    def _lies(self, name: str) -> bool:
        box = self.network.nodes[name]
        driver = box.driver if isinstance(box, GateBox) else None
        return driver is not None and driver.handle != driver.machine.handle

    def _store_is_good(self) -> bool:
        found = self.layout.rendezvous
        return found is None or not found.store.lied

    def _is_inside(self, nat: str, packed: bytes) -> bool:
        return self.network.is_behind(nat, packed)

    def _hidden_from(self, packed: bytes) -> list[bytes]:
        """The addresses of servers that a client with this address must not learn."""
        if not self._hides:
            return []
        node = self._behind(int.from_bytes(packed, "big"))
        if not any(node is client for client in self.layout.clients):
            return []
        names = [server.name for server in self.layout.servers]
        if self.layout.spec.nats:  # and what stands before them alone
            names += [f"nat-{name}" for name in names]
        return [address for name in names for address in self.network.nodes[name].own]

    def _name_of(self, ip: IP) -> str:
        node = self.network.owner(ip)
        return node.name if node is not None else ""

    def _is_honest(self, key: bytes) -> bool:
        return any(box.honest and box.key == key for box in self.boxes)


def world_of(seed: int) -> str:
    """The world that a seed is for when none is named: each in its turn."""
    return IN_TURN[seed % len(IN_TURN)]


def run(name: str, seed: int, schedule: tuple[Fault, ...] | None = None) -> Result:
    """Run one world from its seed."""
    return World(name, seed, schedule).run()
