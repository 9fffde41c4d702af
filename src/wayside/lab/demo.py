"""`wayside demo`: a laptop reaches a server by name, and moves; told while it happens.

    laptop ── home or café: a NAT ── core ── office: a firewall ── server

Unmodified programs, boxes that drop what was not signaled; a move in the middle of a download, a
flood that is stopped, a path that dies. Every sentence that is printed was looked at first; one
that turns out not to be true is printed as such, and the demo fails. The outside prints what the
inside says, then the ladders that the daemons' logs make. The world is in demo_world.py, what is
told in demo_story.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console

from wayside.lab import ladder, ladder_svg, ladder_text
from wayside.lab.demo_story import Telling, play
from wayside.lab.demo_world import set_up
from wayside.lab.enclosure import Enclosure, leave_with_the_outer_process
from wayside.lab.runner import draw, empty_folder
from wayside.lab.world import ProgramFailed
from wayside.runtime import eventlog
from wayside.runtime.eventlog import Record

LIMIT_S = 100.0
"""It takes half a minute; two are what a viewer was promised."""

WIDTHS = 80, 100
"""Characters of a line, as the terminal has it: at least, and at the most."""

EVERYBODY = ("laptop.lab", "guest.lab", "home", "cafe", "meet", "office", "server.lab")
MOVING = ("laptop.lab", "cafe", "office", "server.lab")
DYING = ("laptop.lab", "home", "cafe", "office", "server.lab")
REFUSING = ("laptop.lab", "cafe", "meet", "office")
FLOODING = ("guest.lab", "cafe", "meet", "office", "server.lab")
"""Who takes part, from the left. A terminal is narrow: who only looks on is left out there."""

BEFORE_S, AFTER_S = 0.4, 1.0
"""What belongs to a change of ways: the laptop's first word is so much earlier than the café's."""

WORLD = """\
laptop ──┬── home ──┐
         └── café ──┴── internet ── office ── server
guest ───────┘             └── rendezvous

home, café: NATs. office: a firewall. All are asked first, and drop what nobody signaled."""


def main_demo(*, out: Path | None = None) -> int:
    """Run the demo; ladders and logs go below `out` (a new temporary folder when None)."""
    folder = empty_folder(out or Path(tempfile.mkdtemp(prefix="wayside-demo-")))
    width = max(WIDTHS[0], min(shutil.get_terminal_size((WIDTHS[1], 24)).columns, WIDTHS[1]))
    words = ["-m", "wayside.lab.demo", str(folder), str(width)]
    with Enclosure(words, folder / "errors.txt") as inside:
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
    _show_ladders(folder, width)
    return 1 if code else 0


def _show_ladders(folder: Path, width: int) -> None:
    """Each part in the terminal and as a picture; all connections in a picture."""
    everything = draw(folder, "wayside demo", EVERYBODY)
    records = eventlog.read(sorted(folder.glob("*.events")))
    console = Console(highlight=False)
    print("\n9. What the daemons logged of it:")
    for name, shown, order in (
        ("the move", move_of(records), MOVING),
        ("the refusal", refusal_of(records), REFUSING),
        ("the flood", stop_of(records), FLOODING),
        ("the dead path", dead_path_of(records), DYING),
    ):
        drawn = ladder.build(shown, order=order)
        picture = folder / f"{name.replace(' ', '-')}.svg"
        picture.write_text(ladder_svg.render(drawn, f"wayside demo: {name}"))
        console.print(f"\n{name}: {picture}\n", soft_wrap=True)
        console.print(ladder_text.render(drawn, width), soft_wrap=True, end="")
    print(f"All of it: {everything}")


def move_of(records: list[Record]) -> list[Record]:
    """What was said and done when the first download came to the café."""
    return _near([r for r in records if r.node in MOVING], _came(records)[:1])


def dead_path_of(records: list[Record]) -> list[Record]:
    """The same of whoever found out, before the second download did, that home was dead."""
    for download in _came(records)[1:2]:
        since = download.time - AFTER_S
        found = [r for r in records if r.type == "OPEN" and since < r.time <= download.time]
        first = [r for r in found if (r.node, r.event) == ("cafe", "datagram.received")][:1]
        return _near([r for r in records if r.node in DYING], first)
    return []


def _came(records: list[Record]) -> list[Record]:
    """The first of each download that the café's box logged."""
    web = {r.cid for r in records if r.service == "http" and r.node == "laptop.lab"}
    first: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.time):
        if record.node == "cafe" and record.cid in web:
            first.setdefault(record.cid, record)
    return list(first.values())


def _near(records: list[Record], come: list[Record]) -> list[Record]:
    """What belongs to a connection that came to the café, from shortly before to after that."""
    return [
        record
        for record in records
        for first in come
        if record.cid == first.cid and -BEFORE_S < record.time - first.time < AFTER_S
    ]


def refusal_of(records: list[Record]) -> list[Record]:
    """What was said and done about the connection that was refused."""
    refused = {r.cid for r in records if r.event == "connection.refused"}
    return [r for r in records if r.cid in refused and r.node in REFUSING]


def stop_of(records: list[Record]) -> list[Record]:
    """What was said and done about the connection that was stopped."""
    stopped = {r.cid for r in records if r.type == "STOP"}
    return [r for r in records if r.cid in stopped and r.node in FLOODING]


def main() -> None:
    """The inside: OUT WIDTH."""
    leave_with_the_outer_process()
    tell = Telling(int(sys.argv[2]))
    print(WORLD, flush=True)
    began = time.monotonic()
    try:
        world = set_up(Path(sys.argv[1]))
        tell.step("0. The server has joined by invitation, and said where it is.")
        tell.say("all daemons run", world.to, f"set-up took {time.monotonic() - began:.0f} s")
        play(world, tell)
    except ProgramFailed as failure:
        tell.say("every program did its work", False, str(failure))
    sys.exit(0 if tell.all_true else 1)


if __name__ == "__main__":
    main()
