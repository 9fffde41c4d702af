"""What a firewall that is asked has to show, whichever end it protects.

Before anything is signaled nothing passes; then exactly the signaled 5-tuple does, while all its
near relations are dropped at the same moment; after CLOSE, or after silence, it is as before.
"Dropped" is always held against a control in the same breath: a probe of the signaled 5-tuple
that does arrive, by the same tool, on the same path.
"""

from __future__ import annotations

import time
from ipaddress import ip_address

from wayside.core.address import Address, Flow, Transport
from wayside.lab import traffic
from wayside.lab.daemons import Daemon, within
from wayside.lab.probe import Watch, arrived
from wayside.lab.stage import Stage
from wayside.lab.world import Node
from wayside.runtime.eventlog import Record

ECHO_FROM, SILENT_FROM, STRAY_PORT = 40_001, 40_003, 40_999
"""Where UDP clients send from, so that their wire 5-tuple is known; and a port nobody uses."""

ECHO_EVERY_S = 0.01
ECHO_COUNT = 150
"""One and a half seconds of datagrams: the probes below are sent while they run."""

SILENCE_LIFETIME_S = 2.0
"""The gate's lifetime in firewall scenarios: silence is to be seen within a run's patience."""

SILENCE_LIMIT_S = 2 * SILENCE_LIFETIME_S
"""The lifetime itself, and as much again for the gate to notice."""


def check_shut(stage: Stage, gate: Daemon) -> None:
    """Nothing that was not signaled passes: probes of every service's 5-tuple, and plain curl."""
    trial = stage.trial
    echo = stage.wire(Transport.UDP, ECHO_FROM, traffic.ECHO_PORT)
    http = stage.wire(Transport.TCP, ECHO_FROM, traffic.HTTP_PORT)
    at_gate = Watch(gate.node)
    both = {echo, http}
    reached = within(3.0, lambda: arrived(stage.client.node, at_gate, [echo, http]) == both)
    trial.check("before signaling, probes reach the gate (control)", reached)
    passed = arrived(stage.client.node, stage.watch, [echo, http])
    trial.check("before signaling, the gate drops them", not passed, len(passed), "passed")
    direct = traffic.curl(stage.client.node, stage.server.node.address(trial.family), limit_s=1.0)
    trial.check("an unsignaled curl gets nothing", direct.exit_code == 28, direct.error)


def check_echo_and_relations(stage: Stage) -> None:
    """The signaled UDP flow passes while its near relations are dropped."""
    trial, node = stage.trial, stage.client.node
    running = traffic.start_echo(
        node, stage.to, count=ECHO_COUNT, interval_s=ECHO_EVERY_S, from_port=ECHO_FROM
    )
    opened = stage.wait_events(stage.client, "connection.opened")
    trial.check("the connection is opened", opened)
    exact = stage.wire(Transport.UDP, ECHO_FROM, traffic.ECHO_PORT)
    passed = arrived(node, stage.watch, [exact, *relations(exact)])
    busy = running.popen.poll() is None
    result = traffic.echo_result(running)
    name = "a probe of the signaled 5-tuple passes (control)"
    trial.check(name, exact in passed and busy, str(exact))
    strays = passed - {exact}
    name = "meanwhile its near relations are dropped"
    trial.check(name, not strays and busy, ", ".join(map(str, strays)) or len(relations(exact)))
    first = result.rtts_ms[0] or 0.0
    trial.check("the first datagram is answered", result.rtts_ms[0] is not None, first, "ms")
    name = "the signaled UDP flow passes all the while"
    trial.check(name, result.answered == ECHO_COUNT, result.answered, f"of {ECHO_COUNT} answered")


def relations(exact: Flow) -> list[Flow]:
    """What differs from a 5-tuple in one thing: port, port, address, address, transport."""
    source, destination = exact.source, exact.destination
    other = Transport.TCP if exact.transport is Transport.UDP else Transport.UDP
    return [
        Flow(exact.transport, source.with_port(STRAY_PORT), destination),
        Flow(exact.transport, source, destination.with_port(STRAY_PORT)),
        Flow(exact.transport, _neighbour(source), destination),
        Flow(other, source, destination),
    ]


def check_from_outside(stage: Stage, sender: Node, watch: Watch, exact: Flow) -> None:
    """In the other direction only the answer's 5-tuple passes."""
    back = exact.reversed()
    strays = [Flow(exact.transport, back.source, back.destination.with_port(STRAY_PORT))]
    strays.append(Flow(exact.transport, back.source.with_port(STRAY_PORT), back.destination))
    passed = arrived(sender, watch, [back, *strays])
    name = "towards the client, the answer's 5-tuple passes and no other"
    stage.trial.check(name, passed == {back}, len(passed), "of 3 passed")


def check_gone_after_close(stage: Stage, gate: Daemon) -> None:
    """When curl closes its connection the pinhole goes at once, not by and by."""
    trial, node = stage.trial, stage.client.node
    fetched = traffic.curl(node, stage.to)
    trial.check("curl fetches the file", fetched.bytes == traffic.FILE_BYTES, fetched.seconds, "s")
    pinhole = newest_pinhole(gate, Transport.TCP, traffic.HTTP_PORT)
    if not pinhole:
        trial.check("the gate logged a pinhole for curl", False)
        return

    def told(event: str) -> list[Record]:
        return [r for r in gate.events() if r.event == event and r.cid == pinhole.cid]

    removed = within(SILENCE_LIFETIME_S / 2, lambda: told("rule.removed"))
    closes = [r for r in told("datagram.received") if r.type == "CLOSE"]
    took_ms = (removed[0].time - closes[0].time) * 1000 if removed and closes else None
    trial.check("after CLOSE the gate removes the pinhole", took_ms is not None, took_ms, "ms")
    flow = parse_flow(pinhole.match)
    passed = arrived(node, stage.watch, [flow])
    trial.check("after CLOSE a probe of that 5-tuple is dropped", not passed, str(flow))


def check_gone_after_silence(stage: Stage, gate: Daemon) -> None:
    """When both ends vanish without a word, the pinhole goes when the gate's lifetime is over.

    Leaves the hosts without agents: the last check of a scenario.
    """
    trial, node = stage.trial, stage.client.node
    asking = traffic.start_echo(node, stage.to, count=3, from_port=SILENT_FROM)
    echoed = traffic.echo_result(asking)
    exact = stage.wire(Transport.UDP, SILENT_FROM, traffic.ECHO_PORT)
    held = arrived(node, stage.watch, [exact])
    name = "before silence a probe of its 5-tuple passes (control)"
    trial.check(name, held and echoed.answered == 3, str(exact))
    for host in (stage.client, stage.server):
        host.kill()
    silent_since = time.monotonic()
    gone = within(SILENCE_LIMIT_S, lambda: not _holds(gate, exact))
    took_s = time.monotonic() - silent_since
    trial.check("after silence the gate holds no pinhole", gone, took_s, "s")
    passed = arrived(node, stage.watch, [exact])
    trial.check("after silence a probe of its 5-tuple is dropped", not passed, str(exact))


def check_services(stage: Stage) -> None:
    """Everything that a user would run passes: iperf3 over TCP and UDP, ssh and sftp."""
    trial, node, server = stage.trial, stage.client.node, stage.server.node
    bulk = traffic.iperf(node, stage.to, trial.bulk_s)
    trial.check("iperf3 over TCP", not bulk.error and bulk.gbit_s > 0, bulk.gbit_s, "Gbit/s")
    datagrams = traffic.iperf(node, stage.to, 1.0, udp=True)
    fine = not datagrams.error and datagrams.lost_percent < 1
    trial.check("iperf3 over UDP", fine, datagrams.error or datagrams.lost_percent, "% lost")
    said = traffic.ssh_says(node, server, stage.to)
    trial.check("ssh runs a command", said == "hello", said)
    wrong = traffic.sftp_puts(node, server, stage.to)
    trial.check("sftp carries a file", not wrong, wrong or traffic.FILE_BYTES / 1e6, "MB")


def _neighbour(address: Address) -> Address:
    return Address(ip_address(int(address.ip) + 0x40), address.port)


def newest_pinhole(gate: Daemon, transport: Transport, port: int) -> Record | None:
    """The gate's record of the last pinhole that it made towards a port."""
    for record in reversed(gate.events()):
        if record.event == "rule.installed" and record.action == "accept":
            flow = parse_flow(record.match)
            if flow.transport is transport and flow.destination.port == port:
                return record
    return None


def parse_flow(text: str) -> Flow:
    """Read a flow as logs and status print it: `tcp 10.1.0.2:4000 > 10.3.0.1:80`."""
    transport, source, _, destination = text.split()
    return Flow(Transport[transport.upper()], Address.parse(source), Address.parse(destination))


def _holds(gate: Daemon, flow: Flow) -> bool:
    wire = f"{flow.source} > {flow.destination}"
    return any(connection["wire"] == wire for connection in gate.held())
