"""`wayside host`, `gate` and `rendezvous`: read the configuration and run the daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from .options import FILE

F = TypeVar("F", bound=Callable[..., Any])
_PATHS = frozenset({"key", "state", "socket", "log", "policy", "certificate"})


def _daemon_options(function: F) -> F:
    """What all daemons take; an option goes over WAYSIDE_*, that over the file."""
    for option in (
        click.option("--lifetime-s", type=float, help="Lifetime of connections in seconds."),
        click.option("--policy", type=FILE, help="Policy file."),
        click.option("--log", type=FILE, help="Event log."),
        click.option("--socket", type=FILE, help="Control socket."),
        click.option("--state", type=click.Path(), help="Directory of what the daemon keeps."),
        click.option("--listen", type=int, help="UDP port for signaling (4747)."),
        click.option("--key", type=FILE, help="Key file."),
        click.option("--name", help="Name of this box."),
        click.option("--config", type=FILE, help="Configuration file."),
    ):
        function = option(function)
    return function


@click.command()
@_daemon_options
@click.option("--certificate", type=FILE, help="Certificate file of our name.")
def host(config: Path | None, **options: object) -> int:
    """Run the agent of this host, in the foreground.

    It gives peers virtual addresses, signals for the applications that use them, and answers for
    the services that this host offers.
    """
    from wayside.runtime.config import load_host
    from wayside.runtime.host import run_host

    return asyncio.run(run_host(load_host(config, _given(options), os.environ)))


@click.command()
@_daemon_options
@click.option("--inside", multiple=True, help="Interface of the protected side (repeatable).")
@click.option("--outside", multiple=True, help="Interface of the other side (repeatable).")
def gate(config: Path | None, **options: object) -> int:
    """Run a gate between its inside and outside interfaces, in the foreground.

    Nothing passes but what was signaled and its policy allows. SIGHUP reads the policy again.
    gate.toml may also make it a NAT ([nat]), a relay ([relay]), and name relays that its policy
    redirects to ([relays]).
    """
    from wayside.runtime.gate import run_gate
    from wayside.runtime.gate_config import load_gate

    return asyncio.run(run_gate(load_gate(config, _given(options), os.environ)))


@click.command()
@_daemon_options
@click.option("--certificate", type=FILE, help="Certificate file of our name.")
@click.option("--store", help='"sqlite" (in the state directory), or redis://host:port,host:port.')
def rendezvous(config: Path | None, **options: object) -> int:
    """Run a rendezvous, in the foreground: it knows where hosts are.

    Hosts register with it and may move; others ask it for them, and its policy says who finds
    whom. With the key of a domain it lets new hosts join (`wayside invite`). SIGHUP reads the
    policy again.
    """
    from wayside.runtime.rendezvous import run_rendezvous
    from wayside.runtime.rendezvous_config import load_rendezvous

    return asyncio.run(run_rendezvous(load_rendezvous(config, _given(options), os.environ)))


def _given(options: dict[str, object]) -> dict[str, object]:
    """The options that were given; paths count from here, not from the configuration file."""
    flags: dict[str, object] = {}
    for key, value in options.items():
        if isinstance(value, tuple):
            names = [str(name) for name in cast(tuple[object, ...], value)]
            flags |= {key: names} if names else {}
        elif key in _PATHS and value is not None:
            flags[key] = str(Path(str(value)).absolute())
        elif value is not None:
            flags[key] = value
    return flags
