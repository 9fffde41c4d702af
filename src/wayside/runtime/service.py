"""What every daemon does once it runs: say that it is ready, then wait for signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

from .collector import settle
from .errors import WaysideError
from .sdnotify import notify

_log = structlog.get_logger()


async def until_told(reload: Callable[[], None]) -> None:
    """Say that we are ready, then wait for SIGTERM or SIGINT; SIGHUP reads the policy again."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, keep_old_if_bad, reload)
    settle()
    notify("READY=1")
    await stopping.wait()
    notify("STOPPING=1")


def keep_old_if_bad(reload: Callable[[], None]) -> None:
    """Reload, or say why the old policy stays."""
    try:
        reload()
    except WaysideError as error:
        _log.error("the old policy stays", what=error.what, why=error.why, hint=error.hint)
