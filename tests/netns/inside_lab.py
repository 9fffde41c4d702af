"""The inside of test_lab.py: runs in an enclosure, prints one JSON object of what it saw."""

import json
import sys
from pathlib import Path

from wayside.core.address import Address, Flow, Transport
from wayside.lab import probe, traffic
from wayside.lab.enclosure import leave_with_the_outer_process
from wayside.lab.world import Node, World

DROP_PORT_5001 = """
table inet filter {
  chain forward { type filter hook forward priority 0; th dport 5001 drop; }
}
"""


def main() -> None:
    leave_with_the_outer_process()
    out = Path(sys.argv[1])
    world = World(out)
    client, router, server = world.chain("client", "router", "server", delay_ms={1: 10})
    traffic.serve_iperf(server)
    traffic.serve_http(server)
    traffic.serve_ssh(server)
    traffic.serve_echo(server)
    watch = probe.Watch(server)
    router.run("nft", "-f", "-", stdin=DROP_PORT_5001)
    seen = {str(family): look(client, server, watch, family) for family in (4, 6)}
    sys.stdout.write(json.dumps(seen))


def look(client: Node, server: Node, watch: probe.Watch, family: int) -> dict[str, object]:
    to = server.address(family)
    sent = [
        Flow(transport, Address(client.address(family), 4000), Address(to, port))
        for transport in (Transport.UDP, Transport.TCP)
        for port in (5000, 5001)
    ]
    passed = probe.arrived(client, watch, sent)
    echoed = traffic.echo_result(traffic.start_echo(client, to, count=3))
    closed = traffic.start_echo(client, to, port=9, count=2, limit_s=0.3)
    bulk, datagrams = traffic.iperf(client, to, 1.0), traffic.iperf(client, to, 1.0, udp=True)
    return {
        "probes": sorted(f"{flow.transport.name} {flow.destination.port}" for flow in passed),
        "packets": watch.packets(),
        "rtts_ms": echoed.rtts_ms,
        "errors_of_a_closed_port": traffic.echo_result(closed).errors,
        "tcp_error": bulk.error,
        "tcp_gbit_s": bulk.gbit_s,
        "udp_lost": datagrams.error or datagrams.lost_percent,
        "curl_bytes": traffic.curl(client, to).bytes,
        "curl_closed": traffic.curl(client, to, 81).exit_code,
        "ssh": traffic.ssh_says(client, server, to),
        "sftp": traffic.sftp_puts(client, server, to),
    }


if __name__ == "__main__":
    main()
