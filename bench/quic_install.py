"""Puts aioquic, pinned with its hashes in quic.lock, into a folder of the run.

Only one figure wants it, so it is no dependency of the project; inside an enclosure there is no
network, so it is fetched outside, before that begins.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from wayside.runtime.errors import WaysideError

LOCK = Path(__file__).resolve().with_name("quic.lock")
LIMIT_S = 180


def install(folder: Path) -> None:
    """Raises WaysideError when pip cannot."""
    words = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps")
    to = ("--upgrade", "--target", str(packages(folder)), "-r", str(LOCK))
    pip = [sys.executable, "-m", "pip", "install", *words, *to]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        why = (done.stderr.strip() or "pip failed").splitlines()[-1]
        raise WaysideError("aioquic cannot be installed", why=why, hint="leave this measure out")


def packages(folder: Path) -> Path:
    """Where they are."""
    return folder / "packages"
