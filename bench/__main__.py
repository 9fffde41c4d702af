"""wayside beside its controls: `python bench [--json] [--quick] [--only NAME]...`.

Each figure is measured in an enclosure of its own (user, mount, process and network namespace, as
the lab's scenarios are), by a file of its own; this is the outside, which starts them one after
the other, prints what they found, and ends with 1 if something fell short of its target.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
from figure import Document, Figure, single
from inside import MEASURES, main_inside, prepare
from table import show

from wayside.cli.main import tell
from wayside.lab.enclosure import Enclosure
from wayside.runtime.errors import WaysideError

HERE = Path(__file__).resolve().parent
LIMIT_S = 600.0
"""A figure that takes longer hangs; a thousand moves take half of it."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.option("--quick", is_flag=True, help="Fewer and shorter samples: for a first look only.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASURES)), help="Measure this one; repeatable."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Keep logs and outputs in this folder."
)
def main(as_json: bool, quick: bool, only: tuple[str, ...], out: Path | None) -> None:
    """Measure wayside beside its controls, in namespaces of its own."""
    figures: list[Figure] = []
    with TemporaryDirectory(prefix="wayside-bench-") as scratch:
        for name in only or MEASURES:
            click.echo(f"bench: {name}: {MEASURES[name][1]}", err=True)
            folder = (out or Path(scratch)).absolute() / name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                prepare(name, folder)
                figures += measure(name, quick, folder)
            except WaysideError as error:
                tell(error)
                sys.exit(error.exit_code)
    if as_json:
        click.echo(msgspec.json.encode(Document(figures=figures)))
    else:
        show(figures)
    sys.exit(1 if any(figure.ok is False for figure in figures) else 0)


def measure(name: str, quick: bool, folder: Path) -> list[Figure]:
    """Run one measure in an enclosure; what it found, and a figure that fell short if it failed."""
    found: list[Figure] = []
    errors = folder / "errors.txt"
    with Enclosure([str(HERE), "inside", name, str(folder), str(quick)], errors) as enclosure:
        limit = threading.Timer(LIMIT_S, enclosure.process.kill)
        limit.start()
        try:
            for line in enclosure.process.stdout or ():
                found.append(msgspec.json.decode(line, type=Figure))
            code = enclosure.process.wait()
        finally:
            limit.cancel()
    if code:
        why = (errors.read_text(errors="replace").strip() or f"exit {code}").splitlines()[-1]
        found.append(single(f"{name}: did not end well", "", 0, reach=1, note=why[:200]))
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        main_inside(*sys.argv[2:])
    else:
        main()
