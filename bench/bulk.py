"""TCP bulk, one flow: through host rebinding and gate pinhole, and by plain routing.

iperf3 in the client, iperf3 in the server, one core each. The signaled flow is an ordinary
connection to the server's virtual address: three boxes look it up, two of them rewrite it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from figure import Figure, compared
from place import PORTS, Bench, Line, in_turns

from wayside.lab.world import Process, ProgramFailed

REACH = 0.95
PORT = PORTS[0]


def measure(bench: Bench) -> Iterator[Figure]:
    """One figure a family."""
    line = bench.line()
    serve(bench, line)
    for family in (4, 6) if not bench.quick else (4,):
        samples = in_turns(
            bench.rounds(5, 3),
            {
                "plain": lambda family=family: plain_gbit_s(bench, line, family),
                "signaled": lambda family=family: gbit_s(bench, line, family, virtual=True),
            },
        )
        name = f"TCP bulk, one flow, IPv{family}"
        yield compared(name, "Gbit/s", samples["signaled"], samples["plain"], reach=REACH)


def serve(bench: Bench, line: Line) -> Process:
    """Start the receiving end, on the far core."""
    pinned = ("taskset", "-c", str(bench.far))
    return line.server.node.spawn(
        *pinned, "iperf3", "-s", "-p", str(PORT), "--forceflush", ready="Server listening"
    )


def plain_gbit_s(bench: Bench, line: Line, family: int) -> float:
    """The control: our tables asleep, the address on the wire."""
    with line.asleep():
        return gbit_s(bench, line, family, virtual=False)


def gbit_s(bench: Bench, line: Line, family: int, *, virtual: bool, seconds: float = 0.0) -> float:
    """What one flow carries. `seconds`: how long it runs, 0: as long as is usual."""
    seconds = seconds or (1.0 if bench.quick else 2.0)
    to = line.to(family, virtual=virtual)
    done = line.client.node.run(
        *("taskset", "-c", str(bench.near), "iperf3", "-c", str(to), "-p", str(PORT)),
        *("-t", f"{seconds:g}", "-J", "--connect-timeout", "5000"),
    )
    report = json.loads(done.stdout)
    if "error" in report:
        raise ProgramFailed(f"iperf3: {report['error']}")
    return report["end"]["sum_received"]["bits_per_second"] / 1e9
