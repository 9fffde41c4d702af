"""A firewall's policy says no: the user knows at once who, by which rule and why.

    client ──inside── gate ──outside── router ── server

The gate rejects http and says why; it allows ssh. An unmodified curl fails in milliseconds with
"no route" or "refused" instead of waiting for a timeout, and the server hears nothing of it.
"""

from __future__ import annotations

from wayside.lab import traffic
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage, set_stage

RULE, REASON = "no-web", "the web is closed on Sundays"

POLICY = f"""
default = "reject"

[[rule]]
name = "{RULE}"
service = ["http", "{traffic.ECHO_PORT}"]
action = "reject"
reason = "{REASON}"

[[rule]]
name = "lab-may"
from = ["*.lab"]
to = ["*.lab"]
action = "allow"

[[test]]
from = "client.lab"
to = "server.lab"
service = "http"
transport = "tcp"
direction = "DIRECTION"
expect = "reject"
"""

AT_ONCE_MS = 100.0
"""A person does not notice it; a timeout would be a hundred times that."""

CAUSES = ("No route to host", "Connection refused")

COULD_NOT_CONNECT = 7
"""curl's exit code; a timeout would be 28."""


def play(trial: Trial) -> None:
    """Refused over TCP and UDP; the server saw nothing; what is allowed passes."""
    stage = set_stage(trial, "gate", "router", gate="gate", inside="client", policy=POLICY)
    _check_tcp(stage)
    _check_udp(stage)
    _check_server_saw_nothing(stage)
    said = traffic.ssh_says(stage.client.node, stage.server.node, stage.to)
    trial.check("ssh, which the policy allows, passes (control)", said == "hello", said)


def _check_tcp(stage: Stage) -> None:
    trial = stage.trial
    fetched = traffic.curl(stage.client.node, stage.to)
    trial.check("curl cannot connect", fetched.exit_code == COULD_NOT_CONNECT, fetched.error)
    trial.check("because of what connect() said", fetched.cause in CAUSES, fetched.cause)
    trial.check(
        "curl fails at once", fetched.seconds * 1000 < AT_ONCE_MS, fetched.seconds * 1000, "ms"
    )
    refusals = stage.client.why()
    newest = refusals[0] if refusals else {}
    gate = trial.daemons.gates[0].name
    trial.check("why names the gate", gate in str(newest.get("by")), str(newest.get("by")))
    trial.check("why names the rule", newest.get("rule") == RULE, str(newest.get("rule")))
    trial.check("why gives the reason", newest.get("reason") == REASON, str(newest.get("reason")))


def _check_udp(stage: Stage) -> None:
    trial = stage.trial
    asked = traffic.echo_result(
        traffic.start_echo(stage.client.node, stage.to, count=2, limit_s=1.0)
    )
    trial.check("a UDP client is not answered", not asked.answered, asked.answered, "answers")
    told = asked.errors[0] if asked.errors else "no error"
    trial.check("a UDP client's socket reports an error", asked.errors, told)


def _check_server_saw_nothing(stage: Stage) -> None:
    signaling = [r for r in stage.server.events() if r.event == "datagram.received"]
    name = "the server received no signaling"
    stage.trial.check(name, not signaling, len(signaling), "datagrams")
    packets = stage.watch.packets()
    stage.trial.check("nor any TCP or UDP packet", packets == 0, packets, "packets")
