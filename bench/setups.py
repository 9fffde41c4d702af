"""Set-ups a second through one gate process on one core, and where its time goes.

The gate and its helper share one core; the load (both ends of every connection, load.py) has
another. For every set-up the gate checks two signatures, the OPEN's and the ACCEPT's, asks its
policy, seals and opens a token, and makes two kernel transactions: pending rules, then lasting
ones. How many rules are in the kernel is counted there at the end, not believed.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figure import Figure, percentile_99, single
from load import Load
from place import ALLOW_LAB, HERE, Bench
from stranger import Party

from wayside.core.address import Address
from wayside.kernel.names import TABLE
from wayside.lab.daemons import Daemon, launch, within
from wayside.lab.enclosure import PYTHON
from wayside.lab.world import Node

REACH = 2000.0
WARM_UP = 500
TRIAL_S = 4.0
RATE_MAX = 4000
"""OPENs are signed in advance for this rate; also what a gate takes from one network unproved."""

END_LIMIT_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Site:
    """A gate between two nodes that have no daemons but Load."""

    gate: Daemon
    load: Load

    @classmethod
    def build(cls, bench: Bench) -> Site:
        """Lay it out; the gate is not started yet."""
        client, middle, server = bench.world.chain("client", "gate", "server")
        ends = (bench.daemons.host(client), bench.daemons.host(server))
        gate = bench.daemons.gate(middle, inside=client, outside=server, policy=ALLOW_LAB)
        near, far = Address(client.address(4), 0), Address(server.address(4), 0)
        load = Load(("client", "server"), (Party.of(ends[0]), Party.of(ends[1])), near, far)
        return cls(gate, load)

    def spent_s(self) -> tuple[float, float]:
        """CPU seconds of the gate's process and of its helper so far."""
        gate, helper = self.pids
        return _cpu_s(gate), _cpu_s(helper)

    @property
    def pids(self) -> tuple[int, int]:
        """The processes of the gate and of its helper."""
        return pids_of(self.gate)

    def in_kernel(self) -> int:
        """Connections that have lasting rules, both ways, in the kernel."""
        return rules_in(self.gate.node, "renewed4") // 2


def measure(bench: Bench) -> Iterator[Figure]:
    """The figure, with what it cost on either side of the gate's split."""
    os.sched_setaffinity(0, {bench.far})  # the daemon inherits it
    site = Site.build(bench)
    launch([site.gate])
    os.sched_setaffinity(0, {bench.near})
    done, _ = site.load.run(site.load.prepare(WARM_UP), limit_s=10)
    done += site.load.settle()
    rates: list[float] = []
    spent = [0.0, 0.0]
    took_s = 0.0
    counted = 0
    site.load.latencies_s.clear()
    for _ in range(bench.rounds(3, 2)):
        trial_s = TRIAL_S / (2 if bench.quick else 1)
        opens = site.load.prepare(int(RATE_MAX * trial_s))
        before = site.spent_s()
        finished, seconds = site.load.run(opens, limit_s=trial_s)
        after = site.spent_s()
        spent = [total + b - a for total, a, b in zip(spent, before, after, strict=True)]
        took_s += seconds
        counted += finished
        rates.append(finished / seconds)
        done += finished + site.load.settle()
    held = site.in_kernel()
    busy = sum(spent) / took_s
    note = (
        f"{1e6 * spent[0] / counted:.0f} us of the gate and {1e6 * spent[1] / counted:.0f} us of "
        f"its helper each; core {busy:.0%} busy; p99 {percentile_99(site.load.latencies_s):.3f} s; "
        f"{done:,} done, {held:,} in the kernel"
    )
    rates.sort()
    middle = rates[len(rates) // 2]
    yield single(
        "set-ups a second through one gate", "/s", middle, reach=REACH, samples=rates, note=note
    )
    name = "  of set-ups that were done, in the kernel"
    yield single(name, "%", 100 * min(held, done) / done, reach=100)


def profile(bench: Bench) -> Iterator[Figure]:
    """The same load on a gate that takes a sample of its own stack every millisecond."""
    os.sched_setaffinity(0, {bench.far})
    site = Site.build(bench)
    counts = bench.out / "samples.json"
    node = site.gate.node
    words = (str(HERE / "sampled.py"), str(counts), "gate")
    site.gate.process = node.spawn(*PYTHON, *words, "--config", str(node.state / "gate.toml"))
    within(10.0, lambda: any(r.event == "daemon.ready" for r in site.gate.events()))
    os.sched_setaffinity(0, {bench.near})
    trial_s = TRIAL_S / 2 if bench.quick else TRIAL_S
    opens = site.load.prepare(int(RATE_MAX * trial_s))
    site.load.run(site.load.prepare(WARM_UP), limit_s=10)
    site.load.settle()
    site.gate.process.popen.send_signal(signal.SIGUSR2)
    before = site.spent_s()
    done, _ = site.load.run(opens, limit_s=trial_s)
    after = site.spent_s()
    site.gate.process.popen.send_signal(signal.SIGTERM)
    site.gate.process.wait(END_LIMIT_S)
    samples: dict[str, int] = json.loads(counts.read_text())
    total = sum(samples.values())
    gate_us = 1e6 * (after[0] - before[0]) / done
    for group, count in sorted(samples.items(), key=lambda item: -item[1]):
        share = count / total
        yield single(f"  a set-up's time in the gate: {group}", "us", gate_us * share)
    helper_us = 1e6 * (after[1] - before[1]) / done
    yield single("  a set-up's time in the helper: nftables", "us", helper_us)


def pids_of(gate: Daemon) -> tuple[int, int]:
    """The processes of a box and of its helper."""
    assert gate.process is not None
    pid = gate.process.popen.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pid, int(children[0])


def rules_in(node: Node, name: str) -> int:
    """How many rules of ours a set has in the kernel."""
    listing = node.run("nft", "list", "set", "inet", TABLE, name, limit_s=60).stdout
    return listing.count(" comment ")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
