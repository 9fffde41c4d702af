"""A world that ends with its creator: user, mount, process and network namespace of its own.

A scenario runs as another process in fresh namespaces. There it is root over nothing but them, so
an ordinary user may lay links and load nftables, and nothing it does is seen outside. Four things
keep it from outliving the one who started it, however that one ends:

    outer python ── Popen ──> unshare --kill-child ──> inner python, process 1 of its namespace
         └───────────── lifeline: a pipe that nobody writes to ─────────────┘

- the inner process is the first of a process namespace: when it goes, the kernel kills the rest;
- unshare's death kills it (`--kill-child`), so killing unshare is enough to end a world;
- a thread of the inner process reads the lifeline: its end means that the outer one is gone, even
  by SIGKILL, and the inner one leaves at once;
- links, rules, mounts and the network namespaces bound below the private /run belong to the
  namespaces and vanish with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from wayside.runtime.errors import WaysideError

LIFELINE_VARIABLE = "WAYSIDE_LAB_LIFELINE"

PYTHON = (sys.executable, "-P")
"""Our interpreter, without the current folder on its path: who knows what files are there."""

UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--pid",
    "--net",
    "--fork",
    "--kill-child",
    "--mount-proc",
)

PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
"""Where ip, nft and sshd are: an ordinary user's path often lacks it."""

KILLED_WITHIN_S = 5.0
"""A SIGKILL is obeyed in milliseconds; whoever waits longer should hear of it."""


class Enclosure:
    """Python running in namespaces of its own; a context manager that ends it.

    `arguments` are the interpreter's (`-m MODULE ...`). The standard output is for the caller to
    read, standard error goes to the file `errors`. Raises WaysideError where this system does not
    let us make namespaces.
    """

    def __init__(self, arguments: Sequence[str], errors: Path) -> None:
        check_allowed()
        inner_end, self._lifeline = os.pipe()
        try:
            with errors.open("ab") as error_file:
                self.process = subprocess.Popen(
                    [*UNSHARE, *PYTHON, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=error_file,
                    pass_fds=[inner_end],
                    env={**os.environ, "PATH": PATH, LIFELINE_VARIABLE: str(inner_end)},
                    text=True,
                )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(inner_end)

    def __enter__(self) -> Enclosure:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill whatever still runs inside. Harmless when nothing does."""
        self.process.kill()
        os.close(self._lifeline)
        self.process.wait(KILLED_WITHIN_S)
        if self.process.stdout:
            self.process.stdout.close()


def leave_with_the_outer_process() -> None:
    """Inside: from now on this process ends when the one that started the enclosure does.

    Raises WaysideError when we are not inside an enclosure: what follows would change the network
    of the machine.
    """
    lifeline = os.environ.pop(LIFELINE_VARIABLE, "")
    if not lifeline or os.getpid() != 1:
        raise WaysideError(
            "this is the inside of a lab, started without its outside", hint="wayside lab run NAME"
        )

    def watch() -> None:
        os.read(int(lifeline), 1)
        os._exit(1)

    os.set_inheritable(int(lifeline), False)
    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def check_allowed() -> None:
    """Raise WaysideError unless this system lets this user make the namespaces of a lab."""
    try:
        tried = subprocess.run(
            [*UNSHARE, "true"], capture_output=True, text=True, timeout=10, check=False
        )
    except FileNotFoundError:
        raise WaysideError(
            "a lab needs the program unshare", hint="install it: apt install util-linux"
        ) from None
    if tried.returncode:
        raise WaysideError(
            "this system does not let this user make namespaces",
            why=tried.stderr.strip(),
            hint="as root: sysctl -w kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0 (whichever exists), or run as root",
        )
