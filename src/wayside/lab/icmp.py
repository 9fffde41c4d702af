"""ICMP errors name the wire's 5-tuple; they reach the socket, which knows another.

    client ── near ──1300── far ── server

A narrow link in the middle must not stall a transfer in either direction: path MTU discovery works
through the rewriting. A signaled UDP service whose program is gone fails its client at once.
"""

from __future__ import annotations

import msgspec

from wayside.lab import traffic
from wayside.lab.daemons import SEEN_LIMIT_S, within
from wayside.lab.enclosure import PYTHON
from wayside.lab.scenario import Trial
from wayside.lab.stage import Stage, set_stage
from wayside.runtime.eventlog import Record

NARROW_MTU = 1300
CLOSED_PORT = 7999
ANSWER_LIMIT_S = 3.0

KNOCK = """
import json, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
knocking = socket.socket(family, socket.SOCK_DGRAM)
knocking.settimeout(float(sys.argv[3]))
knocking.connect((sys.argv[1], int(sys.argv[2])))
started = time.monotonic()
try:
    knocking.send(b"anybody?")
    knocking.recv(100)
    said = "an answer"
except OSError as error:
    said = type(error).__name__
print(json.dumps({"said": said, "ms": (time.monotonic() - started) * 1000}))
"""


class Knock(msgspec.Struct):
    """What a UDP program met: the name of its error, and after how long (milliseconds)."""

    said: str
    ms: float


def play(trial: Trial) -> None:
    """A narrow link, then a port that nobody listens on."""
    stage = set_stage(trial, "near", "far")
    _, near, far, _ = stage.nodes
    near.run("ip", "link", "set", "to-far", "mtu", str(NARROW_MTU))
    far.run("ip", "link", "set", "to-near", "mtu", str(NARROW_MTU))
    fetched = traffic.curl(stage.client.node, stage.to)
    got_all = fetched.bytes == traffic.FILE_BYTES
    trial.check("through a narrow link, a file comes down", got_all, fetched.seconds, "s")
    wrong = traffic.sftp_puts(stage.client.node, stage.server.node, stage.to)
    trial.check("and one goes up", not wrong, wrong or traffic.FILE_BYTES / 1e6, "MB")
    _check_closed_port(stage)


def _check_closed_port(stage: Stage) -> None:
    check = stage.trial.check
    stage.server.command("expose", str(CLOSED_PORT), str(CLOSED_PORT))
    words = (str(stage.to), str(CLOSED_PORT), str(ANSWER_LIMIT_S))
    printed = stage.client.node.run(*PYTHON, "-c", KNOCK, *words).stdout
    knock = msgspec.json.decode(printed, type=Knock)
    check("a closed UDP port refuses at once", knock.said == "ConnectionRefusedError", knock.said)
    check("well before a timeout", knock.ms < ANSWER_LIMIT_S * 1000 / 2, knock.ms, "ms")
    agreed = within(SEEN_LIMIT_S, lambda: _opened(stage))
    check("though both hosts had agreed", agreed, len(agreed), "connections")


def _opened(stage: Stage) -> list[Record]:
    records = stage.client.events()
    return [r for r in records if r.event == "connection.opened" and r.service == str(CLOSED_PORT)]
