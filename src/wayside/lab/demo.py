"""`wayside demo`: a laptop reaches a server by name, and moves; told while it happens.

    laptop ── home or café: a NAT ── core ── office: a firewall ── server

Unmodified programs, boxes that drop what was not signaled, a move in the middle of a download.
Every sentence that is printed was looked at first; one that turns out not to be true is printed as
such, and the demo fails. The outside prints what the inside says, then the ladder that the daemons'
logs make. The world is in demo_world.py, what is told in demo_story.py.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console

from wayside.lab import ladder, ladder_text
from wayside.lab.demo_story import Telling, play
from wayside.lab.demo_world import set_up
from wayside.lab.enclosure import Enclosure, leave_with_the_outer_process
from wayside.lab.runner import draw, empty_folder
from wayside.lab.world import ProgramFailed
from wayside.runtime import eventlog
from wayside.runtime.eventlog import Record

LIMIT_S = 100.0
"""It takes half a minute; two are what a viewer was promised."""

MOVING = ("laptop.lab", "cafe", "office", "server.lab")
REFUSING = ("laptop.lab", "cafe", "meet", "office")
"""Who takes part. A terminal is narrow: who only looks on is left to the SVG."""

BEFORE_S, AFTER_S = 0.2, 1.0
"""What belongs to the move: the laptop's first word is so much earlier than the café's."""

WORLD = """\
laptop ──┬── home ──┐
         └── café ──┴── internet ── office ── server
                           └── rendezvous

home, café: NATs. office: a firewall. All are asked first, and drop whatever nobody signaled."""


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
    """The move and the refusal in the terminal, all connections in the SVG."""
    svg = draw(folder, "wayside demo")
    records = eventlog.read(sorted(folder.glob("*.events")))
    console = Console(highlight=False)
    print("\n7. What the daemons logged of the move and of the refusal:\n")
    for shown in (move_of(records), refusal_of(records)):
        console.print(ladder_text.render(ladder.build(shown)), soft_wrap=True)
    print(f"All of it: {svg}")


def move_of(records: list[Record]) -> list[Record]:
    """What was said and done when the download came to the café."""
    web = {r.cid for r in records if r.service == "http"}
    came = next((r for r in records if r.node == "cafe" and r.cid in web), None)
    if came is None:
        return []
    about = (r for r in records if r.cid == came.cid and r.node in MOVING)
    return [r for r in about if came.time - BEFORE_S < r.time < came.time + AFTER_S]


def refusal_of(records: list[Record]) -> list[Record]:
    """What was said and done about the connection that was refused."""
    refused = {r.cid for r in records if r.event == "connection.refused"}
    return [r for r in records if r.cid in refused and r.node in REFUSING]


def main() -> None:
    """The inside: OUT."""
    leave_with_the_outer_process()
    tell = Telling()
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
