"""64-byte UDP packets a second of one flow, and what each box's look-up takes of them.

A sender in C on one core (blast.c); the kernel of the receiver counts what arrives
(/proc/net/snmp: delivered, or refused by a full socket). Every packet's whole way, through both
hosts and the gate, is walked on the sender's core, so packets a second are one over the cost of
that way. With the tables of some boxes asleep, the differences to plain routing
are what the others take.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from figure import Figure, compared, single
from place import PORTS, Bench, Line, Way, in_turns

from wayside.lab.world import Node

REACH = 0.75
PORT = PORTS[1]
SOURCE_PORT = 40_000
PAYLOAD_BYTES = 64
SHORT_S, LONG_S = 0.4, 0.8


def measure(bench: Bench) -> Iterator[Figure]:
    """Packets a second for each family; then nanoseconds a packet, box by box."""
    line = bench.line()
    serve(bench, line)
    blast = Blast(bench, line)
    for family in (4, 6) if not bench.quick else (4,):
        samples = in_turns(
            bench.rounds(7, 2),
            {
                "both": lambda family=family: blast.kpps(line.signaled(family)),
                "plain": lambda family=family: blast.kpps(line.plain(family)),
                "hosts": lambda family=family: blast.hosts_kpps(family),
                "gate": lambda family=family: blast.gate_kpps(family),
                "asleep": lambda family=family: blast.asleep_kpps(family),
            },
        )
        plain = samples["plain"]
        name = f"UDP, 64-byte packets, IPv{family}"
        yield compared(name, "kpps", samples["both"], plain, reach=REACH)
        for what, label in (
            ("hosts", "rewriting at both hosts"),
            ("gate", "the gate's pinhole"),
            ("both", "all of it"),
            ("asleep", "what stays while all tables sleep"),
        ):
            yield single(
                f"  a packet's time for {label}, IPv{family}",
                "ns",
                nanoseconds(samples[what]) - nanoseconds(plain),
                note=f"{compared('', '', samples[what], plain).ratio:.3f} of plain's packets",
            )


def nanoseconds(kpps: list[float]) -> float:
    """The time of one packet at the median rate."""
    return 1e6 / median(kpps)


def serve(bench: Bench, line: Line) -> None:
    """Start the receiving ends, on the far core."""
    sink = str(bench.compiled("sink"))
    for node in line.receivers:
        node.spawn("taskset", "-c", str(bench.far), sink, str(PORT), ready="ready")


class Blast:
    """Sends one flow's packets, signaled or not, through whichever tables are awake."""

    def __init__(self, bench: Bench, line: Line) -> None:
        self.source_port = SOURCE_PORT
        self._bench = bench
        self._line = line
        self._program = str(bench.compiled("blast"))

    def kpps(self, way: Way, seconds: float = 0.0) -> float:
        """Thousands of packets a second that the receiver's kernel has counted."""
        seconds = seconds or (SHORT_S if self._bench.quick else LONG_S)
        before = delivered(way.receiver)
        done = way.sender.run(
            *("taskset", "-c", str(self._bench.near), self._program, str(way.to)),
            *(str(self.source_port), str(PORT), str(PAYLOAD_BYTES), str(seconds)),
        )
        took_s = float(done.stdout.split()[1])
        return (delivered(way.receiver) - before) / took_s / 1000

    def hosts_kpps(self, family: int) -> float:
        """Only the gate's table is asleep. The flow must have been signaled."""
        with self._line.asleep(self._line.gate):
            return self.kpps(self._line.signaled(family))

    def asleep_kpps(self, family: int) -> float:
        """All tables are: what the gate's routing rule and the kernel's defragmentation cost."""
        line = self._line
        with line.asleep(line.client, line.gate, line.server):
            return self.kpps(line.wire(family))

    def gate_kpps(self, family: int) -> float:
        """Only the hosts' tables are: the same flow as it is on the wire, through its pinhole."""
        with self._line.asleep(self._line.client, self._line.server):
            return self.kpps(self._line.wire(family))


def delivered(node: Node) -> int:
    """UDP datagrams that reached a socket, or would have if it had been read faster."""
    four = node.run("grep", "^Udp:", "/proc/net/snmp").stdout.splitlines()
    counts = dict(zip(four[0].split()[1:], map(int, four[1].split()[1:]), strict=True))
    six = dict(line.split() for line in node.run("cat", "/proc/net/snmp6").stdout.splitlines())
    return (
        counts["InDatagrams"]
        + counts["RcvbufErrors"]
        + int(six["Udp6InDatagrams"])
        + int(six["Udp6RcvbufErrors"])
    )
