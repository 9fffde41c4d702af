"""First packets: how the agent learns that an unmodified application wants a connection.

A packet to a peer's virtual address that no rule rewrites comes out at the tap. The agent holds
it, asks for the connection, and sends it on when the rules are in; or answers it with a refusal
that the application's connect() sees at once. A responder's packets that are too early, before
the initiator has confirmed, wait here in the same way; so do those of a connection that has lost
its way in a move (applications.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from wayside.core.address import Flow
from wayside.core.rule import Cid

PACKETS_MAX = 8
"""Held for one flow: a few repetitions of a SYN, or the first burst of a UDP program."""

FLOWS_MAX = 4096
"""Flows that wait at once; the oldest is forgotten, and its application tries again by itself."""


@dataclass(slots=True)
class Waiting:
    """The packets of one local flow that wait for a connection."""

    cid: Cid
    packets: list[bytes] = field(default_factory=list[bytes])


class WaitingRoom:
    """Packets that wait, by the flow as the application's socket sees it.

    MPTCP's are TCP's here: only who asks for the connection tells them apart.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._by_flow: OrderedDict[Flow, Waiting] = OrderedDict()

    def find(self, flow: Flow) -> Waiting | None:
        """What waits for this flow."""
        return self._by_flow.get(flow.on_the_wire)

    def flow_of(self, cid: Cid) -> Flow | None:
        """The flow that waits for a connection."""
        return next((flow for flow, held in self._by_flow.items() if held.cid == cid), None)

    def hold(self, flow: Flow, cid: Cid, packet: bytes, newest: bool = False) -> None:
        """Hold a packet for a connection that is being asked for.

        `newest`: of too many the newest are kept, else the first.
        """
        flow = flow.on_the_wire
        waiting = self._by_flow.get(flow)
        if waiting is None:
            if len(self._by_flow) >= FLOWS_MAX:
                self._by_flow.popitem(last=False)
                self.lost += 1
            waiting = self._by_flow[flow] = Waiting(cid)
        if len(waiting.packets) >= PACKETS_MAX:
            self.lost += 1
            if not newest:
                return
            del waiting.packets[0]
        waiting.packets.append(packet)

    def take(self, flow: Flow) -> list[bytes]:
        """Let all packets of a flow out."""
        waiting = self._by_flow.pop(flow.on_the_wire, None)
        return waiting.packets if waiting else []
