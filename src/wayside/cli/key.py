"""`wayside key new|show|sign`: identities."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .options import FILE

DAYS = 90
"""Short enough that a lost key is no worry for years; renewing is one command."""


@click.group()
def key() -> None:
    """Make, show and sign keys."""


@key.command()
@click.argument("file", type=FILE)
def new(file: Path) -> None:
    """Make a key in FILE (mode 0600) and print its public form."""
    from wayside.core.identity import key_text
    from wayside.runtime.keyfile import new_key

    click.echo(key_text(new_key(file).public))


@key.command()
@click.argument("file", type=FILE)
def show(file: Path) -> None:
    """Print the public form of the key in FILE."""
    from wayside.core.identity import key_text
    from wayside.runtime.keyfile import read_key

    click.echo(key_text(read_key(file).public))


@key.command()
@click.argument("domain_key", type=FILE)
@click.argument("name")
@click.argument("public")
@click.option("--days", type=click.IntRange(1, 3650), default=DAYS, show_default=True)
@click.option("-o", "--out", type=FILE, help="Write the certificate there instead of to stdout.")
def sign(domain_key: Path, name: str, public: str, days: int, out: Path | None) -> None:
    """Vouch for a NAME: sign that it belongs to the key PUBLIC, with the key file DOMAIN_KEY.

    The name's domain is what follows its first dot; boxes that have the domain's public key under
    [domains] will believe it.
    """
    from wayside.core.identity import key_from_text, sign_certificate
    from wayside.runtime.errors import IdentityError
    from wayside.runtime.keyfile import certificate_line, read_key, write_certificate

    subject = key_from_text(public)
    if subject is None:
        raise IdentityError(
            f"{public!r} is not a public key", hint="wayside key show FILE", code="WS-6003"
        )
    not_after_s = int(time.time()) + days * 86_400
    try:
        certificate = sign_certificate(read_key(domain_key), name, subject, not_after_s)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if out is None:
        click.echo(certificate_line(certificate), nl=False)
    else:
        write_certificate(out, certificate)
