"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)


def socket_option(function: F) -> F:
    """`--socket PATH`: which daemon to talk to."""
    return click.option(
        "--socket",
        "socket_path",
        type=FILE,
        metavar="PATH",
        help="Control socket of the daemon (WAYSIDE_SOCKET; default: that of the role that runs "
        "here: the host's, else the gate's, else the rendezvous').",
    )(function)


def family_option(function: F) -> F:
    """`-4` and `-6`: which family of addresses."""
    function = click.option("-4", "family", flag_value=4, type=int, default=4, help="IPv4.")(
        function
    )
    return click.option("-6", "family", flag_value=6, type=int, help="IPv6.")(function)


def json_option(function: F) -> F:
    """`--json`: for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def daemon_socket(chosen: Path | None) -> Path:
    """The control socket to use: as chosen, else of a role that runs here, the host's first."""
    from wayside.runtime.config import default_socket

    if chosen:
        return chosen
    sockets = [default_socket(role, os.environ) for role in ("host", "gate", "rendezvous")]
    return next((path for path in sockets if path.exists()), sockets[0])
