"""The lab's own instruments, without a wayside daemon: worlds, wires, probes, traffic, endings."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netns.enclosed import said_inside
from wayside.lab import enclosure, traffic
from wayside.runtime.errors import WaysideError

pytestmark = pytest.mark.netns

LIMIT_S = 120.0
NAMESPACES = ("user", "mnt", "pid", "net")

INSIDE = """
import json, os, sys, time
from pathlib import Path
from wayside.lab.enclosure import leave_with_the_outer_process
from wayside.lab.world import World
leave_with_the_outer_process()
a, b = World(Path(sys.argv[1])).chain("a", "b")
a.spawn("sleep", sys.argv[2])
b.spawn("sh", "-c", "setsid sleep " + sys.argv[2] + " & disown; trap '' TERM; sleep " + sys.argv[2])
kinds = ("user", "mnt", "pid", "net")
print(json.dumps({kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}), flush=True)
time.sleep(60)
"""

OUTSIDE = """
import sys
from pathlib import Path
from wayside.lab.enclosure import Enclosure
out = Path(sys.argv[1])
with Enclosure(["-c", sys.argv[3], str(out), sys.argv[2]], out / "errors.txt") as inside:
    print(inside.process.pid, inside.process.stdout.readline(), end="", flush=True)
    inside.process.wait()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside_lab.py saw, by family."""
    out = tmp_path_factory.mktemp("lab")
    inside = Path(__file__).with_name("inside_lab.py")
    return json.loads(said_inside([inside, out], out / "errors.txt", LIMIT_S))


@pytest.mark.parametrize("family", ["4", "6"])
def test_every_kind_of_traffic_runs_and_tells_of_its_failures(
    seen: dict[str, Any], family: str
) -> None:
    found = seen[family]
    assert (found["tcp_error"], found["ssh"], found["sftp"]) == ("", "hello", "")
    assert found["tcp_gbit_s"] > 0
    assert found["udp_lost"] < 1
    assert found["curl_bytes"] == traffic.FILE_BYTES
    assert found["curl_closed"] == 7
    assert "refused" in found["errors_of_a_closed_port"][0]


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_long_wire_delays_both_directions(seen: dict[str, Any], family: str) -> None:
    """A busy machine adds to some of them, and takes nothing away."""
    rtts_ms = seen[family]["rtts_ms"]
    assert all(rtt_ms >= 20 for rtt_ms in rtts_ms)
    assert min(rtts_ms) < 35


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_watch_sees_the_probes_that_arrive_and_no_dropped_one(
    seen: dict[str, Any], family: str
) -> None:
    assert seen[family]["probes"] == ["TCP 5000", "UDP 5000"]
    assert seen[family]["packets"] >= 2


@pytest.mark.parametrize("victim", ["the outer process", "unshare"])
def test_a_killed_lab_leaves_nothing_behind(tmp_path: Path, victim: str) -> None:
    marker = f"{40 + os.getpid() % 10}.{time.monotonic_ns()}"
    interfaces, mounts = os.listdir("/sys/class/net"), Path("/proc/self/mounts").read_text()
    outer = subprocess.Popen(
        [sys.executable, "-P", "-c", OUTSIDE, str(tmp_path), marker, INSIDE],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outer.stdout
    pid, _, said = outer.stdout.readline().partition(" ")
    spaces = json.loads(said)
    assert all(spaces[kind] != os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES)
    assert len(_processes_with(marker)) >= 4
    os.kill(outer.pid if victim == "the outer process" else int(pid), signal.SIGKILL)
    outer.wait(5)
    assert _soon(lambda: not _processes_with(marker))
    assert _soon(lambda: not _processes_in(set(spaces.values())))
    assert os.listdir("/sys/class/net") == interfaces
    assert Path("/proc/self/mounts").read_text() == mounts
    assert {file.suffix for file in tmp_path.iterdir()} == {".txt"}
    outer.stdout.close()


def test_the_inside_does_not_run_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(enclosure.LIFELINE_VARIABLE, raising=False)
    with pytest.raises(WaysideError, match="without its outside"):
        enclosure.leave_with_the_outer_process()


def test_a_system_that_forbids_namespaces_is_named_with_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = ("sh", "-c", "echo unshare failed: Operation not permitted >&2; exit 1")
    monkeypatch.setattr(enclosure, "UNSHARE", refused)
    with pytest.raises(WaysideError, match="does not let this user make namespaces") as caught:
        enclosure.check_allowed()
    assert caught.value.why == "unshare failed: Operation not permitted"
    assert "sysctl" in caught.value.hint


def _soon(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _processes_with(marker: str) -> list[int]:
    """Those that have the marker among their arguments, the outer one and ourselves aside."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(marker.encode() in word for word in words):
                found.append(int(folder.name))
    return found


def _processes_in(spaces: set[str]) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if spaces & {os.readlink(folder / "ns" / kind) for kind in NAMESPACES}:
                found.append(int(folder.name))
    return found
