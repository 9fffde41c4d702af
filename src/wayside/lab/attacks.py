"""Attackers in their own processes, on the path and off it, while a transfer goes on undisturbed.

    client ──inside── gate ──outside── router ── server
                                         ├── stranger
                                         └── victim

A box between gate and server (the router) reads all signaling, repeats it, bends it, and forges
more with a key of its own. A stranger elsewhere knows the connections' cids, spoofs the victim's
address, and floods. Nobody gets a rule, and the victim no more bytes than were sent in its name.
At last the box drops, then refuses: that is its right, and the user is told what happened.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text
from wayside.lab import traffic
from wayside.lab.adversary_stage import MODULE, Attack, changes, rules_of, set_up, status_of
from wayside.lab.adversary_words import REASON
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage
from wayside.lab.world import Process

BULK_S = 12.0
"""iperf3 runs for as long as the attacks take, and a little more."""

ECHO_FROM, SHUT_FROM = 40_001, 40_002
ECHO_COUNT, ECHO_EVERY_S = 1000, 0.01
"""A UDP flow beside it, whose every datagram is to be answered."""

REPLAYS = 5
SPOOFED, FLOODED = 2_000, 8_000

STALLED_SHARE = 0.05
"""Of the median rate: two cores carry iperf3, a flood, and three daemons that check signatures."""

GROWTH_KB_MAX = 64_000
"""What a daemon may have grown by: five seconds of half-open connections, not one OPEN each."""

PENDING_GONE_S = 15.0
"""Five seconds of a pending rule, and some for a host that was busy when they were over."""

REASONS = {
    "gate": {"address", "header", "malformed", "signature", "token"},
    "server": {"header", "malformed", "signature", "stale", "unexpected"},
    "client": {"signature", "unexpected", "stale"},
}
"""What the attacks must have been dropped for, at least, by whom."""

SHUT = """
table inet lab_box {
    chain passing {
        type filter hook forward priority 0; policy accept;
        udp dport 4747 drop
    }
}
"""
"""A box that drops signaling; whoever reads at its door still sees it."""

TIMEOUT_S, TIMEOUT_LATEST_S = 4.5, 7.0
AT_ONCE_S = 1.0


def play(trial: Trial) -> None:
    """A transfer and an echo, all attacks in their midst, and the truth to who asks afterwards."""
    attack = set_up(trial)
    stage = attack.stage
    daemons = trial.daemons.all
    before_kb = {daemon.name: _resident_kb(daemon) for daemon in daemons}
    bulk = traffic.start_iperf(stage.client.node, stage.to, BULK_S)
    echo = traffic.start_echo(
        stage.client.node,
        stage.to,
        count=ECHO_COUNT,
        interval_s=ECHO_EVERY_S,
        from_port=ECHO_FROM,
    )
    ready = within(SEEN_LIMIT_S, lambda: all(len(rules_of(daemon)) == 3 for daemon in daemons))
    trial.check("three connections are up at all three (control)", ready)
    rightful = {daemon.name: rules_of(daemon) for daemon in daemons}
    _attack_on_path(attack, rightful)
    _attack_off_path(attack, rightful, bulk)
    _check_undisturbed(stage, bulk, echo)
    _check_daemons(trial, before_kb)
    _check_truth(attack)
    _check_shut(attack)


def _attack_on_path(attack: Attack, rightful: dict[str, set[str]]) -> None:
    """Forge (a token is good for ten seconds), replay, edit: between gate and server."""
    for name, words in (
        ("forged with the tokens", ("forge", str(attack.frozen()), "yes")),
        ("replayed", ("replay", str(attack.seen), str(REPLAYS))),
        ("edited", ("edit", str(attack.frozen()))),
    ):
        sent = attack.on_path(*words)
        _check_rules(attack.stage.trial, name, sent, rightful)
    said = attack.off_path("forge", str(attack.frozen()), "no")
    _check_rules(attack.stage.trial, "forged off the path, knowing the cids", said, rightful)


def _attack_off_path(attack: Attack, rightful: dict[str, set[str]], bulk: Process) -> None:
    """A victim's name, then a flood of good keys."""
    trial, server, client = attack.stage.trial, attack.stage.server, attack.stage.client
    in_its_name = 0
    for to in (server, client):
        words = ("spoof", str(attack.victim.address(attack.family)), str(SPOOFED // 2))
        sent = attack.off_path(*words, attack.signaling(to.node), to.public.hex())
        in_its_name += sent["bytes"]
    here = str(attack.stranger.address(attack.family))
    flood = attack.off_path(
        "flood", here, str(FLOODED), attack.signaling(server.node), server.public.hex()
    )
    trial.check("a stranger floods with good keys", flood["sent"] > 1000, flood["sent"], "OPENs")
    gone = [one for one in changes(trial, rightful) if " -" in one]
    # On a slow machine iperf3 is over by now, and perhaps only by when the last daemon answered.
    if gone and within(SEEN_LIMIT_S, lambda: bulk.ended):
        gone = [one for one in gone if f":{traffic.IPERF_PORT}" not in one]
    trial.check("which takes nobody's rules away", not gone, "; ".join(gone) or None)
    within(PENDING_GONE_S, lambda: not any(" +" in one for one in changes(trial, rightful)))
    left = [one for one in changes(trial, rightful) if " +" in one]
    name = "when a flood is over no rule of it is left"
    trial.check(name, not left, "; ".join(left[:3]) or None)
    heard = attack.victim_bytes()
    name = "the victim gets no more bytes than were sent in its name"
    trial.check(name, 0 < heard <= in_its_name, heard, f"of {in_its_name}")


def _check_rules(
    trial: Trial, name: str, sent: dict[str, int], rightful: dict[str, set[str]]
) -> None:
    """Nothing has come or gone, at the gate or at either host."""
    other = "; ".join(changes(trial, rightful))
    told = other or f"{sent['sent']} sent"
    trial.check(f"{name}: no rule has come or gone", not other and sent["sent"], told)


def _check_undisturbed(stage: Stage, bulk: Process, echo: Process) -> None:
    trial = stage.trial
    answered = traffic.echo_result(echo).answered
    name = "meanwhile every datagram of a UDP flow is answered"
    trial.check(name, answered == ECHO_COUNT, answered, f"of {ECHO_COUNT}")
    result = traffic.iperf_result(bulk, BULK_S + 10)
    fine = not result.error and result.gbit_s > 0
    trial.check("iperf3 ends well", fine, result.error or result.gbit_s, "Gbit/s")
    name = "no interval stalls: the slowest one's share of the median rate"
    trial.check(name, result.slowest_share > STALLED_SHARE, result.slowest_share)


def _check_daemons(trial: Trial, before_kb: dict[str, int]) -> None:
    for daemon in trial.daemons.all:
        alive = daemon.process is not None and not daemon.process.ended
        grown = _resident_kb(daemon) - before_kb[daemon.name] if alive else 0
        name = f"{daemon.name} lives, and has hardly grown"
        trial.check(name, alive and grown < GROWTH_KB_MAX, grown, "kB")
        dropped = status_of(daemon).dropped
        missing = REASONS[daemon.node.name] - {why for why, count in dropped.items() if count}
        said = ", ".join(f"{why} {count}" for why, count in sorted(dropped.items()) if count)
        trial.check(f"{daemon.name} says why it dropped what", not missing, said)


def _resident_kb(daemon: Daemon) -> int:
    text = Path(f"/proc/{status_of(daemon).pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))


def _check_truth(attack: Attack) -> None:
    """A box that drops is a timeout; one that refuses is a refusal, with its key on it."""
    trial, client = attack.stage.trial, attack.stage.client
    attack.router.run("nft", "-f", "-", stdin=SHUT)
    started = time.monotonic()
    fetched = traffic.curl(client.node, attack.stage.to, limit_s=TIMEOUT_LATEST_S)
    took_s = time.monotonic() - started
    newest = _newest_refusal(client)
    silent = "nobody answered" in newest.get("reason", "")
    trial.check("a box that drops is told as silence", silent, newest.get("reason", ""))
    late = TIMEOUT_S < took_s < TIMEOUT_LATEST_S + 1 and not fetched.bytes
    trial.check("which takes as long as a timeout takes", late, took_s, "s")
    key = SigningKey(os.urandom(32))
    secret = attack.router.state / "box.key"
    secret.write_text(key.seed.hex())
    refuser = attack.router.spawn_python(MODULE, "refuse", "to-gate", str(secret), ready="ready")
    refused = traffic.curl(client.node, attack.stage.to, limit_s=TIMEOUT_LATEST_S)
    newest = _newest_refusal(client)
    name = "a box that refuses is told as such, at once"
    at_once = refused.exit_code and refused.seconds < AT_ONCE_S
    trial.check(name, at_once and newest.get("reason") == REASON, refused.seconds, "s")
    by = str(newest.get("by"))
    refuser.popen.kill()
    trial.check("and by its own key", key_text(key.public)[:13] in by, by)


def _check_shut(attack: Attack) -> None:
    """A box that shows the gate's own token shuts the gate, as if it dropped; docs/security.md."""
    stage = attack.stage
    gate = stage.trial.daemons.gates[0]
    attack.router.run("nft", "delete", "table", "inet", "lab_box")
    attack.seen.write_text("")
    asking = traffic.start_echo(
        stage.client.node, stage.to, count=200, interval_s=0.01, from_port=SHUT_FROM
    )
    wire = f":{SHUT_FROM}"
    held = within(SEEN_LIMIT_S, lambda: [one for one in rules_of(gate) if wire in one])
    sent = within(SEEN_LIMIT_S, lambda: attack.on_path("shut", str(attack.seen))["sent"])
    gone = within(SEEN_LIMIT_S, lambda: not any(wire in one for one in rules_of(gate)))
    kept = all(any(wire in one for one in rules_of(host)) for host in stage.trial.daemons.hosts)
    asking.popen.kill()
    name = "a box with the token can shut the gate, and ends nothing at a host"
    told = f"{len(held)} held, {sent} sent, gone: {gone}, kept: {kept}"
    stage.trial.check(name, held and sent and gone and kept, told)


def _newest_refusal(daemon: Daemon) -> dict[str, Any]:
    refusals = daemon.why()
    return refusals[0] if refusals else {}
