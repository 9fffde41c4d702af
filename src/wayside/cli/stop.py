"""stop: have packets to this host dropped on the way."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import daemon_socket, json_option, socket_option
from .text import plain, short, span

if TYPE_CHECKING:
    from wayside.runtime.control_types import StopRecord

UNITS_S = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class Span(click.ParamType[float]):
    """A time span on the command line: `90`, `60s`, `5m`, `1h`; in seconds."""

    name = "span"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it; fails with what is wrong."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|min|h|)", str(value))
        if found is None:
            self.fail(f"{value!r} is no time span such as 60s, 5m or 1h", param, ctx)
        seconds = float(found[1]) * UNITS_S[found[2]]
        if not 1 <= seconds <= 3600:
            self.fail(f"{value!r}: a filter lasts 1 s to 1 h", param, ctx)
        return seconds


@click.command()
@click.argument("target")
@click.option("--for", "lifetime_s", type=Span(), default="60s", show_default=True, help="So long.")
@json_option
@socket_option
def stop(target: str, lifetime_s: float, as_json: bool, socket_path: Path | None) -> None:
    """Have packets to this host dropped on the way, as near to their source as a gate stands.

    TARGET is a peer (its name, key or address), for all that it has opened to this host; or one
    connection: its flow as `wayside status` shows it, or the beginning of its cid.

    \b
    wayside stop client.lab --for 5m
    """
    import msgspec

    from wayside import api

    stopped = asyncio.run(api.stop(target, lifetime_s, control=daemon_socket(socket_path)))
    if as_json:
        click.echo(msgspec.json.encode({"v": 1, "stopped": stopped}))
        return
    for one in stopped:
        click.echo(plain(_line(one)))


def _line(one: StopRecord) -> str:
    if one.by:
        who = f"{short(one.by)} drops it for {span(one.lifetime_s)}"
    elif one.closed:
        who = "the other end has closed it"
    else:
        who = f"none of {one.boxes} boxes has answered"
    return f"{one.peer} {one.service}: {one.flow}: {who}"
