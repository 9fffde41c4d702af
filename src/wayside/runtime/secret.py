"""The secret behind a box's tokens and cookies."""

from __future__ import annotations

import os
from pathlib import Path

from wayside.core.crypto import derive

from .errors import WaysideError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


SHARED = "tickets.secret"
"""In the state directory of all boxes that take each other's tickets: the same 32 bytes or more."""


def shared_secret(state: Path) -> bytes:
    """What boxes of one operator share, 32 bytes; nothing where there is no file SHARED. R-7.8.

    Raises WaysideError for a file that cannot be read, or is too short to be a secret.
    """
    path = state / SHARED
    try:
        said = path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise WaysideError(f"{path} cannot be read", why=str(error), code="WS-1006") from error
    if len(said) < 32:
        hint = f"head -c 32 /dev/urandom > {path}, and the same file on the other boxes"
        raise WaysideError(f"{path} is too short for a secret", hint=hint, code="WS-1006")
    return derive(said, b"", b"wayside shared tickets")


def boot_secret(path: Path) -> bytes:
    """A secret of 32 bytes that survives the daemon, but not the boot.

    The times in tokens are of the monotonic clock, which starts anew with the machine. What is
    kept in `path` (mode 0600) is made once. Raises WaysideError when it cannot be.
    """
    try:
        if not path.exists():
            partial = path.with_suffix(".new")
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(os.urandom(32))
            os.replace(partial, path)
        return derive(path.read_bytes()[:32], BOOT_ID.read_bytes(), b"wayside boot")
    except OSError as error:
        raise WaysideError(
            f"{path} cannot be used",
            why=error.strerror or str(error),
            hint="choose another directory with --state",
            code="WS-1006",
        ) from error
