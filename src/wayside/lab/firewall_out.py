"""A default-drop firewall near the initiator: it opens for the signaled 5-tuple, while that lives.

    client ──inside── gate ──outside── router ── server

The client's own network guards what leaves it. The policy lets the lab's names reach each other;
what nobody signaled does not leave.
"""

from __future__ import annotations

from wayside.core.address import Transport
from wayside.lab import firewall, traffic
from wayside.lab.probe import Watch
from wayside.lab.scenario import Trial
from wayside.lab.stage import set_stage


def play(trial: Trial) -> None:
    """Shut, open for one flow, shut again; and everything that a user would run."""
    stage = set_stage(
        *(trial, "gate", "router"),
        gate="gate",
        inside="client",
        gate_lifetime_s=firewall.SILENCE_LIFETIME_S,
    )
    gate = trial.daemons.gates[0]
    firewall.check_shut(stage, gate)
    firewall.check_echo_and_relations(stage)
    exact = stage.wire(Transport.UDP, firewall.ECHO_FROM, traffic.ECHO_PORT)
    client = stage.client.node
    firewall.check_from_outside(stage, stage.server.node, Watch(client), exact)
    firewall.check_gone_after_close(stage, gate)
    firewall.check_services(stage)
    firewall.check_gone_after_silence(stage, gate)
