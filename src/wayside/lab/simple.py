"""Two hosts agree on a connection, then talk in ordinary kernel TCP and UDP.

    client ── router ── server

No firewall: what is seen is the agreement itself (OPEN, ACCEPT, CONFIRM), that unmodified programs
use it without knowing, and that nothing of it is left when they have closed.
"""

from __future__ import annotations

from wayside.lab import firewall, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, within
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage, set_stage


def play(trial: Trial) -> None:
    """One curl, looked at closely; then the other programs; then nothing is left."""
    stage = set_stage(trial, "router")
    fetched = traffic.curl(stage.client.node, stage.to)
    trial.check("curl fetches the file", fetched.bytes == traffic.FILE_BYTES, fetched.seconds, "s")
    _check_messages(stage)
    echoed = traffic.echo_result(traffic.start_echo(stage.client.node, stage.to, count=20))
    rtt = min((rtt for rtt in echoed.rtts_ms if rtt is not None), default=None)
    trial.check("UDP echo answers every datagram", echoed.answered == 20, rtt, "ms")
    firewall.check_services(stage)
    _check_closed(stage)


def _check_messages(stage: Stage) -> None:
    """The three messages of an agreement, each sent by the right end and received by the other."""
    check = stage.trial.check
    stage.wait_events(stage.server, "connection.opened")
    ends = {"client": stage.client, "server": stage.server}
    for message, sender, receiver in (
        ("OPEN", "client", "server"),
        ("ACCEPT", "server", "client"),
        ("CONFIRM", "client", "server"),
    ):
        sent, received = (
            [r for r in ends[end].events() if r.event == event and r.type == message]
            for end, event in ((sender, "datagram.sent"), (receiver, "datagram.received"))
        )
        same = {r.digest for r in sent} & {r.digest for r in received}
        check(f"{message} goes from {sender} to {receiver}", same, len(same), "seen at both ends")
    first, *_ = [r for r in stage.client.events() if r.event == "packet.first"] or [None]
    opened, *_ = [r for r in stage.client.events() if r.event == "connection.opened"] or [None]
    took_ms = (opened.time - first.time) * 1000 if first and opened else None
    check("first packet to opened", took_ms is not None, took_ms, "ms")


def _check_closed(stage: Stage) -> None:
    """Programs that ended have closed their TCP connections: neither host holds one."""

    def held() -> list[str]:
        connections = [c for daemon in (stage.client, stage.server) for c in daemon.held()]
        return [c["wire"] for c in connections if c["transport"] == "tcp"]

    within(SEEN_LIMIT_S, lambda: not held())
    left = held()
    stage.trial.check("no TCP connection is left at either host", not left, ", ".join(left))
