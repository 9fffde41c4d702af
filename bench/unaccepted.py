"""A gate's memory for OPENs that were never accepted.

Every OPEN is new (cid, 5-tuple), well signed, allowed by the policy and sent on by the gate; the
server takes it and says nothing. The gate's resident memory is read from /proc before and after,
and so is its helper's; the first OPENs, which fill caches and allocators, come before "before".
A gate that kept 100 bytes for each would grow by 10 MB.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from figure import Figure, single
from place import Bench
from setups import Site, rules_in
from stranger import Asked, Party, make_open, socket_in

from wayside.core.address import Address
from wayside.core.constants import SIGNALING_PORT
from wayside.lab.daemons import launch

OPENS, QUICK_OPENS = 100_000, 10_000
WARM_UP = 5_000
REACH_MB = 1.0
"""A tenth of what 100 bytes for each would be; an allocator's own ups and downs are below it."""

WINDOW = 64
AT_ONCE = 2_000
QUIET_S = 0.5
POLL_S = 0.001
FIRST_PORT, PORTS = 1024, 60_000


def measure(bench: Bench) -> Iterator[Figure]:
    """Memory before and after, and what the gate knows of them."""
    site = Site.build(bench)
    launch([site.gate])
    site.load.close()
    flood = Flood(bench)
    flood.send(WARM_UP)
    before = memory_mb(site)
    count = QUICK_OPENS if bench.quick else OPENS
    passed = flood.send(count)
    after = memory_mb(site)
    status = site.gate.status()
    held = status["connections_total"] + sum(rules_in(site.gate.node, f"timed{f}") for f in "46")
    yield single(
        f"memory for {count:,} OPENs that were never accepted",
        "MB more",
        after - before,
        control=before,
        reach=REACH_MB,
        at_most=True,
        note=f"gate and helper: {before:.1f} MB before, {after:.1f} MB after; "
        f"{passed:,} went on to the server, the gate holds {held}",
    )
    yield single("  of them, sent on by the gate", "%", 100 * passed / count, reach=99)
    yield single(
        "  connections and rules that the gate holds then", "", held, reach=0, at_most=True
    )


class Flood:
    """Asks, and never answers."""

    def __init__(self, bench: Bench) -> None:
        near, far = (host.node.address(4) for host in bench.daemons.hosts)
        self._near, self._far = Address(near, 0), Address(far, 0)
        self._client = socket_in("client", str(near))
        self._server = socket_in("server", str(far))
        self._ends = Party.of(bench.daemons.hosts[0]), Party.of(bench.daemons.hosts[1])
        self._made = 0

    def send(self, count: int) -> int:
        """Send so many OPENs, a window at a time; how many came out behind the gate."""
        passed = 0
        while count > 0:
            some = min(count, AT_ONCE)
            passed += self._send([self._open() for _ in range(some)])
            count -= some
        return passed

    def _send(self, opens: list[Asked]) -> int:
        passed = under_way = 0
        last = time.monotonic()
        waiting = iter(opens)
        asked = next(waiting, None)
        while passed < len(opens):
            while under_way < WINDOW and asked is not None:
                self._client.sendto(asked.datagram, (str(self._far.ip), SIGNALING_PORT))
                under_way += 1
                asked = next(waiting, None)
            arrived = _count(self._server)
            _count(self._client)
            if arrived:
                passed, under_way, last = passed + arrived, under_way - arrived, time.monotonic()
            elif time.monotonic() - last < QUIET_S:
                time.sleep(POLL_S)
            elif asked is None:
                break
            else:  # what is under way is lost
                under_way, last = 0, time.monotonic()
        return passed

    def _open(self) -> Asked:
        number = self._made
        self._made += 1
        source = self._near.with_port(FIRST_PORT + number % PORTS)
        return make_open(*self._ends, source, self._far.with_port(5201 + number // PORTS))


def _count(sock: socket.socket) -> int:
    count = 0
    while True:
        try:
            sock.recv(2048)
        except BlockingIOError:
            return count
        count += 1


def memory_mb(site: Site) -> float:
    """Resident memory of the gate's process and of its helper."""
    return resident_mb(site.pids)


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of processes together."""
    return sum(_resident_kb(pid) for pid in pids) / 1024


def _resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
