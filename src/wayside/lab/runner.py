"""Plays scenarios, each in a world of its own, and tells what they found.

This is the outside: an ordinary process with no privilege, that starts one enclosure a scenario
and family, bounds its time, and draws the ladder from the event logs that the daemons left.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from wayside.lab import ladder, ladder_mermaid, ladder_svg, ladder_text
from wayside.lab.enclosure import Enclosure
from wayside.lab.scenario import SCENARIOS, Check, summary_of
from wayside.runtime import eventlog
from wayside.runtime.errors import ConfigError, WaysideError

OUT = Path("wayside-lab")
"""Where ladders and logs go when nobody says: a folder below the current one."""

OURS = re.compile(r"\.(txt|svg|mmd|events|events\.1)$")
"""What a run writes there, and what the next one removes."""

FAMILIES = (4, 6)
BULK_S = 2.0
LIMIT_S = 90.0
"""A scenario that takes longer, on top of its bulk transfers, hangs."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `wayside lab run --json` prints, one line a scenario and family."""

    v: int = 1
    scenario: str
    family: int
    ok: bool
    seconds: float
    checks: list[Check]
    ladder: str


class ScenarioLine(msgspec.Struct, frozen=True, kw_only=True):
    """What `wayside lab list --json` prints, one line a scenario."""

    v: int = 1
    scenario: str
    summary: str


def main_list(*, as_json: bool) -> int:
    """Print the scenarios; the exit code."""
    width = max(len(name) for name in SCENARIOS)
    for name in SCENARIOS:
        line = ScenarioLine(scenario=name, summary=summary_of(name))
        print(_json(line) if as_json else f"{line.scenario:<{width}}  {line.summary}")
    return 0


def main_run(
    names: Sequence[str] = (),
    *,
    families: Iterable[int] = FAMILIES,
    as_json: bool = False,
    out: Path | None = None,
    bulk_s: float = BULK_S,
) -> int:
    """Play scenarios (none named: all) and print what they found; 0 only if every check was ok.

    Raises WaysideError: a scenario that does not exist, no namespaces here.
    """
    shown: Callable[[Check], None] = _show_nothing if as_json else _show_check
    ok = True
    for name, family in _chosen(names, families):
        if not as_json:
            print(f"\n{name} over IPv{family}: {summary_of(name)}")
        result = run(name, family, out or OUT, bulk_s=bulk_s, shown=shown)
        ok &= result.ok
        print(_json(result) if as_json else _conclusion(result), flush=True)
    return 0 if ok else 1


def run(
    name: str,
    family: int,
    out: Path,
    *,
    bulk_s: float = BULK_S,
    shown: Callable[[Check], None] | None = None,
) -> Result:
    """Play one scenario for one family (4 or 6); `shown` hears of every check as it happens.

    The ladder, the logs and what all programs printed are below `out`. `bulk_s`: length of the
    iperf3 runs in seconds. Raises WaysideError where namespaces are not allowed.
    """
    folder = empty_folder(out / f"{name}-ipv{family}")
    started = time.monotonic()
    checks: list[Check] = []
    inside = ["-m", "wayside.lab.scenario", name, str(family), str(folder), str(bulk_s)]
    with Enclosure(inside, folder / "errors.txt") as enclosure:
        limit = threading.Timer(LIMIT_S + 5 * bulk_s, enclosure.process.kill)
        limit.start()
        try:
            for line in enclosure.process.stdout or ():
                checks.append(msgspec.json.decode(line, type=Check))
                if shown:
                    shown(checks[-1])
            code = enclosure.process.wait()
        finally:
            limit.cancel()
    if code:
        why = f"exit {code}; see {folder / 'errors.txt'}"
        checks.append(Check("the scenario ran to its end", False, why))
    return Result(
        scenario=name,
        family=family,
        ok=bool(checks) and all(check.ok for check in checks),
        seconds=round(time.monotonic() - started, 2),
        checks=checks,
        ladder=str(draw(folder, f"{name}, IPv{family}")),
    )


def draw(folder: Path, title: str, order: Sequence[str] = ()) -> Path:
    """Draw the ladder of a folder's event logs as text, SVG and mermaid; the SVG's path.

    `order`: of the columns, from the left; whoever is not in it stands behind.
    """
    drawn = ladder.build(eventlog.read(sorted(folder.glob("*.events"))), order=order)
    (folder / "ladder.txt").write_text(ladder_text.render(drawn).plain)
    (folder / "ladder.mmd").write_text(ladder_mermaid.render(drawn))
    svg = folder / "ladder.svg"
    svg.write_text(ladder_svg.render(drawn, title))
    return svg


def _chosen(names: Sequence[str], families: Iterable[int]) -> list[tuple[str, int]]:
    for name in names:
        if name not in SCENARIOS:
            raise ConfigError(
                f"there is no scenario {name!r}",
                why=f"there are {', '.join(SCENARIOS)}",
                hint="wayside lab list",
                code="WS-2001",
            )
    chosen = list(families)
    return [(name, family) for name in names or SCENARIOS for family in chosen]


def empty_folder(folder: Path) -> Path:
    """A folder for one run; what an earlier run of the lab left in it goes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if OURS.search(file.name):
                file.unlink()
    except OSError as error:
        raise WaysideError(
            f"{folder} cannot be written",
            why=error.strerror or str(error),
            hint="choose another place: --out DIR",
            code="WS-1006",
        ) from error
    return folder.absolute()


def _show_check(check: Check) -> None:
    seen = "" if check.value is None else f"{check.value} {check.unit}"
    words = f"{check.name}  {seen}".replace("\n", " ").rstrip()
    print(f"  {'ok  ' if check.ok else 'FAIL'} {words}", flush=True)


def _show_nothing(_check: Check) -> None:
    """With --json only results are printed."""


def _conclusion(result: Result) -> str:
    failed = sum(not check.ok for check in result.checks)
    said = "all ok" if result.ok else f"{failed} FAILED"
    return f"  {said}: {len(result.checks)} checks in {result.seconds} s; ladder: {result.ladder}"


def _json(line: msgspec.Struct) -> str:
    return msgspec.json.encode(line).decode()
