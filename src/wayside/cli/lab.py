"""`wayside lab` and `wayside demo`: scenarios with real traffic, in namespaces of their own."""

from __future__ import annotations

from pathlib import Path

import click

from .options import json_option

OUT = click.Path(path_type=Path, file_okay=False)


@click.group()
def lab() -> None:
    """Run scenarios with real traffic in network namespaces of their own."""


@lab.command("list")
@json_option
def list_(as_json: bool) -> int:
    """List the scenarios."""
    from wayside.lab.runner import main_list

    return main_list(as_json=as_json)


@lab.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "all_", is_flag=True, help="Every scenario.")
@click.option("-4", "four", is_flag=True, help="IPv4 only.")
@click.option("-6", "six", is_flag=True, help="IPv6 only.")
@click.option("--out", type=OUT, help="Directory for ladders and logs.")
@json_option
def run(
    names: tuple[str, ...], all_: bool, four: bool, six: bool, out: Path | None, as_json: bool
) -> int:
    """Run scenarios; exit 0 only if every check of every one is ok."""
    from wayside.lab.runner import main_run

    if all_ == bool(names):
        raise click.UsageError("name scenarios, or --all (`wayside lab list` shows them)")
    families = (4, 6) if four == six else (4,) if four else (6,)
    return main_run(names, families=families, as_json=as_json, out=out)


@click.command()
@click.option("--out", type=OUT, help="Directory for ladders and logs.")
def demo(out: Path | None) -> int:
    """Show a laptop that moves, a flood that is stopped, a path that dies: with real traffic."""
    from wayside.lab.demo import main_demo

    return main_demo(out=out)
