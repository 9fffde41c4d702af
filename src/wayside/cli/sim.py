"""`wayside sim`: worlds out of a seed, and what went wrong in one of them."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import click

from wayside.sim.runs import run_many, run_one
from wayside.sim.shrink import shrink
from wayside.sim.trace import Note
from wayside.sim.world import Result, World, world_of
from wayside.sim.worlds import WORLDS

from .options import json_option

world_option = click.option(
    "--world", type=click.Choice(list(WORLDS)), default=None, help="Only this world."
)

PROGRESS_S = 10.0
"""Between two lines of progress, on stderr: often enough to see that it lives."""


@click.group()
def sim() -> None:
    """Run the unchanged machines in made-up worlds, with everything going wrong."""


@sim.command("list")
@json_option
def list_(as_json: bool) -> int:
    """List the worlds."""
    for name, spec in WORLDS.items():
        line = {"v": 1, "world": name, "about": spec.about}
        print(json.dumps(line) if as_json else f"{name:<20}  {spec.about}")
    return 0


@sim.command()
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many.")
@click.option("--first", type=click.IntRange(0), default=1, show_default=True, help="From which.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes (default: cores).")
@world_option
@json_option
def run(seeds: int, first: int, jobs: int | None, world: str | None, as_json: bool) -> int:
    """Run many seeds; exit 0 only if every checker of every one is content."""
    began = time.monotonic()
    head = {"v": 1, "first": first, "seeds": seeds, "world": world or "each in turn"}
    say(head, as_json, f"seeds {first} to {first + seeds - 1}, world: {head['world']}")
    counts: Counter[str] = Counter()
    worlds: Counter[str] = Counter()
    told_at = began
    for result in run_many(range(first, first + seeds), world or "", jobs):
        worlds[result.world] += 1
        counts["passed" if result.ok else "failed"] += 1
        counts.update(opened=result.opened, refused=result.refused, answers=result.answers)
        counts.update(steps=result.steps, seconds=int(result.time_s))
        if not result.ok:
            tell(result, as_json)
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            done = f"seed {result.seed}: {worlds.total()} of {seeds} seeds"
            click.echo(f"{done}, {counts['failed']} failed, {told_at - began:.0f} s", err=True)
    seconds = round(time.monotonic() - began, 1)
    tail = {"v": 1, "ok": not counts["failed"], "took_s": seconds, "worlds": len(worlds)}
    say(
        {**tail, **_summary(counts)},
        as_json,
        f"{counts['passed']} ok, {counts['failed']} failed: {seeds} seeds, {len(worlds)} worlds,"
        f" {counts['steps']} events, {counts['seconds']} s of virtual time,"
        f" {counts['opened']} connections, {counts['answers']} answers, in {seconds} s",
    )
    return 1 if counts["failed"] else 0


def _summary(counts: Counter[str]) -> dict[str, int]:
    names = ("passed", "failed", "opened", "refused", "answers", "steps", "seconds")
    return {name: counts[name] for name in names}


@sim.command()
@click.argument("seed", type=click.IntRange(0))
@click.option("--connections", type=click.IntRange(0), default=2, help="Of which to draw ladders.")
@click.option("--whole", is_flag=True, help="Do not look for a shorter schedule of faults.")
@world_option
@json_option
def replay(seed: int, connections: int, whole: bool, world: str | None, as_json: bool) -> int:
    """Run one seed again, with the shortest schedule that fails, and draw what went wrong."""
    name = world or world_of(seed)
    say({"v": 1, "seed": seed, "world": name}, as_json, f"seed {seed}, world: {name}")
    result = run_one(seed, name)
    if not result.ok and not whole and result.check != "exception":
        result = shrink(result)
    tell(result, as_json)
    if not as_json and result.check != "exception":
        draw(result, connections)
    return 0 if result.ok else 1


def say(record: dict[str, Any], as_json: bool, text: str) -> None:
    """One line: for a program, or for a person."""
    print(json.dumps(record) if as_json else text, flush=True)


def tell(result: Result, as_json: bool) -> None:
    """How one run ended."""
    if as_json:
        schedule = [{**asdict(fault), "kind": fault.kind.name} for fault in result.schedule]
        record = {"v": 1, "ok": result.ok, **asdict(replace(result, schedule=()))}
        print(json.dumps({**record, "schedule": schedule}), flush=True)
        return
    verdict = "ok" if result.ok else f"{result.check}: {result.why}"
    print(f"seed {result.seed} ({result.world}) at {result.time_s:.3f} s: {verdict}", flush=True)
    print(f"  trace {result.hash or '-'}, {len(result.schedule)} faults", flush=True)
    for fault in result.schedule:
        print(f"  {fault}")
    if not result.ok:
        print(f"hint: wayside sim replay {result.seed} --world {result.world}", flush=True)


def draw(result: Result, connections: int) -> None:
    """Ladders of the connections that the failure is about, or of the last ones."""
    from rich.console import Console

    from wayside.lab.ladder import build
    from wayside.lab.ladder_text import render
    from wayside.runtime.eventlog import Record

    world = World(result.world, result.seed, result.schedule, keeps=True)
    try:
        world.run()
    finally:
        notes = world.place.trace.notes
    chosen = _concerned(notes, result.why)[-connections:] if connections else []
    records = [
        Record(note.time, note.node, note.role, note.event, cid=note.cid, **asdict(note.words))
        for note in notes
        if note.cid in chosen
    ]
    if records:
        Console().print(render(build(records)), soft_wrap=True)


def _concerned(notes: list[Note], why: str) -> list[str]:
    """The connections that a failure speaks of, by cid or 5-tuple; all where it names none."""
    asked = [note for note in notes if getattr(note.words, "type", "") == "OPEN"]
    cids = list(dict.fromkeys(note.cid for note in asked if note.event == "datagram.sent"))
    named = {
        note.cid
        for note in notes
        if note.cid[:8] in why or (getattr(note.words, "match", "") or "none") in why
    }
    return [cid for cid in cids if cid in named] or cids
