"""A default-drop firewall near the responder: it opens only when the listening host has accepted.

    client ── router ──outside── gate ──inside── server

The gate's policy allows the client everything, and still nothing passes that the server's host did
not agree to: a service that is not exposed stays shut, and opens the moment it is exposed.
"""

from __future__ import annotations

from wayside.core.address import Transport
from wayside.lab import firewall, traffic
from wayside.lab.probe import Watch, arrived
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage, set_stage
from wayside.runtime.names import service_of

LATE_PORT = 7008
LATE_FROM = 40_002


def play(trial: Trial) -> None:
    """Refused by the host behind the gate; then exposed; then all that firewall-out shows."""
    stage = set_stage(
        *(trial, "router", "gate"),
        gate="gate",
        inside="server",
        gate_lifetime_s=firewall.SILENCE_LIFETIME_S,
    )
    gate = trial.daemons.gates[0]
    firewall.check_shut(stage, gate)
    _check_consent(stage)
    firewall.check_echo_and_relations(stage)
    exact = stage.wire(Transport.UDP, firewall.ECHO_FROM, traffic.ECHO_PORT)
    firewall.check_from_outside(stage, stage.server.node, Watch(stage.client.node), exact)
    firewall.check_gone_after_close(stage, gate)
    firewall.check_services(stage)
    firewall.check_gone_after_silence(stage, gate)


def _check_consent(stage: Stage) -> None:
    """The service runs, the gate would let it pass, the host has not accepted: shut."""
    trial, node, server = stage.trial, stage.client.node, stage.server
    gate = trial.daemons.gates[0]
    traffic.serve_echo(server.node, LATE_PORT)
    refused = _ask(stage)
    trial.check("a service that is not exposed does not answer", not refused.answered)
    name = "the host's refusal reaches the application as an error"
    trial.check(name, refused.errors, "; ".join(refused.errors) or "no error")
    exact = stage.wire(Transport.UDP, LATE_FROM, LATE_PORT)
    installed = [r for r in gate.events() if r.event == "rule.installed" and r.match == str(exact)]
    trial.check("the gate made no rule for it", not installed, len(installed), "rules")
    passed = arrived(node, stage.watch, [exact])
    trial.check("and drops a probe of its 5-tuple", not passed, str(exact))
    server.command("expose", service_of(LATE_PORT), str(LATE_PORT))
    answered = _ask(stage)
    rtt = answered.rtts_ms[0]
    trial.check("once exposed it answers", answered.answered == 2, rtt, "ms")
    passed = arrived(node, stage.watch, [exact])
    trial.check("and the probe passes (control)", exact in passed, str(exact))


def _ask(stage: Stage) -> traffic.Echoed:
    """Two datagrams: an error about the first is told to a socket with the second."""
    asking = traffic.start_echo(
        stage.client.node, stage.to, port=LATE_PORT, from_port=LATE_FROM, count=2, limit_s=1.0
    )
    return traffic.echo_result(asking)
