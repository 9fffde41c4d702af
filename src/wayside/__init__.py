"""wayside: ask everyone on the way before data flows (the Connection Signaling Protocol).

`connect`, `listen` and `stop` are what a Python program uses; the errors that they raise are here,
too. They are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Connection, connect, listen, stop
    from .runtime.errors import (
        AgentNotRunning,
        ConfigError,
        IdentityError,
        NameUnknown,
        NoAnswer,
        Refused,
        WaysideError,
    )

__all__ = [
    "AgentNotRunning",
    "ConfigError",
    "Connection",
    "IdentityError",
    "NameUnknown",
    "NoAnswer",
    "Refused",
    "WaysideError",
    "connect",
    "listen",
    "stop",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = ".api" if name in ("Connection", "connect", "listen", "stop") else ".runtime.errors"
    return getattr(import_module(module, __name__), name)
