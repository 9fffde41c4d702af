"""TCP bulk, one flow: through host rebinding and gate pinhole, and by plain routing.

iperf3 in the client, iperf3 in the server, one core each. The signaled flow is an ordinary
connection to the server's virtual address: three boxes look it up, two of them rewrite it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from figure import Figure, compared
from place import PORTS, Bench, Line, Way, in_turns

from wayside.lab.world import ProgramFailed

REACH = 0.95
PORT = PORTS[0]


def measure(bench: Bench) -> Iterator[Figure]:
    """One figure a family."""
    line = bench.line()
    serve(bench, line)
    for family in (4, 6) if not bench.quick else (4,):
        samples = in_turns(
            bench.rounds(5, 2),
            {
                "plain": lambda family=family: gbit_s(bench, line.plain(family)),
                "signaled": lambda family=family: gbit_s(bench, line.signaled(family)),
            },
        )
        name = f"TCP bulk, one flow, IPv{family}"
        yield compared(name, "Gbit/s", samples["signaled"], samples["plain"], reach=REACH)


def serve(bench: Bench, line: Line) -> None:
    """Start the receiving ends, on the far core."""
    pinned = ("taskset", "-c", str(bench.far))
    for node in line.receivers:
        node.spawn(
            *pinned, "iperf3", "-s", "-p", str(PORT), "--forceflush", ready="Server listening"
        )


def gbit_s(bench: Bench, way: Way, seconds: float = 0.0) -> float:
    """What one flow carries. `seconds`: how long it runs, 0: as long as is usual."""
    seconds = seconds or (1.0 if bench.quick else 2.0)
    done = way.sender.run(
        *("taskset", "-c", str(bench.near), "iperf3", "-c", str(way.to), "-p", str(PORT)),
        *("-t", f"{seconds:g}", "-J", "--connect-timeout", "5000"),
    )
    report = json.loads(done.stdout)
    if "error" in report:
        raise ProgramFailed(f"iperf3: {report['error']}")
    return report["end"]["sum_received"]["bits_per_second"] / 1e9
