"""The command `wayside`, watching itself: `python sampled.py COUNTS.json gate --config FILE`.

From SIGUSR2 on, a signal looks where the interpreter is, each time that a little CPU time has gone
by (1 ms, or the kernel's tick where that is longer). Time inside a library counts for the line of
ours that called it: the stack is read from the innermost frame outwards, and the first file that a
group knows decides. Written when the daemon ends.
"""

from __future__ import annotations

import atexit
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

EVERY_S = 0.001

FUNCTIONS = {
    ("crypto.py", "verify"): "signatures",
    ("crypto.py", "sign"): "signatures",
    ("crypto.py", "seal"): "tokens",
    ("crypto.py", "unseal"): "tokens",
    ("driver.py", "_log_datagram"): "event log",
    ("driver.py", "_log_installed"): "event log",
}
FILES = {
    "eventlog.py": "event log",
    "codec.py": "decode and encode",
    "messages.py": "decode and encode",
    "route.py": "tokens",
    "policy.py": "policy and names",
    "identity.py": "policy and names",
    "admission.py": "admission",
    "opening.py": "the machine",
    "timers.py": "the machine",
    "helper_client.py": "to the helper",
    "helper_messages.py": "to the helper",
    "plan.py": "to the helper",
    "udp.py": "sockets",
    "local_addresses.py": "sockets",
    "driver.py": "driver",
}


def group_of(frame: FrameType | None) -> str:
    """The group of what runs now."""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/wayside/" in path or "/asyncio/" in path:
            name = Path(path).name
            known = FUNCTIONS.get((name, frame.f_code.co_name)) or FILES.get(name)
            if known is None and "/asyncio/" in path:
                known = "asyncio"
            if known is None and path.endswith("core/gate.py"):
                known = "the machine"
            if known is not None:
                return known
        frame = frame.f_back
    return "rest"


def main() -> None:
    """Run the command with the sampler on."""
    out = Path(sys.argv[1])
    out.touch()
    counts: Counter[str] = Counter()

    def sample(_number: int, frame: FrameType | None) -> None:
        counts[group_of(frame)] += 1

    def begin(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def tell() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write_text(json.dumps(counts))

    atexit.register(tell)
    signal.signal(signal.SIGPROF, sample)
    signal.signal(signal.SIGUSR2, begin)
    sys.argv[:2] = ["wayside"]
    from wayside.cli.main import main as wayside

    wayside()


if __name__ == "__main__":
    main()
