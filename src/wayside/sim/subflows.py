"""An agent's part in MPTCP, as runtime/subflows.py has it, by a virtual clock.

kernel/multipaths.py decides, here as there; the kernel is mptcp.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, assert_never

from wayside.core.address import IP, Address, Flow
from wayside.core.effects import ReportClosed, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.rule import Cid
from wayside.kernel.mptcp import MptcpEvent
from wayside.kernel.multipaths import MakeSubflow, Multipaths, SubflowUp, ToDo
from wayside.kernel.plan import KernelError

from .trace import Note, ReportWords

if TYPE_CHECKING:
    from .box import Driver
    from .host import HostBox

FIRST_PORT, PORTS = 50_000, 4000
"""Of further subflows; no application here has them."""


class SubflowKeeper:
    """Keeps the subflows of one host, from one start of its agent to the next."""

    def __init__(self, host: HostBox) -> None:
        self._host = host
        self._driver: Driver | None = None
        self._turn = 0
        self.multipaths: Multipaths | None = None

    def start(self) -> None:
        """A new agent hears what the kernel says from now on; it knows of no connection yet."""
        host = self._host
        if host.settings.mptcp and host.host is not None:
            self._driver = host.driver
            self.multipaths = Multipaths(host.host, host.entropy)
            host.sockets.mptcp.listener = self

    def stop(self) -> None:
        """The agent is dead."""
        self._turn += 1
        self.multipaths = self._driver = None
        self._host.sockets.mptcp.listener = None

    def happened(self, event: MptcpEvent) -> None:
        """The kernel says so."""
        if self.multipaths is not None:
            self._do(self.multipaths.happened(event, self._host.local.now))
            self.look_soon()

    def on_report(self, effect: ReportOpened | ReportRefused | ReportClosed) -> None:
        """What became of a connection."""
        known, now = self.multipaths, self._host.local.now
        if known is None:
            return
        match effect:
            case ReportOpened():
                self._do(known.opened(effect.cid, now))
                if not effect.refreshed:
                    known.expect(effect.cid, now)
            case ReportRefused():
                known.refused(effect, now)
            case ReportClosed():
                known.ended(effect.cid, now)
        self.look_soon()

    def look_soon(self, after_s: float = 0.0) -> None:
        """Something may be different now: see what is to be asked."""
        if self.multipaths is None or self.multipaths.is_idle:
            return
        self._turn += 1
        self._host.place.clock.after(after_s, partial(self._look, self._turn))

    def _look(self, turn: int) -> None:
        if turn != self._turn or self.multipaths is None:
            return
        now = self._host.local.now
        if self.multipaths.is_unheard(now):
            self.multipaths.listed(self._host.sockets.mptcp.listed(), now)
        self._do(self.multipaths.look(now, self._free_port))
        due = self.multipaths.due_after(now)
        if due is not None and turn == self._turn:
            self.look_soon(due - now + 1e-6)

    def _do(self, found: list[ToDo]) -> None:
        for one in found:
            match one:
                case OpenRequested():
                    if self._driver is not None:
                        self._driver.deliver(one)
                case CloseRequested():
                    self._host.close(one.cid, one.reason)
                case MakeSubflow():
                    self._note("subflow.made", one.cid, one.wire)
                    wait_s = self._host.kernel.conditions.latency_s
                    make = partial(self._make, one, self._driver)
                    self._host.place.clock.after(wait_s, make)
                case SubflowUp():
                    self._note("subflow.up", one.cid, one.wire)
                case _:
                    assert_never(one)

    def _make(self, made: MakeSubflow, driver: Driver | None) -> None:
        if self.multipaths is None or driver is not self._driver:
            return
        try:
            self._host.sockets.mptcp.make_subflow(made.wanted)
        except KernelError as error:
            self._do(self.multipaths.not_made(made.cid, error.what, self._host.local.now))
            self.look_soon()

    def _free_port(self, ip: IP) -> int:
        """As the kernel finds one: nobody has it."""
        for _ in range(PORTS):
            port = FIRST_PORT + self._host.chance.randrange(PORTS)
            if not self._host.sockets.has_port(Address(ip, port)):
                return port
        return 0

    def _note(self, event: str, cid: Cid, wire: Flow) -> None:
        place = self._host.place
        place.trace.word(place.clock.now, self._host.name, f"{event} {wire}")
        words = ReportWords(flow=str(wire))
        place.trace.note(Note(place.clock.now, self._host.name, "host", event, cid.hex(), words))
