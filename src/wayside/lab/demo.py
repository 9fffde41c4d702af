"""`wayside demo`: the life of one connection through a firewall, told while it happens.

    client ──inside── gate ──outside── server

Refused with a reason, then allowed by a new policy, used by programs that know nothing of it,
closed, and the port is shut again. Every sentence that is printed was looked at first; one that
turns out not to be true is printed as such, and the demo fails. The outside prints what the inside
says, then the ladder that the daemons' logs make.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console

from wayside.core.address import Transport
from wayside.lab import firewall, ladder, ladder_text, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, within
from wayside.lab.enclosure import Enclosure, leave_with_the_outer_process
from wayside.lab.probe import arrived
from wayside.lab.runner import draw, empty_folder
from wayside.lab.scenario import Trial
from wayside.lab.stage import ALLOW_LAB, Stage, set_stage
from wayside.lab.world import ProgramFailed
from wayside.runtime import eventlog

LIMIT_S = 50.0
BULK_S = 3.0
FAMILY = 4

CLOSED_ON_SUNDAYS = """
default = "reject"

[[rule]]
name = "no-web-on-sundays"
from = ["*.lab"]
service = ["http"]
action = "reject"
reason = "the web is closed on Sundays"
"""

DRAWN = 2
"""Connections shown in the terminal: the refused one and the first allowed one."""


def main_demo(*, out: Path | None = None) -> int:
    """Run the demo; ladders and logs go below `out` (a new temporary folder when None)."""
    folder = empty_folder(out or Path(tempfile.mkdtemp(prefix="wayside-demo-")))
    with Enclosure(["-m", "wayside.lab.demo", str(folder)], folder / "errors.txt") as inside:
        limit = threading.Timer(LIMIT_S, inside.process.kill)
        limit.start()
        try:
            for line in inside.process.stdout or ():
                print(line, end="", flush=True)
            code = inside.process.wait()
        finally:
            limit.cancel()
    if code < 0:
        print(f"\nThe demo did not end within {LIMIT_S:g} s.", file=sys.stderr)
    if code:
        print(f"What the programs said is in {folder}.", file=sys.stderr)
    _show_ladder(folder)
    return 1 if code else 0


def _show_ladder(folder: Path) -> None:
    """The first connections in the terminal, all of them in the SVG."""
    svg = draw(folder, "wayside demo")
    whole = ladder.build(eventlog.read(sorted(folder.glob("*.events"))))
    first = ladder.Ladder(whole.participants, whole.sections[:DRAWN])
    print("\nWhat the daemons logged, refused and allowed:\n")
    Console(highlight=False).print(ladder_text.render(first), soft_wrap=True)
    print(f"All of it: {svg}")


class _Telling:
    """Prints sentences, and remembers whether all of them were true."""

    def __init__(self) -> None:
        self.all_true = True

    def step(self, heading: str) -> None:
        print(f"\n{heading}", flush=True)

    def say(self, sentence: str, true: object, seen: str = "") -> None:
        self.all_true &= bool(true)
        print(
            f"  {'✓' if true else '✗ NOT:'} {sentence}{f'  ({seen})' if seen else ''}", flush=True
        )


def _play(stage: Stage, tell: _Telling) -> None:
    client, server = stage.client.node, stage.server.node
    direct, to = server.address(FAMILY), stage.to
    tell.step("1. The gate drops whatever nobody signaled.")
    stray = traffic.curl(client, direct, limit_s=1.0)
    tell.say(f"curl http://{direct}/ hears nothing", stray.exit_code == 28, stray.error)

    tell.step(f"2. server.lab is {to} for every program here; an unmodified curl asks for it.")
    refused = traffic.curl(client, to)
    said = f"after {refused.seconds * 1000:.0f} ms: {refused.cause}"
    tell.say("refused, and curl knows at once", refused.exit_code == 7, said)
    why = (stage.client.why() or [{}])[0]
    seen = f"{why.get('by')}, rule {why.get('rule')}: {why.get('reason')}"
    tell.say("`wayside why` says who, which rule and why", "Sundays" in seen, seen)
    tell.say("the server saw not one packet", stage.watch.packets() == 0)

    tell.step("3. The gate's policy is changed to allow names of the lab; the gate reads it again.")
    _new_policy(stage)
    allowed = traffic.curl(client, to)
    rate = f"{allowed.bytes / 1e6:g} MB in {allowed.seconds * 1000:.0f} ms"
    tell.say("the same curl has its file", allowed.bytes == traffic.FILE_BYTES, rate)

    tell.step(f"4. iperf3 for {BULK_S:g} s: kernel TCP, no byte added, no Python in its path.")
    running = traffic.start_iperf(client, to, BULK_S)
    stray_flow = stage.wire(Transport.TCP, firewall.STRAY_PORT, traffic.IPERF_PORT)
    time.sleep(BULK_S / 3)
    passed = arrived(client, stage.watch, [stray_flow])
    tell.say("meanwhile a packet from another port is dropped", not passed, str(stray_flow))
    bulk = traffic.iperf_result(running, BULK_S + 10)
    tell.say("iperf3 ends well", bulk.gbit_s > 0, bulk.error or f"{bulk.gbit_s:.1f} Gbit/s")

    tell.step("5. The programs have closed their connections.")
    gate = stage.trial.daemons.gates[0]
    empty = within(SEEN_LIMIT_S, lambda: not gate.held())
    tell.say("the gate holds none any more", empty)
    pinhole = firewall.newest_pinhole(gate, Transport.TCP, traffic.IPERF_PORT)
    gone = pinhole and not arrived(client, stage.watch, [firewall.parse_flow(pinhole.match)])
    seen = pinhole.match if pinhole else "no pinhole was logged"
    tell.say("a packet of the very 5-tuple that carried iperf3 is dropped again", gone, seen)


def _new_policy(stage: Stage) -> None:
    gate = stage.trial.daemons.gates[0]
    policy = ALLOW_LAB.replace("DIRECTION", "out")
    (gate.node.state / "policy.toml").write_text(policy)
    if gate.process is None:
        raise ProgramFailed("the gate does not run")
    gate.process.popen.send_signal(signal.SIGHUP)
    gate.process.wait_for("policy loaded")


def main() -> None:
    """The inside: OUT."""
    leave_with_the_outer_process()
    tell = _Telling()
    print("client ── gate ── server: three namespaces, three daemons, a default-drop firewall.")
    try:
        trial = Trial(FAMILY, Path(sys.argv[1]), BULK_S)
        policy = CLOSED_ON_SUNDAYS
        _play(set_stage(trial, "gate", gate="gate", inside="client", policy=policy), tell)
    except ProgramFailed as failure:
        tell.say("every program did its work", False, str(failure))
    sys.exit(0 if tell.all_true else 1)


if __name__ == "__main__":
    main()
