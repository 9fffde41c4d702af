"""`wayside invite` and `wayside join`: how a host gets a name of a domain."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import click

from .options import FILE

PLACE = click.Path(path_type=Path)
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DAYS_MAX = 365


class Span(click.ParamType[float]):
    """A time span such as `90s`, `30m`, `12h`, `1d`; comes out as seconds."""

    name = "span"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it. Raises BadParameter."""
        if isinstance(value, float):
            return value
        found = _SPAN.fullmatch(str(value))
        seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
        if not 0 < seconds <= DAYS_MAX * 86_400:
            self.fail(f"{value!r} is not a time span such as 30m, 12h or 1d", param, ctx)
        return float(seconds)


@click.command()
@click.argument("name")
@click.option("--lifetime", type=Span(), default="1d", show_default=True, help="How long it holds.")
@click.option("--config", type=FILE, help="rendezvous.toml, which says where its socket is.")
@click.option("--socket", "socket_path", type=FILE, help="Control socket of the rendezvous.")
def invite(name: str, lifetime: float, config: Path | None, socket_path: Path | None) -> None:
    """Print an invitation for one host to join under NAME: one line, to be used once.

    Run it where the rendezvous runs. Whoever has the line first has the name: give it to its
    host by a way that you trust.

    \b
    wayside invite files.lab
    wayside join wayside-invitation-1....          (on the host)
    """
    from wayside.runtime.control import ask
    from wayside.runtime.control_types import InviteReply, InviteRequest
    from wayside.runtime.rendezvous_config import load_rendezvous

    path = socket_path or load_rendezvous(config, {}, os.environ).paths.socket
    request = InviteRequest(name=name, lifetime_s=lifetime)
    click.echo(ask(path, request, InviteReply).invitation)


@click.command()
@click.argument("invitation")
@click.option("--config", type=PLACE, help="host.toml to write, or the directory for it.")
@click.option("--force", is_flag=True, help="Overwrite host.toml and the certificate.")
def join(invitation: str, config: Path | None, force: bool) -> None:
    """Join a domain by the INVITATION that its rendezvous gave out.

    Makes this host's key (host.key) if there is none, gets the certificate of the name
    (host.certificate), and writes host.toml with the rendezvous and the domain filled in. The same
    host may join again; another one may not. Refused: exit 3 (WS-3101); not an invitation, or a
    certificate that does not hold: exit 6; no answer: exit 5.
    """
    from wayside.runtime.config import config_directory
    from wayside.runtime.enrolment import Invitation
    from wayside.runtime.joining import Place
    from wayside.runtime.joining import join as join_domain

    asked = Invitation.parse(invitation)
    place = Place.of(config or config_directory(os.environ))
    for path in asyncio.run(join_domain(asked, place, force)):
        click.echo(f"wrote {path}", err=True)
    click.echo(asked.name)
    click.echo(f"hint: wayside host --config {place.config}", err=True)
