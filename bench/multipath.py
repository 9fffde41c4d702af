"""The control of moves: a host with MPTCP in its kernel, on links laid out like ours.

Three hosts, from the best case to ours:

    removed   both links up, a subflow on each, one of them for backup. The one in use goes down,
              and the host's path manager removes its endpoint at once.
    standby   the same; nobody tells MPTCP, whose own timers have to find out.
    again     only one link up, as in our hard moves: it goes down, the other gets an address, and
              the path manager exchanges the endpoints.

The server's kernel takes what comes. The defaults of net.mptcp hold.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from moving import Row, here_and_there

from wayside.core.address import IP
from wayside.lab.roaming import Access

KINDS = {
    "standby": "two links up, one goes down",
    "removed": "two links up, one goes down and its endpoint is removed",
    "again": "one link up, then the other, as ours",
}
JOINED_S = 0.3
"""A subflow is there after two round trips; the rest is for a busy machine."""

SUBFLOWS = 4


@dataclass(slots=True)
class Multipath:
    """One row, whose client moves. `kind`: of KINDS."""

    row: Row
    kind: str
    _used: Access = field(init=False)
    _other: Access = field(init=False)
    _left: IP = field(init=False)
    """The address that went last."""
    _number: int = 10
    """Of the last address that came; none comes twice."""

    def __post_init__(self) -> None:
        self._used, self._other = here_and_there(self.row.client)
        for host in self.row.hosts.values():
            words = ("subflow", str(SUBFLOWS), "add_addr_accepted", str(SUBFLOWS))
            host.node.run("ip", "mptcp", "limits", "set", *words)
        self._add(self._used, "subflow")

    def alone(self) -> None:
        """Before a flow begins: only the link that is used is there, so it begins on that."""
        if self._other.number:
            self._left = self._other.addresses()[0]
            self.row.client.leave(self._other.box)
            self._remove()

    def begin(self) -> None:
        """Once the flow is there: the other link."""
        if self.kind != "again":
            self._stand_by()

    def move(self) -> float:
        """The link in use goes down; when that began (monotonic s)."""
        client = self.row.client
        self._left = self._used.addresses()[0]
        if self.kind == "again":
            self._number += 1
            began = client.hard(self._other.box, self._number)
            self._add(self._other, "subflow")
            self._remove()
        else:
            began = client.leave(self._used.box)
            if self.kind == "removed":
                self._remove()
        self._used, self._other = self._other, self._used
        return began

    def settle(self) -> None:
        """After a move: what is used now is nobody's backup, and the other link is its own."""
        if self.kind == "again":
            return
        if self.kind == "standby":
            self._remove()
        self.row.client.node.run(
            "ip", "mptcp", "endpoint", "change", *self._id(self._now), "nobackup"
        )
        self._stand_by()

    @property
    def _now(self) -> IP:
        return self._used.addresses()[0]

    def _stand_by(self) -> None:
        self._number += 1
        self.row.client.soft(self._other.box, self._number)
        self._add(self._other, "subflow", "backup")
        time.sleep(JOINED_S)

    def _add(self, access: Access, *flags: str) -> None:
        device = f"to-{access.box.name}"
        words = (str(access.addresses()[0]), "dev", device, *flags)
        self.row.client.node.run("ip", "mptcp", "endpoint", "add", *words)

    def _remove(self) -> None:
        self.row.client.node.run("ip", "mptcp", "endpoint", "delete", *self._id(self._left))

    def _id(self, address: IP) -> tuple[str, str]:
        shown = self.row.client.node.run("ip", "mptcp", "endpoint", "show").stdout
        words = next(line for line in shown.splitlines() if line.startswith(f"{address} ")).split()
        return "id", words[words.index("id") + 1]
