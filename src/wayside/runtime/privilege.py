"""Giving privileges up for good: what parses network bytes has none.

Capabilities leave all five sets, and `no_new_privs` sees to it that no exec brings one back. User
0 without capabilities is an ordinary user who owns root's files. A thread has capabilities of its
own, so this comes before any thread is started.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from .errors import WaysideError

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW = 10, 12, 13

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITIES_MAX = 64


def drop_all() -> None:
    """Give up every capability, for this process and all it will ever start.

    Raises OSError when the kernel does not do it: then nothing may be read from the network.
    """
    keep_only(())


def keep_only(kept: Iterable[int]) -> None:
    """Give up every capability but these, of which only those that are there can be kept.

    Raises OSError when the kernel does not do it.
    """
    keep = sum(1 << capability for capability in kept)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for capability in range(_CAPABILITIES_MAX):
        if keep >> capability & 1:
            continue
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) and ctypes.get_errno() in (
            errno.EINVAL,  # the kernel's last capability was the one before
            errno.EPERM,  # without CAP_SETPCAP: no_new_privs keeps the bounding set without use
        ):
            break
    keep &= effective()
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = keep & 0xFFFFFFFF, keep >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _check(libc.capset(header, sets))
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if effective() != keep:
        raise OSError(errno.EPERM, "the kernel left capabilities that were given up")


def check_enough() -> None:
    """Raise WaysideError unless a helper started now could do its work."""
    wanted = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
    if effective() & wanted != wanted:
        raise WaysideError(
            "a daemon needs CAP_NET_ADMIN and CAP_NET_RAW to start its helper",
            why=f"user {os.geteuid()} has not got them here",
            hint="sudo, a systemd unit, or a network namespace of your own: unshare -Urnm",
            code="WS-1004",
        )


def effective() -> int:
    """The effective capabilities of this process as a bit mask."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
